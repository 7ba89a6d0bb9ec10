"""The alerts, by promtool: well formed, set off by what they are for, and quiet just short of it."""

import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import yaml

from lib.chart import CHART, PROMETHEUS, TESTS, needs_prometheus, of_kind, render_4, values_of

ALERTS = CHART / "files/alerts.yaml"


@needs_prometheus
class Alerts(unittest.TestCase):
    def promtool(self, *arguments) -> subprocess.CompletedProcess:
        return subprocess.run([PROMETHEUS / "promtool", *arguments], capture_output=True, text=True, timeout=120)

    def test_each_does_what_it_says(self):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(ALERTS, Path(folder) / "alerts.yaml")
            tests = shutil.copy(TESTS / "alerts.test.yaml", folder)
            done = self.promtool("test", "rules", tests)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_each_has_a_test_that_sets_it_off(self):
        rules = [rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
        tests = yaml.safe_load((TESTS / "alerts.test.yaml").read_text())["tests"]
        fired = {one["alertname"] for test in tests for one in test["alert_rule_test"] if one["exp_alerts"]}
        self.assertEqual(fired, set(rules))

    def test_the_rendered_rules_are_the_same_less_what_is_left_out(self):
        (rule,) = of_kind(render_4(values_of(CHART / "ci/everything-values.yaml")), "PrometheusRule")
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(rule["spec"], file)
            file.flush()
            done = self.promtool("check", "rules", file.name)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        rendered = {one["alert"]: one for group in rule["spec"]["groups"] for one in group["rules"]}
        self.assertNotIn("ErrandWatchersTooSlow", rendered)
        for group in yaml.safe_load(ALERTS.read_text())["groups"]:
            for one in group["rules"]:
                if one["alert"] in rendered:
                    link = f"https://example.com/operations.md#{one['alert'].lower()}"
                    one["annotations"]["runbook_url"] = link
                    self.assertEqual(rendered.pop(one["alert"]), one)
        self.assertEqual(rendered, {})
