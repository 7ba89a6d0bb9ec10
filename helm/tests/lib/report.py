"""Runs the test modules, says how long each took, and what was skipped and why."""

import os
import sys
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent


def main() -> int:
    names = sys.argv[1:] or sorted(path.stem for path in HERE.glob("test_*.py"))
    os.chdir(HERE)
    sys.path.insert(0, str(HERE))
    skipped, failed, passed = [], 0, 0
    for name in names:
        began = time.monotonic()
        suite = unittest.defaultTestLoader.loadTestsFromName(name)
        result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2, failfast=False).run(suite)
        bad = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
        failed += bad
        skipped += result.skipped
        passed += max(0, result.testsRun - bad - len(result.skipped))
        print(f"--- {name}: {time.monotonic() - began:.1f} s\n", flush=True)
    for test, why in skipped:
        print(f"SKIPPED {test}: {why}")
    print(f"{passed} passed, {failed} failed, {len(skipped)} skipped")
    strict = os.environ.get("ERRAND_CHART_STRICT") == "1"
    return 1 if failed or (strict and skipped) or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
