"""What the chart renders: the same by both engines, valid everywhere, restricted, and of one mind with itself."""

import re
import unittest
from urllib.parse import parse_qs, urlsplit

from lib import schemas
from lib.chart import (
    CASES, CHART, KUBERNETES, NAMESPACE, by_key, environment, helm, needs_helm, of_kind, pod_of, pretty, render_3,
    render_4, values_of,
)


def rendered() -> list[tuple[str, list[dict]]]:
    return [(case.name, render_4(values_of(case))) for case in CASES]


@needs_helm
class Rendering(unittest.TestCase):
    def test_both_engines_find_nothing_to_complain_of(self):
        import helm_python

        for case in CASES:
            with self.subTest(case.name):
                helm("lint", "--strict", str(CHART), "-f", str(case))
                found = helm_python.lint(str(CHART), values_of(case), strict=True, kube_version="v1.32.0")
                worse = [message for message in found["messages"] if message["severity"] > 1]
                self.assertEqual((worse, found["errors"]), ([], []))

    def test_both_engines_render_the_same(self):
        for case in CASES:
            with self.subTest(case.name):
                old, new = by_key(render_3(values_of(case))), by_key(render_4(values_of(case)))
                self.assertEqual(sorted(old), sorted(new))
                for name, object in old.items():
                    self.assertEqual(object, new[name], pretty(name))

    def test_a_pool_of_another_name_takes_the_place_of_the_default(self):
        values = {**values_of(CASES[1]), "worker": {"pools": {"default": None, "calls": {"queues": ["calls"]}}}}
        for render in (render_3, render_4):
            names = [object["metadata"]["name"] for object in of_kind(render(values), "Deployment")]
            self.assertEqual([name for name in names if "worker" in name], ["r-errand-worker-calls"], render.__name__)

    def test_a_cluster_that_is_too_old_is_refused(self):
        with self.assertRaisesRegex(Exception, "1.29"):
            render_3(values_of(CASES[0]), "1.29")


class Validity(unittest.TestCase):
    def test_every_object_is_valid_in_every_version(self):
        for name, objects in rendered():
            for version in KUBERNETES:
                with self.subTest(case=name, kubernetes=version):
                    own = [object for object in objects if not schemas.is_custom(object)]
                    self.assertGreater(len(own), 5)
                    self.assertEqual([fault for object in own for fault in schemas.faults(object, version)], [])
            self.assertEqual([fault for object in objects for fault in schemas.nulls(object)], [], name)

    def test_custom_resources_are_what_their_definitions_know(self):
        custom = [object for _, objects in rendered() for object in objects if schemas.is_custom(object)]
        kinds = {object["kind"] for object in custom}
        self.assertEqual(kinds, {"ScaledObject", "ServiceMonitor", "PrometheusRule"})
        self.assertEqual(schemas.custom_faults(custom), [])

    def test_the_checks_themselves_find_what_is_wrong(self):
        deployment = of_kind(rendered()[0][1], "Deployment")[0]
        deployment["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 3
        deployment["spec"]["replicas"] = "two"
        found = "\n".join(schemas.faults(deployment, "1.32"))
        self.assertIn("terminationGracePeriodSecond", found)
        self.assertIn("'two' is not", found)
        old = {"apiVersion": "autoscaling/v2beta2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"}}
        self.assertIn("has no", schemas.faults(old, "1.32")[0])
        scaled = {
            "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "x"},
            "spec": {"scaleTargetRef": {"name": "d"}, "minReplicas": 1,
                     "triggers": [{"type": "redis", "metadata": {"listLength": 5}}]},
        }
        found = "\n".join(schemas.custom_faults([scaled]))
        self.assertIn("minReplicas", found)
        self.assertIn("listLength", found)


class Restricted(unittest.TestCase):
    """The restricted Pod Security Standard, and what is ours besides, for every pod: hooks and tests too."""

    ALLOWED_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}

    def faults(self, pod: dict) -> list[str]:
        spec, found = pod["spec"], []
        context = spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
            found.append("may run as root")
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            found.append("has no seccomp profile")
        found += [f"{name} is true" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
        if spec.get("automountServiceAccountToken") is not False:
            found.append("mounts a token")
        for volume in spec.get("volumes", []):
            found += [f"volume {kind}" for kind in set(volume) - {"name"} - self.ALLOWED_VOLUMES]
        for container in spec["containers"] + spec.get("initContainers", []):
            own = container.get("securityContext", {})
            if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
                found.append("may gain privileges")
            if own.get("capabilities", {}) != {"drop": ["ALL"]}:
                found.append("keeps capabilities")
            if own.get("readOnlyRootFilesystem") is not True:
                found.append("writes its root")
            if not container.get("resources", {}).get("limits", {}).get("memory"):
                found.append("has no limit of memory")
            found += [f"hostPort {port['hostPort']}" for port in container.get("ports", []) if "hostPort" in port]
            for variable in container.get("env", []):
                if re.search("(URL|KEYS?|TOKEN|SECRET|PASSWORD)$", variable["name"]) and "valueFrom" not in variable:
                    if not re.fullmatch("ERRAND_(PUBLIC_|RELAY_)?URL", variable["name"]):
                        found.append(f"{variable['name']} is no reference")
        return found

    def test_every_pod(self):
        for name, objects in rendered():
            pods = [(object, pod_of(object)) for object in objects if pod_of(object)]
            self.assertGreaterEqual(len(pods), 3)
            for object, pod in pods:
                with self.subTest(case=name, object=object["metadata"]["name"]):
                    self.assertEqual(self.faults(pod), [])

    def test_the_check_finds_a_pod_that_is_not(self):
        pod = {"spec": {"hostPID": True, "volumes": [{"name": "x", "hostPath": {"path": "/"}}], "containers": [
            {"env": [{"name": "API_TOKEN", "value": "x"}], "ports": [{"hostPort": 1}]}]}}
        self.assertEqual(len(self.faults(pod)), 11, self.faults(pod))


class Consistency(unittest.TestCase):
    def test_selectors_find_the_pods_they_mean_and_no_others(self):
        for name, objects in rendered():
            pods = {(o["kind"], o["metadata"]["name"]): pod_of(o)["metadata"]["labels"] for o in objects if pod_of(o)}

            def found(selector: dict) -> set:
                return {pod for pod, labels in pods.items() if selector.items() <= labels.items()}

            with self.subTest(name):
                for deployment in of_kind(objects, "Deployment"):
                    own = ("Deployment", deployment["metadata"]["name"])
                    self.assertEqual(found(deployment["spec"]["selector"]["matchLabels"]), {own})
                    for spread in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]:
                        self.assertEqual(found(spread["labelSelector"]["matchLabels"]), {own})
                for budget in of_kind(objects, "PodDisruptionBudget"):
                    own = ("Deployment", budget["metadata"]["name"])
                    self.assertEqual(found(budget["spec"]["selector"]["matchLabels"]), {own})
                for service in of_kind(objects, "Service"):
                    selected = found(service["spec"]["selector"])
                    self.assertTrue(selected)
                    for pod in selected:
                        self.assertTrue(pod[1].startswith(service["metadata"]["name"].removesuffix("-metrics")), pod)
                guarded = set()
                for policy in of_kind(objects, "NetworkPolicy"):
                    guarded |= found(policy["spec"]["podSelector"]["matchLabels"])
                if of_kind(objects, "NetworkPolicy"):
                    self.assertEqual(guarded, set(pods), "a policy guards every pod")

    def test_the_monitor_scrapes_every_pod_once_by_services_that_lead_nowhere_else(self):
        for name, objects in rendered():
            services = of_kind(objects, "Service")
            for service in services:
                ports = [port["name"] for port in service["spec"]["ports"]]
                headless = service["spec"].get("clusterIP") == "None"
                with self.subTest(case=name, service=service["metadata"]["name"]):
                    self.assertEqual(ports, ["metrics"] if headless else ["http"])
            for monitor in of_kind(objects, "ServiceMonitor"):
                wanted = monitor["spec"]["selector"]["matchLabels"]
                ports = {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]}
                scraped = [
                    service["spec"]["selector"] for service in services
                    if wanted.items() <= service["metadata"]["labels"].items()
                    and ports <= {port["name"] for port in service["spec"]["ports"]}
                ]
                for deployment in of_kind(objects, "Deployment"):
                    labels = pod_of(deployment)["metadata"]["labels"]
                    found = [selector for selector in scraped if selector.items() <= labels.items()]
                    self.assertEqual(len(found), 1, deployment["metadata"]["name"])

    def test_an_autoscaler_owns_the_number_or_the_deployment_does(self):
        for name, objects in rendered():
            owned = {
                scaler["spec"]["scaleTargetRef"]["name"]
                for kind in ("HorizontalPodAutoscaler", "ScaledObject") for scaler in of_kind(objects, kind)
            }
            for deployment in of_kind(objects, "Deployment"):
                with self.subTest(case=name, deployment=deployment["metadata"]["name"]):
                    self.assertNotEqual("replicas" in deployment["spec"], deployment["metadata"]["name"] in owned)

    def test_what_a_stop_can_take_fits_into_the_grace_period(self):
        for name, objects in rendered():
            for deployment in of_kind(objects, "Deployment"):
                with self.subTest(case=name, deployment=deployment["metadata"]["name"]):
                    spec = deployment["spec"]["template"]["spec"]
                    container = spec["containers"][0]
                    env = {name: variable.get("value") for name, variable in environment(container).items()}
                    pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
                    if container["args"][0] == "worker":
                        stop = int(env["ERRAND_WORKER__DRAIN_SECONDS"]) + int(env["ERRAND_WORKER__LEASE_SECONDS"]) + 10
                    else:
                        stop = 3 * int(env["ERRAND_SERVER__DRAIN_SECONDS"]) + 5
                    stop += int(env.get("ERRAND_TELEMETRY__FLUSH_SECONDS", 0))
                    self.assertGreaterEqual(spec["terminationGracePeriodSeconds"], pause + stop)

    def test_probes_ask_the_metrics_port_and_only_readiness_asks_for_the_database(self):
        for name, objects in rendered():
            for deployment in of_kind(objects, "Deployment"):
                container = deployment["spec"]["template"]["spec"]["containers"][0]
                paths = {kind: container[kind]["httpGet"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
                self.assertEqual({probe["port"] for probe in paths.values()}, {"metrics"})
                self.assertEqual(
                    [paths[kind]["path"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")],
                    ["/livez", "/livez", "/readyz"],
                )
                listen = environment(container)["ERRAND_METRICS__LISTEN"]["value"]
                port = {port["name"]: port["containerPort"] for port in container["ports"]}["metrics"]
                self.assertEqual(listen, f"0.0.0.0:{port}")

    def test_scaling_asks_the_api_of_the_pools_own_queues(self):
        seen = 0
        for name, objects in rendered():
            deployments = {object["metadata"]["name"]: object for object in of_kind(objects, "Deployment")}
            services = {object["metadata"]["name"]: object for object in of_kind(objects, "Service")}
            for scaled in of_kind(objects, "ScaledObject"):
                seen += 1
                target = deployments[scaled["spec"]["scaleTargetRef"]["name"]]
                env = environment(target["spec"]["template"]["spec"]["containers"][0])
                triggers = {trigger["name"]: trigger for trigger in scaled["spec"]["triggers"]}
                self.assertEqual(sorted(triggers), ["busy", "late", "work"])
                for trigger in triggers.values():
                    self.assertEqual((trigger["type"], trigger["metricType"]), ("metrics-api", "AverageValue"))
                    self.assertEqual(sorted(trigger["metadata"]), ["targetValue", "url", "valueLocation"])
                    url = urlsplit(trigger["metadata"]["url"])
                    host = url.hostname.split(".")
                    self.assertEqual((host[1:], url.path), ([NAMESPACE, "svc"], "/scaling"))
                    self.assertIn(url.port, [port["port"] for port in services[host[0]]["spec"]["ports"]])
                    queues = parse_qs(url.query)["queues"][0].split(",")
                    self.assertEqual(pretty(queues).split(), pretty(eval(env["ERRAND_WORKER__QUEUES"]["value"])).split())
                concurrency = int(env["ERRAND_WORKER__CONCURRENCY"]["value"])
                self.assertLessEqual(float(triggers["work"]["metadata"]["targetValue"]), concurrency)
                self.assertEqual(triggers["busy"]["metadata"]["targetValue"], "1")
                self.assertEqual(scaled["spec"]["fallback"]["behavior"], "currentReplicasIfHigher")
                self.assertGreaterEqual(scaled["spec"]["minReplicaCount"], 1)
        self.assertEqual(seen, 2)

    def test_the_migration_runs_before_all_else_or_as_a_plain_job_of_its_own_name(self):
        for name, objects in rendered():
            (job,) = of_kind(objects, "Job")
            hooked = "helm.sh/hook" in job["metadata"].get("annotations", {})
            self.assertEqual(hooked, name != "no-hooks-values.yaml")
            if hooked:
                spec = job["spec"]["template"]["spec"]
                self.assertNotIn("serviceAccountName", spec, "not there yet when the hook runs")
                used = {volume.get("configMap", {}).get("name") for volume in spec["volumes"]} - {None}
                self.assertEqual(used, set())
        values = values_of(next(case for case in CASES if case.name == "no-hooks-values.yaml"))
        names = set()
        for tag in ("1", "2", "2"):
            names.add(of_kind(render_4({**values, "image": {"tag": tag}}), "Job")[0]["metadata"]["name"])
        self.assertEqual(len(names), 2, "another image is another Job, the same image the same")

    def test_every_process_of_the_fleet_has_the_keys_that_seal_and_the_migration_has_not(self):
        objects = render_4(values_of(next(case for case in CASES if case.name == "everything-values.yaml")))
        for object in of_kind(objects, "Deployment"):
            sealing = environment(pod_of(object)["spec"]["containers"][0])["ERRAND_SECRETS__KEYS"]
            self.assertEqual(sealing["valueFrom"]["secretKeyRef"], {"name": "errand-sealing", "key": "keys"})
        (job,) = of_kind(objects, "Job")
        self.assertNotIn("ERRAND_SECRETS__KEYS", environment(pod_of(job)["spec"]["containers"][0]))

    def test_the_fleet_tells_the_collector_and_may_reach_it(self):
        for name, objects in rendered():
            values = values_of(CHART / "ci" / name)
            told = values.get("telemetry", {})
            for object in of_kind(objects, "Deployment"):
                env = environment(pod_of(object)["spec"]["containers"][0])
                self.assertEqual("ERRAND_TELEMETRY__OTLP_ENDPOINT" in env, "endpoint" in told, name)
                if told:
                    self.assertEqual(env["ERRAND_TELEMETRY__OTLP_ENDPOINT"]["value"], told["endpoint"])
                    self.assertEqual(env["ERRAND_TELEMETRY__SAMPLE_RATIO"]["value"], str(told["sampleRatio"]))
                    key = env["ERRAND_TELEMETRY__OTLP_HEADERS"]["valueFrom"]["secretKeyRef"]
                    self.assertEqual(key, {"name": told["existingSecret"], "key": told["headersKey"]})
            where = values.get("networkPolicy", {}).get("collector", {}).get("to")
            for policy in of_kind(objects, "NetworkPolicy"):
                component = policy["metadata"]["name"].rsplit("-", 1)[1]
                reaches = any(rule.get("to") == where for rule in policy["spec"]["egress"])
                self.assertEqual(reaches, bool(where) and component in ("api", "relay", "worker"), component)

    def test_the_direct_url_is_the_migrations_alone(self):
        objects = render_4(values_of(next(case for case in CASES if case.name == "everything-values.yaml")))
        keys = {
            object["metadata"]["name"]: environment(pod_of(object)["spec"]["containers"][0])
            ["ERRAND_DATABASE_URL"]["valueFrom"]["secretKeyRef"]["key"]
            for kind in ("Deployment", "Job") for object in of_kind(objects, kind)
        }
        self.assertEqual(keys.pop("fleet-migrate"), "direct")
        self.assertEqual(set(keys.values()), {"pooled"})
