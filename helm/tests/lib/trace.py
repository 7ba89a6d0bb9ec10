"""Traces of load: recorded from a running Errand, for the simulation.

    python3 lib/trace.py record URL KEY > traces/mine.csv         what the tenant's finished jobs were
    python3 lib/trace.py drive URL KEY day|burst|long             loads an Errand for four minutes, to be recorded

A trace is one job a line: when it was due, and how long it ran, in seconds. `record --times 60` stretches both: `drive`
plays four hours in four minutes. Drive an `errand dev` with ERRAND_ENGINES__ECHO__WORD_DELAY_MS=250 and
ERRAND_WORKER__CONCURRENCY=2000, so that each job begins at once and runs a quarter of a second a word.
"""

import argparse
import json
import math
import random
import sys
import time
import urllib.request
from datetime import datetime

HOURS, FASTER, WORD_SECONDS = 4, 60, 0.25


def call(url: str, key: str, path: str, body=None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url + path, data, headers), timeout=30) as answer:
        return json.load(answer)


def seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def record(url: str, key: str, times: float) -> None:
    rows, cursor = [], ""
    while cursor is not None:
        page = call(url, key, f"/api/v1/jobs?state=completed&limit=200&cursor={cursor}")
        rows += [
            (seconds(job["run_at"]), seconds(job["finished_at"]) - seconds(job["started_at"])) for job in page["items"]
        ]
        cursor = page["next_cursor"]
    rows.sort()
    print("due_seconds,run_seconds")
    for due, run in rows:
        print(f"{(due - rows[0][0]) * times:.1f},{max(run * times, 1):.1f}")


def day(at: float, dice: random.Random) -> tuple[float, float]:
    """(jobs a second, how long the next one runs): a morning, a noon, an afternoon."""
    rate = 0.04 + 0.35 * max(0.0, math.sin(math.pi * at / (HOURS * 3600))) * (0.6 + 0.4 * math.cos(4 * math.pi * at / (HOURS * 3600)))
    return rate, dice.lognormvariate(math.log(45), 1.0)


def burst(at: float, dice: random.Random) -> tuple[float, float]:
    """Little, and three times five hundred jobs within a minute."""
    return (8.0 if at % 4800 < 60 and at > 60 else 0.02), dice.lognormvariate(math.log(40), 0.6)


def long(at: float, dice: random.Random) -> tuple[float, float]:
    """Agents at work for minutes to the better part of an hour; nothing new in the last hour and a half."""
    return (0.03 if at < 9000 else 0.0005), dice.lognormvariate(math.log(600), 0.8)


def drive(url: str, key: str, load: str) -> None:
    dice = random.Random(load)
    shape = {"day": day, "burst": burst, "long": long}[load]
    began, jobs, at = time.monotonic(), [], 0.0
    while at < HOURS * 3600:
        rate, run = shape(at, dice)
        if rate * 5 > dice.random():  # at most one job each five seconds where the rate is low
            for _ in range(max(1, round(rate * 5))):
                _, run = shape(at, dice)
                words = max(1, round(min(run, 2700) / FASTER / WORD_SECONDS))
                jobs.append({"prompt": " ".join(["word"] * words), "engineType": "echo"})
        at += 5
        wait = at / FASTER - (time.monotonic() - began)
        if wait > 0:
            for job in jobs:
                call(url, key, "/api/v1/agent/tasks", job)
            jobs = []
            time.sleep(max(0, at / FASTER - (time.monotonic() - began)))
    print(f"{load}: driven", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["record", "drive"])
    parser.add_argument("url")
    parser.add_argument("key")
    parser.add_argument("load", nargs="?", choices=["day", "burst", "long"])
    parser.add_argument("--times", type=float, default=1.0)
    given = parser.parse_args()
    if given.what == "record":
        record(given.url, given.key, given.times)
    else:
        drive(given.url, given.key, given.load)


if __name__ == "__main__":
    main()
