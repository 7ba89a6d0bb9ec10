"""The documents say what is there: the README's values, the schema's, the alerts' paragraphs, the image's parts."""

import json
import re
import subprocess
import unittest

import yaml

from lib import readme, services
from lib.chart import CHART, PROJECT

OPERATIONS = PROJECT / "docs/operations.md"


class Values(unittest.TestCase):
    def test_the_readme_shows_the_values_as_they_are(self):
        message = "run: python -m lib.readme --write (in helm/tests, with ERRAND_CHART_TOOLS set)"
        self.assertEqual(readme.README.read_text(), readme.written(), message)

    def test_the_schema_knows_the_values_and_nothing_else(self):
        schema = json.loads((CHART / "values.schema.json").read_text())

        def resolve(node: dict) -> dict:
            return schema["definitions"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node

        def compare(node: dict, value, path: str):
            node = resolve(node)
            if "properties" not in node:
                return
            self.assertIs(node.get("additionalProperties"), False, path)
            known = set(node["properties"]) - {"global"}
            # Resources may name any resource, and more than the defaults do.
            if path.endswith("resources"):
                self.assertLessEqual(set(value), known)
            else:
                self.assertEqual(known, set(value), path)
            for name, below in value.items():
                compare(node["properties"][name], below, f"{path}.{name}")

        values = yaml.safe_load(readme.VALUES.read_text())
        compare(schema, values, "")

    def test_every_object_of_the_schema_is_closed_or_a_plain_map(self):
        def walk(node, path: str):
            if isinstance(node, dict):
                if node.get("type") == "object" and "properties" in node:
                    self.assertIs(node.get("additionalProperties"), False, path)
                for name, below in node.items():
                    walk(below, f"{path}/{name}")
            elif isinstance(node, list):
                for number, below in enumerate(node):
                    walk(below, f"{path}/{number}")

        walk(json.loads((CHART / "values.schema.json").read_text()), "")


class Alerts(unittest.TestCase):
    def test_every_alert_has_its_paragraph_and_every_paragraph_its_alert(self):
        groups = yaml.safe_load((CHART / "files/alerts.yaml").read_text())["groups"]
        alerts = [rule["alert"] for group in groups for rule in group["rules"]]
        described = re.findall(r"^### (Errand\w+)$", OPERATIONS.read_text(), re.MULTILINE)
        self.assertEqual(described, alerts)

    def test_alerts_and_dashboard_speak_of_metrics_that_are_in_the_code(self):
        source = (PROJECT / "common/src/telemetry/metric.rs").read_text()
        known = set(re.findall(r'= "(errand_\w+)";', source))
        self.assertGreater(len(known), 10)
        for file in ("files/alerts.yaml", "files/dashboard.json"):
            text = (CHART / file).read_text()
            used = {re.sub("_(bucket|count|sum)$", "", name) for name in re.findall(r"\berrand_[a-z_]+", text)}
            self.assertLessEqual(used, known, file)


class Commands(unittest.TestCase):
    @unittest.skipUnless(services.errand(), "no build of errand")
    def test_every_command_that_a_document_names_is_there_with_its_options(self):
        files = [OPERATIONS, CHART / "README.md", CHART / "templates/NOTES.txt"]
        named = {words for file in files for words in re.findall(r"^\s*errand((?: [a-z]+)+(?: --[a-z-]+)?)", code(file.read_text()), re.M)}
        self.assertGreater(len(named), 8)
        for words in sorted(named):
            parts = words.split()
            option = parts.pop() if parts[-1].startswith("--") else ""
            with self.subTest(words):
                # The last word may be an argument.
                for command in filter(None, (parts, parts[:-1])):
                    done = subprocess.run([services.errand(), *command, "--help"], capture_output=True, text=True, timeout=20)
                    if done.returncode == 0:
                        break
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertIn(option, done.stdout)


def code(text: str) -> str:
    """What stands in back quotes and in blocks of code."""
    blocks = re.findall(r"```.*?```", text, re.DOTALL)
    return "\n".join(blocks + re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))


class Dashboard(unittest.TestCase):
    def test_panels_are_numbered_once_and_do_not_overlap(self):
        board = json.loads((CHART / "files/dashboard.json").read_text())
        numbers = [panel["id"] for panel in board["panels"]]
        self.assertEqual(len(numbers), len(set(numbers)))
        taken = set()
        for panel in board["panels"]:
            place = panel["gridPos"]
            cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
            self.assertTrue(place["x"] + place["w"] <= 24 and not cells & taken, panel["title"])
            taken |= cells
