"""What others' linters say: of the YAML as people read it, and of the objects as a cluster gets them."""

import json
import subprocess
import tempfile
import unittest
from pathlib import Path

import yaml

from lib.chart import CASES, CHART, TESTS, TOOLS, needs_checkov, render_4, values_of

RULES = {
    "extends": "default",
    "rules": {
        # A value and what it means stand in one line.
        "line-length": "disable",
        "document-start": "disable",
        "comments": {"min-spaces-from-content": 1},
        "braces": {"max-spaces-inside": 0},
    },
}

# What checkov would have, and why it is not so here.
ACCEPTED = {
    "CKV_K8S_15": "images are pulled as `image.pullPolicy` says",
    "CKV_K8S_43": "a digest is the user's to give: `image.digest`",
    "CKV_K8S_11": "no limit of CPU: it would slow down what has room",
    "CKV_K8S_8": "a trial ends: nobody probes it",
    "CKV_K8S_9": "likewise",
    "CKV_K8S_35": "secrets come as variables: a file would have to be read anew by every engine's program",
}


class Text(unittest.TestCase):
    def test_yaml_is_written_as_yamllint_likes_it(self):
        files = [CHART / "Chart.yaml", CHART / "values.yaml", CHART / "files/alerts.yaml", TESTS / "alerts.test.yaml", *CASES]
        command = [TOOLS / "python/bin/yamllint", "--strict", "--format", "parsable", "-d", json.dumps(RULES), *files]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        self.assertEqual((done.returncode, done.stdout), (0, ""))


@needs_checkov
class Objects(unittest.TestCase):
    def failed(self, objects: list[dict]) -> dict[str, set[str]]:
        """Checks that fail, each with the objects it fails for."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "rendered.yaml"
            file.write_text(yaml.safe_dump_all(objects))
            command = [TOOLS / "checkov/bin/checkov", "--framework", "kubernetes", "--file", file, "--output", "json",
                       "--quiet", "--skip-download"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=folder)
        self.assertIn(done.returncode, (0, 1), done.stderr)
        report = json.loads(done.stdout)
        self.assertGreater(report["summary"]["passed"], 10, report["summary"])
        found: dict[str, set[str]] = {}
        for check in report["results"]["failed_checks"]:
            found.setdefault(f"{check['check_id']} {check['check_name']}", set()).add(check["resource"])
        return found

    def test_checkov_finds_nothing_but_what_is_meant(self):
        seen = set()
        # With each switch on, and with as many off as may be.
        for name in ("everything-values.yaml", "small-values.yaml"):
            with self.subTest(name):
                values = values_of(CHART / "ci" / name)
                accepted = set(ACCEPTED)
                if not values["networkPolicy"].get("enabled", True):
                    accepted.add("CKV2_K8S_6")
                found = self.failed(render_4(values))
                seen |= {name.split()[0] for name in found}
                self.assertEqual({name: where for name, where in found.items() if name.split()[0] not in accepted}, {})
        self.assertEqual(set(ACCEPTED) - seen, set(), "accepted, and never found")

    def test_checkov_finds_what_is_wrong(self):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "y"},
               "spec": {"hostPID": True, "containers": [{"name": "x", "image": "x", "securityContext": {"privileged": True}}]}}
        names = {name.split()[0] for name in self.failed([pod, *render_4(values_of(CASES[0]))])}
        self.assertLessEqual({"CKV_K8S_16", "CKV_K8S_17"}, names)
