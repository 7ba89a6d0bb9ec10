"""The rendered pods as real processes, against PostgreSQL and Redis: probes, migration, trial, scaling, outages, stops.

The tests follow each other in the order of their numbers, as an installation's life does.
"""

import base64
import json
import subprocess
import tempfile
import time
import unittest
from pathlib import Path
from urllib.parse import quote

import yaml

from lib import model_server, services
from lib.chart import CHART, PROMETHEUS, key, needs_prometheus, of_kind, render_4, values_of
from lib.pods import Namespace, Pod, fetch
from lib.services import wait_until

KEY = "errand_0123456789abcdef0123456789abcdef"


@unittest.skipIf(services.missing(), services.missing())
class Live(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.services = services.Services()
        cls.addClassCleanup(cls.services.stop)
        cls.model = model_server.start()
        cls.addClassCleanup(cls.model.server_close)
        cls.addClassCleanup(cls.model.shutdown)
        cls.far = f"http://127.0.0.1:{cls.model.server_port}"
        values = values_of(CHART / "ci/small-values.yaml")
        values["config"] = (
            f'[outbound]\nallow = ["127.0.0.0/8"]\n[engines]\ndefault = "echo"\n[engines.echo]\nword_delay_ms = 20\n'
            f'[engines.model]\ntype = "openai_compatible"\nbase_url = "{cls.far}/v1"\nmodel = "m"\n'
        )
        values["worker"]["pools"]["default"] = {"autoscaling": {"enabled": True, "maxReplicas": 4, "lateSeconds": 1}}
        secrets = {
            "errand-database": {"url": cls.services.database_url},
            "errand-redis": {"url": cls.services.redis_url},
            "errand-auth": {"bootstrap-key": KEY},
            "errand-sealing": {"list": json.dumps([f"trial:{base64.b64encode(bytes(32)).decode()}"])},
        }
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.namespace = Namespace(render_4(values), secrets, Path(folder.name))
        cls.addClassCleanup(cls.namespace.end)
        cls.running: dict[str, Pod] = {}

    def call(self, path: str, body=None, headers: dict | None = None) -> tuple[int, dict]:
        head = {"Authorization": f"Bearer {KEY}", **(headers or {})}
        status, text = fetch(self.running["r-errand-api"].url("http") + f"/api/v1{path}", head, body)
        return status, json.loads(text) if status else {"detail": text}

    def task(self, words: int, engine: str = "echo") -> str:
        status, body = self.call("/agent/tasks", {"prompt": "word " * words, "engineType": engine})
        self.assertEqual(status, 202, body)
        return body["taskId"]

    def knock(self, port: int) -> str:
        """Has a worker look for a gateway where nobody listens."""
        status, gateway = self.call("/gateways", {"name": "away", "url": f"ws://127.0.0.1:{port}"})
        self.assertEqual(status, 200, gateway)
        status, job = self.call(f"/agents/{gateway['main_agent_id']}/provision", {})
        self.assertEqual(status, 202, job)
        return job["job_id"]

    def ended(self, job: str) -> dict:
        return wait_until(f"{job} ends", lambda: (found := self.call(f"/jobs/{job}")[1]).get("finished_at") and found, 60)

    def scaling(self) -> dict[str, float]:
        """What KEDA reads: each trigger's number."""
        (scaled,) = of_kind(self.namespace.rendered, "ScaledObject")
        numbers = {}
        for trigger in scaled["spec"]["triggers"]:
            status, text = fetch(self.namespace.resolved(trigger["metadata"]["url"]))
            self.assertEqual(status, 200, text)
            numbers[trigger["name"]] = json.loads(text)[trigger["metadata"]["valueLocation"]]
        return numbers

    def test_1_what_starts_before_the_migration_says_what_to_do_and_ends(self):
        for name in self.namespace.deployments():
            code, said = self.namespace.pod("Deployment", name).run(30)
            self.assertNotEqual(code, 0, name)
            self.assertIn("errand migrate", said)
        self.namespace.pods.clear()

    def test_2_the_migration_makes_the_schema_and_does_nothing_twice(self):
        (job,) = of_kind(self.namespace.rendered, "Job")
        for said in ("migrations were applied", "up to date"):
            code, output = self.namespace.pod("Job", key(job)[3]).run(60)
            self.assertEqual(code, 0, output)
            self.assertIn(said, output)

    def test_3_every_pod_starts_and_is_ready_by_its_own_probes(self):
        for name in self.namespace.deployments():
            self.running[name] = self.namespace.pod("Deployment", name).start()
        for name, pod in self.running.items():
            pod.ready()
            self.assertEqual(pod.probe("liveness"), 200, name)
        self.assertEqual(len(self.running), 4)

    def test_4_the_trial_of_helm_test_sees_a_task_through_over_the_relays_websocket(self):
        trial = self.namespace.pod("Pod", "r-errand-trial")
        code, said = trial.run(60)
        self.assertEqual(code, 0, said)
        self.assertIn("completed after", said)
        relay = self.running["r-errand-relay"].url("http").replace("http", "ws")
        self.assertIn(relay.removeprefix("ws://"), trial.environment()["ERRAND_RELAY_URL"], "and not by way of the api")

    def test_5_keda_reads_work_busy_and_late_workers_and_nobody_wants_any_afterwards(self):
        calm = self.scaling()
        self.assertEqual(calm, {"work": 0, "busy": 0, "late": 0})
        # Four slots: the fifth waits, and with lateSeconds 1 is soon late.
        tasks = [self.task(400) for _ in range(5)]
        busy = wait_until("one is busy, and one job late", lambda: (n := self.scaling())["busy"] and n["late"] and n, 20)
        self.assertEqual(busy, {"work": 5, "busy": 1, "late": 1})
        for task in tasks:
            self.assertEqual(self.ended(task)["state"], "completed")
        wait_until("all is calm", lambda: self.scaling() == calm, 20)

    @needs_prometheus
    def test_6_a_prometheus_answers_every_query_of_the_dashboard_and_every_alert(self):
        config = self.namespace.folder / "prometheus.yml"
        targets = [
            {"targets": [pod.url("metrics").removeprefix("http://")],
             "labels": {"namespace": "fleet", "pod": name, "job": pod.labels["app.kubernetes.io/component"]}}
            for name, pod in self.running.items()
        ]
        config.write_text(yaml.safe_dump({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(CHART / "files/alerts.yaml")],
            "scrape_configs": [{"job_name": "errand", "honor_labels": True, "static_configs": targets}],
        }))
        port = services.free_port()
        server = subprocess.Popen(
            [PROMETHEUS / "prometheus", f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}",
             f"--storage.tsdb.path={self.namespace.folder}/tsdb"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        self.addCleanup(server.wait)
        self.addCleanup(server.terminate)

        def ask(path: str):
            status, text = fetch(f"http://127.0.0.1:{port}/api/v1/{path}")
            return json.loads(text).get("data") if status == 200 else None

        def query(text: str):
            return ask(f"query?query={quote(text)}")

        wait_until("Prometheus has seen every pod", lambda: (up := query("sum(up)")) and up["result"] and up["result"][0]["value"][1] == str(len(targets)), 30)
        knocking = self.knock(services.free_port())
        ended = [self.task(3), self.task(3, "model")]
        for path in ("/fine", "/missing"):
            body = {"kind": "http", "payload": {"method": "GET", "url": self.far + path}}
            status, answer = self.call("/jobs", body)
            self.assertEqual(status, 202, answer)
            ended.append(answer["job_id"])
        states = [self.ended(job)["state"] for job in ended]
        self.assertEqual(states, ["completed", "completed", "completed", "failed"])
        time.sleep(5)
        # Once more, so that every counter has moved while it was watched.
        for _ in range(2):
            self.ended(self.task(2, "model"))
        time.sleep(3)

        board = json.loads((CHART / "files/dashboard.json").read_text())
        queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
        self.assertGreater(len(queries), 20)
        for text in queries:
            with self.subTest(query=text):
                found = query(text.replace("$namespace", ".*").replace("$__rate_interval", "1m"))
                self.assertTrue(found and found["result"], "no answer")
        rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
        self.assertGreater(len(rules), 5)
        self.assertEqual([rule["name"] for rule in rules if rule["health"] != "ok"], [])
        self.assertEqual(self.call(f"/jobs/{knocking}/cancel", {})[0], 200)
        firing = [rule["name"] for rule in rules if rule["state"] == "firing"]
        self.assertEqual(firing, [], "an installation that is well is quiet")

    def test_7_an_outage_takes_readiness_and_restarts_nothing(self):
        api, worker = self.running["r-errand-api"], self.running["r-errand-worker-default"]
        self.services.stop_redis()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            self.assertEqual({name: pod.probe("liveness") for name, pod in self.running.items()}, dict.fromkeys(self.running, 200))
            self.assertEqual(api.probe("readiness"), 200, "a job can still be made durable")
        self.assertEqual(self.ended(self.task(2))["state"], "completed", "without Redis")
        self.services.start_redis()

        self.services.stop_postgres()
        for pod in (api, worker):
            wait_until(f"{pod.name} is not ready", lambda: pod.probe("readiness") == 503, 30)
        self.assertEqual({name: pod.probe("liveness") for name, pod in self.running.items()}, dict.fromkeys(self.running, 200))
        self.assertIn("errand_store_up 0", fetch(api.url("metrics") + "/metrics")[1])
        self.assertEqual(fetch(self.namespace.resolved("http://r-errand-api-metrics.fleet.svc:9090/scaling?queues=default"))[0], 503)
        self.services.start_postgres()
        for pod in self.running.values():
            wait_until(f"{pod.name} is ready again", lambda: pod.probe("readiness") == 200, 60)
        self.assertIn("errand_store_up 1", fetch(api.url("metrics") + "/metrics")[1])
        self.assertEqual(self.ended(self.task(2))["state"], "completed")
        self.assertEqual([name for name, pod in self.running.items() if pod.process.poll() is not None], [])

    def test_8_a_worker_stops_within_its_grace_hands_back_and_spends_no_attempt(self):
        worker = self.running["r-errand-worker-default"]
        short, long = self.task(50), self.task(3000)
        wait_until("both run", lambda: all(self.call(f"/jobs/{job}")[1]["state"] == "running" for job in (short, long)), 20)
        drain = int(worker.environment()["ERRAND_WORKER__DRAIN_SECONDS"])
        code, took = worker.stop()
        self.assertEqual(code, 0, worker.tail())
        self.assertGreaterEqual(took, drain, "it waits for what runs")
        self.assertLess(took, worker.spec["terminationGracePeriodSeconds"])
        self.assertEqual(self.call(f"/jobs/{short}")[1]["state"], "completed", "what is short is finished")
        job = self.call(f"/jobs/{long}")[1]
        self.assertEqual((job["state"], job["attempt"]), ("queued", 1), "what is long is handed back")
        print(f"\n  worker: {took:.1f} s of {worker.spec['terminationGracePeriodSeconds']}", flush=True)
        self.assertEqual(self.call(f"/jobs/{long}/cancel", {})[0], 200)

    def test_9_apis_and_relays_stop_within_theirs_and_finish_what_they_were_asked(self):
        # Nobody takes from this queue now: the answer is held for as long as it was asked for.
        url = self.running["r-errand-api"].url("http") + "/api/v1/agent/tasks"
        waiting = subprocess.Popen(
            ["curl", "-sS", "-w", "%{http_code}", "-o", "/dev/null", "-H", f"Authorization: Bearer {KEY}", "-H", "Prefer: wait=2",
             "-H", "Content-Type: application/json", "-d", '{"prompt": "x"}', url], stdout=subprocess.PIPE, text=True,
        )
        time.sleep(0.5)
        for name in ("r-errand-api", "r-errand-relay", "r-errand-worker-slow"):
            pod = self.running[name]
            code, took = pod.stop()
            self.assertEqual(code, 0, pod.tail())
            self.assertLess(took, pod.spec["terminationGracePeriodSeconds"])
            print(f"\n  {name}: {took:.1f} s of {pod.spec['terminationGracePeriodSeconds']}", flush=True)
        self.assertEqual(waiting.communicate(timeout=20)[0], "202")
