"""The simulation of scaling: right in the small, and on the recorded traces what the documents say of it."""

import re
import unittest

from lib import simulate
from lib.chart import PROJECT, TESTS

BEGIN, END = "<!-- simulation -->\n", "<!-- end of simulation -->\n"
BACKLOG, _, OURS, LONG_DRAIN, _ = simulate.POLICIES


def pool(jobs: list[tuple[float, float]], policy: simulate.Policy) -> simulate.Pool:
    done = simulate.Pool(jobs, policy)
    done.run()
    return done


class Small(unittest.TestCase):
    def test_one_job_waits_for_nobody_and_costs_what_it_runs(self):
        done = pool([(0, 100)], OURS)
        self.assertEqual((done.all[0].waited, done.cut), (0, 0))
        self.assertAlmostEqual(done.pod_seconds, 100, delta=simulate.TICK)

    def test_a_fifth_job_waits_for_a_second_pod(self):
        done = pool([(0, 100)] * 5, OURS)
        self.assertEqual(sorted(job.waited for job in done.all), [0, 0, 0, 0, simulate.START])

    def test_a_backlog_in_hand_is_no_backlog(self):
        # Twenty long jobs: all in hand after the pods have started, so the backlog alone lets their pods go.
        jobs = [(0, 2000)] * 20
        self.assertGreater(pool(jobs, BACKLOG).killed_busy, 0)
        self.assertEqual(pool(jobs, OURS).stopped_busy, 0)

    def test_what_is_cut_short_runs_anew_and_whole(self):
        done = pool([(0, 2000)] * 20, BACKLOG)
        self.assertEqual(done.queue, [])
        self.assertGreater(done.wasted, 0)
        self.assertGreaterEqual(done.pod_seconds * simulate.SLOTS, 20 * 2000 + done.wasted)


class Recorded(unittest.TestCase):
    def test_ours_kills_fewer_and_waits_less_and_a_long_drain_kills_none(self):
        traces = sorted((TESTS / "traces").glob("*.csv"))
        self.assertGreaterEqual(len(traces), 3)
        for trace in traces:
            with self.subTest(trace.stem):
                done = dict((policy.name, pool) for policy, pool in simulate.simulate(trace))
                baseline, ours = done[BACKLOG.name], done[OURS.name]
                self.assertLess(ours.killed_busy, max(1, baseline.killed_busy))
                self.assertLess(sum(job.waited for job in ours.all), sum(job.waited for job in baseline.all))
                self.assertEqual(done[LONG_DRAIN.name].killed_busy, 0)

    def test_the_guide_shows_the_table_of_this_very_simulation(self):
        text = (PROJECT / "docs/operations.md").read_text()
        shown = re.search(f"{BEGIN}(.*?){END}", text, re.DOTALL)[1]
        tables = [simulate.table(trace) for trace in sorted((TESTS / "traces").glob("*.csv"))]
        self.assertEqual(shown.strip(), "\n".join(tables).strip(), "put what lib/simulate.py prints between the marks")
