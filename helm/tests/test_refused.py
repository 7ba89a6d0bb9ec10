"""Values that can't work are refused by both engines, each with a sentence that names the value and says what to do."""

import copy
import re
import unittest

from lib.chart import CHART, Refused, needs_helm, render_3, render_4, values_of

GOOD = values_of(CHART / "ci/everything-values.yaml")

# Where, what is put there, and what the refusal says. By the schema: engines word it, and name the value.
BY_SCHEMA = [
    ("workers", {"replicas": 1}, "workers"),
    ("worker.defaults.concurency", 4, "concurency"),
    ("worker.pools.default.queue", "x", "queue"),
    ("worker.pools", {"default": None}, "pools"),
    ("worker.pools.Big_One", {}, "Big_One"),
    ("worker.defaults.concurrency", 0, "concurrency"),
    ("worker.defaults.drainSeconds", -1, "drainSeconds"),
    ("worker.defaults.queues", [], "queues"),
    ("worker.defaults.queues", ["a,b"], "queues"),
    ("worker.pools.default.autoscaling.minReplicas", 0, "minReplicas"),
    ("api.replicas", "two", "replicas"),
    ("api.serve", ["rest", "console", "graphql"], "serve"),
    ("api.disruption.maxUnavailable", 0, "maxUnavailable"),
    ("api.resources.limits.memory", "lots", "memory"),
    ("image.digest", "sha256:abc", "digest"),
    ("image.pullPolicy", "Sometimes", "pullPolicy"),
    ("log.format", "xml", "format"),
    ("podSecurity.runAsUser", 0, "runAsUser"),
    ("metrics.serviceMonitor.interval", "often", "interval"),
    ("database.url", "postgres://u:p@h/d", "url"),
    ("sealing.keys", ["a:b"], "keys"),
    ("networkPolicy.database.ports", [70000], "ports"),
    ("telemetry.endpoint", "otel-collector:4317", "endpoint"),
    ("telemetry.endpoint", "https://user:word@collector", "endpoint"),
    ("telemetry.sampleRatio", 1.5, "sampleRatio"),
    ("telemetry.headers", "a=b", "headers"),
]

# By the chart's own checks: the sentence is ours.
BY_CHECKS = [
    ("database.existingSecret", "", "database.existingSecret: name the Secret"),
    ("redis.existingSecret", "", "redis.existingSecret: name the Secret"),
    ("api.terminationGracePeriodSeconds", 43, "api.terminationGracePeriodSeconds: 43 is too short: a stop takes up to 44 s"),
    ("relay.terminationGracePeriodSeconds", 30, "relay.terminationGracePeriodSeconds: 30 is too short"),
    ("worker.pools.reviews.terminationGracePeriodSeconds", 1800, "worker.pools.reviews.terminationGracePeriodSeconds: 1800 is too short: a stop takes up to 1844 s"),
    ("worker.defaults.terminationGracePeriodSeconds", 60, "worker.pools.default.terminationGracePeriodSeconds: 60 is too short"),
    ("api.autoscaling.minReplicas", 10, "api.autoscaling: minReplicas 10 is more than maxReplicas 9"),
    ("worker.pools.default.autoscaling.minReplicas", 21, "worker.pools.default.autoscaling: minReplicas 21"),
    ("relay.resources.requests", None, "set relay.resources.requests.cpu"),
    ("worker.pools.reviews.queues", ["default"], 'default and reviews both take from the queue "default"'),
    ("api.serve", ["relay"], "api.serve: without `rest` nobody takes requests"),
    ("relay.enabled+api.serve", [False, ["rest"]], "nobody would serve streams"),
    ("config", '[database]\nurl = "postgres://u:p@h/d"\n', "config: it becomes a ConfigMap"),
    ("config", '[worker]\nlease_seconds = 5\n', "config: the chart sets listen, lease_seconds"),
    ("worker.pools.default.env", [{"name": "OPENAI_API_KEY", "value": "sk-1"}], "worker.pools.default.env: OPENAI_API_KEY looks like a secret"),
    # (9 apis + 10 relays) × 8 and (20 + 10 workers) × 10, and as many that still drain.
    ("database.connectionLimit", 903, "may open 904 connections, and PostgreSQL has 903"),
    ("config", '[secrets]\nkeys = ["a:b"]\n', "name their Secrets in database, redis, auth, sealing and telemetry"),
    ("config", '[telemetry]\notlp_headers = "a=b"\n', "name their Secrets in database, redis, auth, sealing and telemetry"),
    ("config", 'telemetry = {otlp_headers = "a=b"}\n', "name their Secrets in database, redis, auth, sealing and telemetry"),
    ("config", 'database.url = "postgres://u:p@h/d"\n', "config: it becomes a ConfigMap"),
    ("config", '[telemetry]\nsample_ratio = 0.5\n', "set telemetry.endpoint, telemetry.sampleRatio"),
    ("networkPolicy.collector.to", [], "networkPolicy.collector.to: say where the collector"),
    ("networkPolicy.collector.to+telemetry.endpoint", [[], "https://collector:4318"], "networkPolicy.collector.to: say where the collector"),
    ("ingress.host", "", "ingress.host: say under which name"),
    ("networkPolicy.database.to", [], "networkPolicy.database.to: say where PostgreSQL is"),
    ("networkPolicy.redis.to", [], "networkPolicy.redis.to: say where Redis is"),
]


def with_change(path: str, value) -> dict:
    values = copy.deepcopy(GOOD)
    for one, put in zip(path.split("+"), value if "+" in path else [value]):
        *above, last = one.split(".")
        place = values
        for name in above:
            place = place.setdefault(name, {})
        place[last] = put
    return values


@needs_helm
class Refusals(unittest.TestCase):
    def refusals(self, path: str, value) -> list[str]:
        said = []
        for render in (render_3, render_4):
            with self.assertRaises(Refused, msg=f"{render.__name__} takes {path} = {value!r}") as raised:
                render(with_change(path, value))
            said.append(re.sub(r"\s+", " ", str(raised.exception)))
        return said

    def test_the_values_that_are_changed_are_good(self):
        render_3(GOOD)
        render_4(GOOD)

    def test_what_the_schema_knows(self):
        for path, value, named in BY_SCHEMA:
            with self.subTest(path=path, value=value):
                for said in self.refusals(path, value):
                    self.assertIn(named, said)

    def test_what_the_checks_know(self):
        for path, value, sentence in BY_CHECKS:
            with self.subTest(path=path, value=value):
                for said in self.refusals(path, value):
                    self.assertIn(sentence, said)

    def test_all_faults_are_told_at_once(self):
        values = with_change("database.existingSecret", "")
        values["redis"]["existingSecret"] = ""
        values["ingress"]["host"] = ""
        with self.assertRaises(Refused) as raised:
            render_4(values)
        for name in ("database.existingSecret", "redis.existingSecret", "ingress.host"):
            self.assertIn(name, str(raised.exception))
