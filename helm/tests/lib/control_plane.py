"""A stand-in for a cluster's API, as far as Helm asks one: discovery, objects, patches, watches; strict about schemas.

Deployments roll out, Jobs and test Pods succeed as soon as they are there. It admits and schedules nothing, and defaults
next to nothing: what passes here has not run on Kubernetes.
"""

import copy
import json
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import yaml

from . import schemas

KINDS = {
    "v1": ["ConfigMap", "Event", "Namespace", "Pod", "Secret", "Service", "ServiceAccount"],
    "apps/v1": ["Deployment", "ReplicaSet"],
    "batch/v1": ["Job"],
    "policy/v1": ["PodDisruptionBudget"],
    "autoscaling/v2": ["HorizontalPodAutoscaler"],
    "networking.k8s.io/v1": ["Ingress", "NetworkPolicy"],
    "keda.sh/v1alpha1": ["ScaledObject"],
    "monitoring.coreos.com/v1": ["PrometheusRule", "ServiceMonitor"],
}
# Lists that a strategic patch merges, and by what.
MERGE_KEYS = {
    "containers": ["name"], "env": ["name"], "volumes": ["name"], "imagePullSecrets": ["name"], "volumeMounts": ["mountPath"],
    "ports": ["containerPort", "port"], "topologySpreadConstraints": ["topologyKey"],
}


def plural(kind: str) -> str:
    lower = kind.lower()
    return lower[:-1] + "ies" if lower.endswith("y") else lower + ("es" if lower.endswith("s") else "s")


def merged(base, patch, strategic: bool, field: str = ""):
    """`base` after a JSON merge patch, or after a strategic one."""
    if isinstance(base, list) and isinstance(patch, list) and strategic:
        name = next((name for name in MERGE_KEYS.get(field, []) if any(name in item for item in base + patch)), None)
        if name:
            result = list(base)
            for item in patch:
                at = next((i for i, old in enumerate(result) if old.get(name) == item.get(name)), None)
                if item.get("$patch") == "delete":
                    result = [old for old in result if old.get(name) != item.get(name)]
                elif at is None:
                    result.append(merged({}, item, strategic))
                else:
                    result[at] = merged(result[at], item, strategic)
            return result
    if not isinstance(patch, dict):
        return patch
    if patch.get("$patch") == "replace" or not isinstance(base, dict):
        base = {}
    result = dict(base)
    order = {}
    for name, value in patch.items():
        if name.startswith("$setElementOrder/"):
            order[name.split("/", 1)[1]] = value
        elif name == "$retainKeys":
            result = {key: below for key, below in result.items() if key in value}
        elif name.startswith("$"):
            continue
        elif value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value, strategic, name)
    for name, wanted in order.items():
        result[name] = ordered(result.get(name, []), wanted)
    return result


def ordered(items: list, wanted: list) -> list:
    def place(item):
        if not isinstance(item, dict):
            return 0
        return next((i for i, keys in enumerate(wanted) if isinstance(keys, dict) and keys.items() <= item.items()), len(wanted))

    return sorted(items, key=place)


class Cluster:
    """What there is, and what was done."""

    def __init__(self, version: str):
        self.version = version
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        # (serial, type, object), for watches.
        self.events: list[tuple[int, str, dict]] = []
        self.objects: dict[tuple, dict] = {}
        self.log: list[tuple[str, str, str]] = []
        self.serial = 0

    def put(self, verb: str, api: str, kind: str, namespace: str, name: str, object: dict) -> dict:
        with self.lock:
            self.serial += 1
            known = self.objects.get((api, kind, namespace, name), {})
            meta = object.setdefault("metadata", {})
            meta.update(name=name, resourceVersion=str(self.serial))
            meta["uid"] = known.get("metadata", {}).get("uid", str(uuid.uuid4()))
            meta["creationTimestamp"] = "2026-01-01T00:00:00Z"
            meta["generation"] = known.get("metadata", {}).get("generation", 0) + 1
            if namespace:
                meta["namespace"] = namespace
            object.update(apiVersion=api, kind=kind)
            self.settle(object)
            self.objects[api, kind, namespace, name] = object
            self.log.append((verb, kind, name))
            self.tell("MODIFIED" if known else "ADDED", object)
            return object

    def remove(self, target: tuple) -> dict | None:
        with self.lock:
            object = self.objects.pop(target, None)
            if object:
                self.serial += 1
                self.log.append(("delete", target[1], target[3]))
                self.tell("DELETED", object)
                if target[1] == "Deployment":
                    self.remove(("apps/v1", "ReplicaSet", target[2], f"{target[3]}-1"))
            return object

    def tell(self, type: str, object: dict) -> None:
        self.events.append((self.serial, type, copy.deepcopy(object)))
        self.changed.notify_all()

    def settle(self, object: dict) -> None:
        """What controllers would make of it, at once."""
        kind, meta, spec = object["kind"], object["metadata"], object.get("spec", {})
        now = "2026-01-01T00:00:01Z"
        if kind == "Job":
            done = {"type": "Complete", "status": "True", "lastProbeTime": now, "lastTransitionTime": now}
            object["status"] = {"succeeded": 1, "conditions": [done], "startTime": now, "completionTime": now}
        elif kind == "Pod":
            object["status"] = {"phase": "Succeeded", "startTime": now}
        elif kind == "Service" and spec.get("clusterIP") != "None":
            spec["clusterIP"] = "10.96.0.1"
        elif kind == "Deployment":
            count = spec.setdefault("replicas", 1)
            numbers = {name: count for name in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")}
            conditions = [
                {"type": "Available", "status": "True", "lastTransitionTime": now, "reason": "MinimumReplicasAvailable"},
                {"type": "Progressing", "status": "True", "lastTransitionTime": now, "reason": "NewReplicaSetAvailable"},
            ]
            object["status"] = {**numbers, "observedGeneration": meta["generation"], "conditions": conditions}
            self.replica_set(object, count)

    def replica_set(self, deployment: dict, count: int) -> None:
        meta = deployment["metadata"]
        template = copy.deepcopy(deployment["spec"]["template"])
        template["metadata"].setdefault("labels", {})["pod-template-hash"] = "1"
        labels = template["metadata"]["labels"]
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": meta["name"], "uid": meta["uid"], "controller": True}
        body = {
            "metadata": {"labels": labels, "ownerReferences": [owner]},
            "spec": {"replicas": count, "selector": {"matchLabels": labels}, "template": template},
            "status": {"replicas": count, "readyReplicas": count, "availableReplicas": count},
        }
        self.put("settle", "apps/v1", "ReplicaSet", meta["namespace"], f"{meta['name']}-1", body)

    def listed(self, api: str, kind: str, namespace: str, query: dict) -> list[dict]:
        with self.lock:
            return [object for _, object in sorted(self.objects.items()) if selected(object, api, kind, namespace, query)]


def selected(object: dict, api: str, kind: str, namespace: str, query: dict) -> bool:
    meta = object["metadata"]
    labels = [term.split("=", 1) for term in query.get("labelSelector", "").replace("==", "=").split(",") if "=" in term]
    fields = dict(term.split("=", 1) for term in query.get("fieldSelector", "").split(",") if "=" in term)
    return (
        (object["apiVersion"], object["kind"]) == (api, kind)
        and namespace in ("", meta.get("namespace", ""))
        and fields.get("metadata.name", meta["name"]) == meta["name"]
        and all(meta.get("labels", {}).get(key) == value for key, value in labels)
    )


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def log_message(self, *_):
        pass

    def answer(self, body, status: int = 200, content_type: str = "application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, reason: str, message: str):
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message, "code": status}
        self.answer(body, status)

    def target(self):
        """(api version, kind, namespace, name) of the path; None if it is none of ours."""
        parts = [part for part in urlsplit(self.path).path.split("/") if part]
        api, rest = ("v1", parts[2:]) if parts[:1] == ["api"] else ("/".join(parts[1:3]), parts[3:])
        namespace = ""
        if rest[:1] == ["namespaces"] and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        kind = next((kind for kind in KINDS.get(api, []) if rest and plural(kind) == rest[0]), None)
        return (api, kind, namespace, rest[1] if len(rest) > 1 else "") if kind else None

    def body(self):
        text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return yaml.safe_load(text) if text else {}

    def discovery(self, path: str):
        version = self.cluster.version
        if path == "/version":
            return {"major": "1", "minor": version.split(".")[1], "gitVersion": f"v{version}.0"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            versions = [{"groupVersion": api, "version": api.split("/")[1]} for api in KINDS if "/" in api]
            groups = [{"name": v["groupVersion"].split("/")[0], "versions": [v], "preferredVersion": v} for v in versions]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        api = path.removeprefix("/apis/").removeprefix("/api/")
        if api in KINDS:
            verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
            resources = [
                {"name": plural(kind), "singularName": "", "namespaced": kind != "Namespace", "kind": kind, "verbs": verbs}
                for kind in KINDS[api]
            ]
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api, "resources": resources}
        return None

    def do_GET(self):
        split = urlsplit(self.path)
        if split.path.startswith("/openapi/"):
            return self.answer(b"", content_type="application/octet-stream")
        found = self.discovery(split.path)
        if found:
            return self.answer(found)
        target = self.target()
        if not target:
            return self.refuse(404, "NotFound", f"nothing at {split.path}")
        api, kind, namespace, name = target
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        if name:
            object = self.cluster.objects.get(target)
            return self.answer(object) if object else self.refuse(404, "NotFound", f'{plural(kind)} "{name}" not found')
        items = self.cluster.listed(api, kind, namespace, query)
        if query.get("watch") in ("1", "true"):
            if "sendInitialEvents" in query:
                return self.refuse(422, "Invalid", "sendInitialEvents is not served; list, then watch")
            return self.watch(api, kind, namespace, query, items)
        self.answer({"kind": f"{kind}List", "apiVersion": api, "metadata": {"resourceVersion": str(self.cluster.serial)}, "items": items})

    def watch(self, api: str, kind: str, namespace: str, query: dict, items: list[dict]):
        """What changes after a resource version, for some seconds: who watches comes again."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        cluster, until = self.cluster, time.monotonic() + 10
        since = int(query.get("resourceVersion") or 0)
        if not since:
            self.send([("ADDED", item) for item in items])
            since = cluster.serial
        while time.monotonic() < until:
            with cluster.lock:
                cluster.changed.wait_for(lambda: cluster.serial > since, timeout=1)
                news = [(type, object) for serial, type, object in cluster.events if serial > since]
                since = cluster.serial
            try:
                self.send([(type, object) for type, object in news if selected(object, api, kind, namespace, query)])
            except OSError:
                return

    def send(self, events: list[tuple[str, dict]]):
        for type, object in events:
            self.wfile.write(json.dumps({"type": type, "object": object}).encode() + b"\n")
        self.wfile.flush()

    def save(self, verb: str, target: tuple, object: dict, status: int = 200):
        checked = {key: value for key, value in object.items() if key != "status"}
        checked.update(apiVersion=target[0], kind=target[1])
        if not schemas.is_custom(checked):
            faults = schemas.faults(checked, self.cluster.version)
            if faults:
                return self.refuse(422, "Invalid", "; ".join(faults))
        return self.answer(self.cluster.put(verb, *target, object), status)

    def do_POST(self):
        if "protobuf" in self.headers.get("Content-Type", ""):
            return self.refuse(415, "UnsupportedMediaType", "JSON only")
        target = self.target()
        if not target:
            return self.refuse(404, "NotFound", self.path)
        object = self.body()
        target = (*target[:3], object["metadata"]["name"])
        if target in self.cluster.objects:
            return self.refuse(409, "AlreadyExists", f'{plural(target[1])} "{target[3]}" already exists')
        self.save("create", target, object, 201)

    def do_PUT(self):
        target = self.target()
        self.save("replace", target, self.body()) if target else self.refuse(404, "NotFound", self.path)

    def do_PATCH(self):
        target, patch = self.target(), self.body()
        known = self.cluster.objects.get(target)
        sort = self.headers.get("Content-Type", "")
        if sort.startswith("application/apply-patch"):
            return self.save("apply", target, patch)
        if not known:
            return self.refuse(404, "NotFound", self.path)
        self.save("patch", target, merged(copy.deepcopy(known), patch, "strategic" in sort))

    def do_DELETE(self):
        target = self.target()
        self.body()
        object = self.cluster.remove(target) if target else None
        self.answer({"kind": "Status", "status": "Success"}) if object else self.refuse(404, "NotFound", self.path)


def start(version: str) -> tuple[Cluster, ThreadingHTTPServer]:
    """Serves a new cluster on a free port of this machine."""
    cluster = Cluster(version)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"cluster": cluster}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return cluster, server


def kubeconfig(server: ThreadingHTTPServer, namespace: str) -> str:
    return json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": namespace}}],
    })


if __name__ == "__main__":
    _, serving = start(sys.argv[1])
    print(kubeconfig(serving, "default"), flush=True)
    threading.Event().wait()
