"""Compares ways of scaling a pool of workers on recorded traces of load, and prints a table.

    python3 lib/simulate.py [traces/mine.csv …]

A pool of 1 to 40 pods with 4 slots each; a new pod works after 30 s; an autoscaler looks every 15 s, and lets the youngest pods
go, as Kubernetes does. A pod that is told to stop takes nothing more and finishes its runs until its drain is over; what is
left then is cut short and waits to be run anew.
"""

import csv
import math
import random
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path

TICK, LOOK, START = 1, 15, 30
SLOTS, FEWEST, MOST = 4, 1, 40
LATE = 60


@dataclass
class Job:
    due: float
    run: float
    waits_since: float = 0
    waited: float = 0
    ends: float = 0


@dataclass(eq=False)
class Pod:
    ready: float
    runs: list[Job] = field(default_factory=list)
    stops: float | None = None


@dataclass
class Policy:
    name: str
    wish: callable
    drain: float
    window: float
    shrink: float
    idle_first: bool = False


@dataclass
class Seen:
    queued: int
    running: int
    live: int
    busy: int
    oldest: float


def backlog(seen: Seen) -> int:
    return math.ceil(seen.queued / SLOTS)


def ours(seen: Seen) -> int:
    work = math.ceil((seen.queued + seen.running) / SLOTS)
    return max(work, seen.busy, 2 * seen.live if seen.queued and seen.oldest >= LATE else 0)


POLICIES = [
    Policy("backlog alone, as Kubernetes comes (drain 30 s)", backlog, 30, 300, 1.0),
    Policy("backlog alone, drain 300 s", backlog, 300, 300, 0.25),
    Policy("work, busy, late (this chart), drain 300 s", ours, 300, 300, 0.25),
    Policy("the same, drain 1,860 s", ours, 1860, 300, 0.25),
    Policy("the same, drain 300 s, idle pods first", ours, 300, 300, 0.25, True),
]


class Pool:
    def __init__(self, jobs: list[tuple[float, float]], policy: Policy):
        self.policy, self.dice = policy, random.Random(7)
        self.coming = [Job(due, run, waits_since=due) for due, run in jobs]
        self.all = list(self.coming)
        self.queue: list[Job] = []
        self.pods = [Pod(0.0)]
        self.wishes: list[tuple[float, int]] = []
        self.pod_seconds = self.stopped_busy = self.killed_busy = self.cut = 0
        self.wasted = 0.0

    def run(self) -> None:
        at = 0.0
        while self.coming or self.queue or any(pod.runs for pod in self.pods):
            while self.coming and self.coming[0].due <= at:
                self.queue.append(self.coming.pop(0))
            self.end_runs(at)
            self.begin_runs(at)
            if at % LOOK == 0:
                self.look(at)
            self.pod_seconds += len(self.pods) * TICK
            at += TICK

    def end_runs(self, at: float) -> None:
        for pod in list(self.pods):
            pod.runs = [job for job in pod.runs if job.ends > at]
            if pod.stops is not None and (not pod.runs or at >= pod.stops):
                self.pods.remove(pod)
                if pod.runs:
                    self.killed_busy += 1
                for job in pod.runs:
                    self.cut += 1
                    self.wasted += job.run - (job.ends - at)
                    job.waits_since = at
                    self.queue.insert(0, job)

    def begin_runs(self, at: float) -> None:
        free = [pod for pod in self.pods if pod.stops is None and pod.ready <= at for _ in range(SLOTS - len(pod.runs))]
        self.dice.shuffle(free)
        for pod in free[: len(self.queue)]:
            job = self.queue.pop(0)
            job.waited += at - job.waits_since
            job.ends = at + job.run
            pod.runs.append(job)

    def look(self, at: float) -> None:
        live = [pod for pod in self.pods if pod.stops is None]
        oldest = max((at - job.waits_since for job in self.queue), default=0)
        seen = Seen(len(self.queue), sum(len(pod.runs) for pod in self.pods), len(live), sum(bool(p.runs) for p in live), oldest)
        wish = min(MOST, max(FEWEST, self.policy.wish(seen)))
        self.wishes = [(when, size) for when, size in self.wishes if when > at - self.policy.window] + [(at, wish)]
        if wish > len(live):
            grown = min(wish, max(2 * len(live), len(live) + 4))
            self.pods += [Pod(at + START) for _ in range(grown - len(live))]
            return
        target = max(size for _, size in self.wishes)
        # So much of a minute's share as one look may take.
        most = len(live) if self.policy.shrink == 1 else math.ceil(len(live) * self.policy.shrink * LOOK / 60)
        going = min(len(live) - target, most)
        order = sorted(live, key=lambda pod: (len(pod.runs), -pod.ready) if self.policy.idle_first else -pod.ready)
        for pod in order[: max(0, going)]:
            self.stopped_busy += bool(pod.runs)
            pod.stops = at + self.policy.drain


def read(path: Path) -> list[tuple[float, float]]:
    with path.open() as file:
        return sorted((float(row["due_seconds"]), float(row["run_seconds"])) for row in csv.DictReader(file))


def simulate(path: Path) -> list[tuple[Policy, Pool]]:
    jobs = read(path)
    done = []
    for policy in POLICIES:
        pool = Pool(jobs, policy)
        pool.run()
        done.append((policy, pool))
    return done


def table(path: Path) -> str:
    jobs = read(path)
    hours = jobs[-1][0] / 3600
    runs = [run for _, run in jobs]
    lines = [
        f"**{path.stem}**: {len(jobs):,} jobs due within {hours:.1f} h, running {statistics.median(runs):.0f} s (median) "
        f"to {max(runs):.0f} s", "",
        "| | busy pods stopped | killed while busy | runs cut short | work lost | pod-hours | waited p50 / p95 / max |",
        "|---|---|---|---|---|---|---|",
    ]
    for policy, pool in simulate(path):
        waits = sorted(job.waited for job in pool.all)
        spread = " / ".join(f"{waits[min(len(waits) - 1, int(len(waits) * share))]:.0f}" for share in (0.5, 0.95, 1))
        lines.append(
            f"| {policy.name} | {pool.stopped_busy} | {pool.killed_busy} | {pool.cut} | {pool.wasted / 3600:.1f} h "
            f"| {pool.pod_seconds / 3600:.1f} | {spread} s |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    given = [Path(name) for name in sys.argv[1:]]
    for trace in given or sorted((Path(__file__).resolve().parent.parent / "traces").glob("*.csv")):
        print(table(trace))
