#!/usr/bin/env python3
"""Two versions of Errand side by side on one database, during a migration, with jobs flowing.

    python3 tests/upgrade.py OLD/errand NEW/errand [--rate 20]

Boots PostgreSQL and Redis; the old version's schema, api and two workers; submits tasks at a steady rate throughout, repeating
each under its Idempotency-Key until it is answered. Meanwhile: the new version migrates; new workers and a new api join the old
ones; the old ones leave; then, as a rollback would, the old ones come back on the new schema and the new ones leave. In the end
every task must have completed, in its first attempt, with a stream that has no gap. Prints what it saw; exit status 1 if not.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "helm/tests"))

from lib.services import Services, free_port, wait_until  # noqa: E402

KEY = "errand_0123456789abcdef0123456789abcdef"


class Fleet:
    """Processes of either version on the same servers."""

    def __init__(self, services: Services):
        self.services = services
        self.apis: list[int] = []
        self.unwell: list[str] = []
        self.env = {
            "PATH": os.environ["PATH"], "HOME": str(services.folder), "ERRAND_DATABASE_URL": services.database_url,
            "ERRAND_REDIS_URL": services.redis_url, "ERRAND_AUTH__BOOTSTRAP_KEY": KEY, "ERRAND_ENGINES__ECHO__TYPE": "echo",
            "ERRAND_ENGINES__ECHO__WORD_DELAY_MS": "50", "ERRAND_WORKER__LEASE_SECONDS": "10",
        }
        self.running: list[subprocess.Popen] = []

    def start(self, program: Path, role: str) -> tuple[subprocess.Popen, int]:
        port = free_port()
        variable = "ERRAND_LISTEN" if role == "api" else "ERRAND_METRICS__LISTEN"
        log = (self.services.folder / f"{role}-{port}.log").open("w")
        env = {**self.env, variable: f"127.0.0.1:{port}"}
        process = subprocess.Popen([program, role], env=env, cwd=self.services.folder, stdout=log, stderr=log)
        self.running.append(process)
        wait_until(f"{role} on {port} is ready", lambda: get(port, "/readyz")[0] == 200, 60)
        if role == "api":
            self.apis.append(port)
        return process, port

    def stop(self, process: subprocess.Popen, port: int):
        """Takes it out of the way of requests first, as a load balancer would."""
        if port in self.apis:
            self.apis.remove(port)
            time.sleep(1)
        process.send_signal(signal.SIGTERM)
        code = process.wait(90)
        self.running.remove(process)
        if code:
            self.unwell.append(f"a process ended with {code}")

    def migrate(self, program: Path) -> str:
        done = subprocess.run([program, "migrate"], env=self.env, cwd=self.services.folder, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise SystemExit(f"{program} migrate: {done.stderr}")
        return done.stdout.strip()

    def end(self):
        for process in self.running:
            process.kill()
            process.wait()


def get(port: int, path: str, body=None, headers: dict | None = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    head = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", **(headers or {})}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, head), timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


class Load:
    """Submits until it is stopped; every submission is repeated until it is answered."""

    def __init__(self, fleet: Fleet, rate: float):
        self.fleet, self.rate = fleet, rate
        self.ids: list[str] = []
        self.repeated = 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.done.wait(1 / self.rate):
            key = {"Idempotency-Key": str(uuid.uuid4())}
            while True:
                port = self.fleet.apis[len(self.ids) % len(self.fleet.apis)]
                status, text = get(port, "/api/v1/agent/tasks", {"prompt": "one two three", "engineType": "echo"}, key)
                if status == 202:
                    self.ids.append(json.loads(text)["taskId"])
                    break
                self.repeated += 1
                if status not in (0, 429, 503):
                    self.fleet.unwell.append(f"a submission was answered {status}: {text}")
                    break
                time.sleep(0.2)

    def stop(self):
        self.done.set()
        self.thread.join()


def gaps(port: int, job: str) -> bool:
    """Whether the stream of a finished job lacks a number."""
    status, text = get(port, f"/api/v1/jobs/{job}/events")
    numbers = [json.loads(line[5:])["seq"] for line in text.splitlines() if line.startswith("data:") and '"seq"' in line]
    return status != 200 or numbers != list(range(1, len(numbers) + 1)) or not numbers


def rehearse(fleet: Fleet, old: Path, new: Path, rate: float) -> int:
    def say(what: str):
        print(f"{time.monotonic() - began:6.1f} s  {what}", flush=True)

    began = time.monotonic()
    say(f"old: {fleet.migrate(old)}")
    old_api, old_workers = fleet.start(old, "api"), [fleet.start(old, "worker") for _ in range(2)]
    load = Load(fleet, rate)
    try:
        time.sleep(5)
        say(f"new: {fleet.migrate(new)}")
        time.sleep(5)
        new_workers, new_api = [fleet.start(new, "worker") for _ in range(2)], fleet.start(new, "api")
        say("old and new run side by side")
        time.sleep(10)
        for process in (old_api, *old_workers):
            fleet.stop(*process)
        say("the old ones have left")
        time.sleep(5)
        say(f"old: {fleet.migrate(old)}")
        back = [fleet.start(old, "worker"), fleet.start(old, "worker"), fleet.start(old, "api")]
        say("rolled back: the old ones run on the new schema, beside the new ones")
        time.sleep(5)
        for process in (new_api, *new_workers):
            fleet.stop(*process)
        say("the new ones have left")
        time.sleep(5)
    finally:
        load.stop()
    say(f"{len(load.ids)} tasks submitted, {load.repeated} requests repeated")

    port = back[-1][1]
    outcomes: dict[tuple, int] = {}
    for job in load.ids:
        shown = wait_until(f"{job} ends", lambda: (found := json.loads(get(port, f"/api/v1/jobs/{job}")[1])).get("finished_at") and found, 60)
        outcomes[shown["state"], shown["attempt"]] = outcomes.get((shown["state"], shown["attempt"]), 0) + 1
    broken = sum(gaps(port, job) for job in load.ids)
    say(f"ended (state, attempt): {outcomes}; streams with a gap: {broken}; {'; '.join(fleet.unwell) or 'all ended well'}")
    well = len(load.ids) > 100 and outcomes == {("completed", 1): len(load.ids)} and not broken and not fleet.unwell
    return 0 if well else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--rate", type=float, default=20, help="tasks a second")
    given = parser.parse_args()
    services = Services()
    fleet = Fleet(services)
    try:
        return rehearse(fleet, given.old.resolve(), given.new.resolve(), given.rate)
    finally:
        fleet.end()
        services.stop()


if __name__ == "__main__":
    sys.exit(main())
