"""Rendered pods, run as processes of this machine: their command, environment, probes and grace period as they stand.

Only what a machine can't give to several at once is moved: ports, and the path of the mounted configuration. Names of Services
are resolved by the rendered Services, to the processes of the pods that they select.
"""

import json
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from .chart import environment, key, of_kind, pod_of
from .services import errand, free_port, wait_until


def fetch(url: str, headers: dict | None = None, body=None, timeout: float = 20) -> tuple[int, str]:
    """Status and text; (0, …): nobody answers."""
    data = None if body is None else json.dumps(body).encode()
    head = {"Content-Type": "application/json", **(headers or {})}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, head), timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


class Pod:
    """One container of a rendered object, as a process."""

    def __init__(self, namespace: "Namespace", object: dict):
        self.namespace, self.object, self.name = namespace, object, object["metadata"]["name"]
        self.spec = pod_of(object)["spec"]
        self.labels = pod_of(object)["metadata"].get("labels", {})
        (self.container,) = self.spec["containers"]
        self.ports = {port["name"]: free_port() for port in self.container.get("ports", [])}
        self.numbers = {port["containerPort"]: port["name"] for port in self.container.get("ports", [])}
        self.log = namespace.folder / f"{self.name}-{len(namespace.logs)}.log"
        namespace.logs.append(self.log)
        self.process: subprocess.Popen | None = None

    def environment(self) -> dict[str, str]:
        found = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(self.namespace.folder)}
        for name, variable in environment(self.container).items():
            if "valueFrom" in variable:
                reference = variable["valueFrom"]["secretKeyRef"]
                found[name] = self.namespace.secrets[reference["name"]][reference["key"]]
            else:
                found[name] = self.namespace.resolved(self.moved(variable["value"]))
        return found

    def moved(self, value: str) -> str:
        """Addresses to listen at, and the mounted configuration."""
        listen = re.fullmatch(r"0\.0\.0\.0:(\d+)", value)
        if listen:
            return f"127.0.0.1:{self.ports[self.numbers[int(listen[1])]]}"
        for mount in self.container.get("volumeMounts", []):
            volume = next(volume for volume in self.spec["volumes"] if volume["name"] == mount["name"])
            if "configMap" in volume and value.startswith(mount["mountPath"] + "/"):
                file = value.removeprefix(mount["mountPath"] + "/")
                content = self.namespace.by_name["ConfigMap", volume["configMap"]["name"]]["data"][file]
                place = self.namespace.folder / file
                # Another pod may be reading it just now.
                if not place.exists() or place.read_text() != content:
                    place.write_text(content)
                return str(place)
        return value

    def start(self) -> "Pod":
        self.process = subprocess.Popen(
            [errand(), *self.container["args"]], env=self.environment(), cwd=self.namespace.folder,
            stdin=subprocess.DEVNULL, stdout=self.log.open("w"), stderr=subprocess.STDOUT,
        )
        self.namespace.processes.append(self.process)
        return self

    def run(self, seconds: float) -> tuple[int, str]:
        """Runs it to its end: exit status, and all it said."""
        self.start()
        return self.process.wait(seconds), self.log.read_text()

    def url(self, port: str) -> str:
        return f"http://127.0.0.1:{self.ports[port]}"

    def probe(self, which: str) -> int:
        probe = self.container[f"{which}Probe"]
        return fetch(self.url(probe["httpGet"]["port"]) + probe["httpGet"]["path"], timeout=probe.get("timeoutSeconds", 1))[0]

    def ready(self) -> "Pod":
        """Started within its startup probe's patience, and ready."""
        startup = self.container["startupProbe"]
        patience = startup["failureThreshold"] * startup.get("periodSeconds", 10)
        wait_until(f"{self.name} has started:\n{self.tail()}", lambda: self.probe("startup") == 200, patience)
        wait_until(f"{self.name} is ready:\n{self.tail()}", lambda: self.probe("readiness") == 200, 30)
        return self

    def tail(self) -> str:
        return self.log.read_text()[-2000:]

    def stop(self) -> tuple[int, float]:
        """As the kubelet does: the pause, SIGTERM, and SIGKILL when the grace period has passed. (exit status, seconds)"""
        grace, began = self.spec["terminationGracePeriodSeconds"], time.monotonic()
        pause = self.container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        time.sleep(pause)
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(max(0.1, grace - pause))
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        return code, time.monotonic() - began


class Namespace:
    """What was rendered, and the processes of its pods."""

    def __init__(self, rendered: list[dict], secrets: dict[str, dict[str, str]], folder: Path):
        self.rendered, self.secrets, self.folder = rendered, secrets, folder
        self.by_name = {(key(object)[1], key(object)[3]): object for object in rendered}
        self.processes: list[subprocess.Popen] = []
        self.pods: list[Pod] = []
        self.logs: list[Path] = []

    def pod(self, kind: str, name: str) -> Pod:
        """A pod of the object; what Services select from now on."""
        pod = Pod(self, self.by_name[kind, name])
        self.pods.append(pod)
        return pod

    def resolved(self, text: str) -> str:
        """With every `service.namespace.svc:port` replaced by where a pod of the Service listens."""
        def place(match: re.Match) -> str:
            service = self.by_name["Service", match[1]]
            (port,) = [port for port in service["spec"]["ports"] if port["port"] == int(match[2])]
            pods = [pod for pod in self.pods if service["spec"]["selector"].items() <= pod.labels.items()]
            return f"127.0.0.1:{pods[-1].ports[port['targetPort']]}"

        return re.sub(r"([a-z0-9-]+)\.[a-z0-9-]+\.svc:(\d+)", place, text)

    def deployments(self) -> list[str]:
        return [object["metadata"]["name"] for object in of_kind(self.rendered, "Deployment")]

    def end(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
