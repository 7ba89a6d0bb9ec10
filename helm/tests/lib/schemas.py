"""Every fault of an object by the strict schemas of a version of Kubernetes, and by the definitions of custom resources."""

import functools
import json
import subprocess
from pathlib import Path

from .chart import TESTS, TOOLS

CUSTOM = ("keda.sh", "monitoring.coreos.com")


def is_custom(object: dict) -> bool:
    return object["apiVersion"].split("/")[0] in CUSTOM


@functools.cache
def _folder() -> Path:
    import kubernetes_validate

    return Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"


@functools.cache
def _definitions(version: str) -> dict:
    text = (_folder() / f"v{version}.0-local-strict/_definitions.json").read_text()
    return json.loads(text.replace("/api/_definitions.json#/$defs/", "#/$defs/"))["$defs"]


@functools.cache
def _validator(version: str, api_version: str, kind: str):
    from jsonschema import Draft202012Validator

    group, _, number = api_version.rpartition("/")
    name = "-".join(part for part in (kind.lower(), group.split(".")[0], number) if part)
    file = _folder() / f"v{version}.0-local-strict/{name}.json"
    if not file.exists():
        return None
    schema = json.loads(file.read_text().replace("/api/_definitions.json#/$defs/", "#/$defs/"))
    schema.pop("$id", None)
    schema["$defs"] = _definitions(version)
    return Draft202012Validator(schema)


def nulls(value, path: str = "") -> list[str]:
    """The schemas allow null everywhere; a template that renders one has forgotten something."""
    if value is None:
        return [f"{path}: null"]
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [fault for name, below in pairs for fault in nulls(below, f"{path}/{name}")]


def faults(object: dict, version: str) -> list[str]:
    """All faults by Kubernetes' own schemas; a kind without one is a fault."""
    name = f"{object['kind']} {object['metadata']['name']}"
    validator = _validator(version, object["apiVersion"], object["kind"])
    if validator is None:
        return [f"{name}: Kubernetes {version} has no {object['apiVersion']} {object['kind']}"]
    found = [f"/{'/'.join(map(str, error.path))}: {error.message[:300]}" for error in validator.iter_errors(object)]
    return [f"{name}: {fault}" for fault in found]


def custom_faults(objects: list[dict]) -> list[str]:
    """All faults of custom resources."""
    done = subprocess.run(
        ["node", TESTS / "lib/custom_resources.mjs", TOOLS],
        input=json.dumps(objects), capture_output=True, text=True, timeout=60, check=True,
    )
    return json.loads(done.stdout)
