"""Install, upgrade, rollback, test and uninstall, by both engines, on a stand-in for a cluster's API."""

import os
import tempfile
import unittest
from pathlib import Path

from lib import control_plane
from lib.chart import CHART, NAMESPACE, by_key, helm, needs_helm, render_3, render_4, values_of

# The release's name that the renderers use too.
NAME = "r"
BEFORE, AFTER = CHART / "ci/small-values.yaml", CHART / "ci/everything-values.yaml"


def hooks(objects: list[dict], which: str) -> list[dict]:
    named = [(object, object["metadata"].get("annotations", {}).get("helm.sh/hook", "")) for object in objects]
    return [object for object, hook in named if which in hook.split(",")]


def plain(objects: list[dict]) -> list[dict]:
    return [object for object in objects if "helm.sh/hook" not in object["metadata"].get("annotations", {})]


def covers(there, wanted) -> bool:
    """Whether all of `wanted` is in `there`, which may have more."""
    if isinstance(wanted, dict):
        return isinstance(there, dict) and all(name in there and covers(there[name], below) for name, below in wanted.items())
    if isinstance(wanted, list):
        return isinstance(there, list) and len(there) == len(wanted) and all(map(covers, there, wanted))
    return there == wanted


class Release(unittest.TestCase):
    def setUp(self):
        self.cluster, self.server = control_plane.start("1.32")
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.kubeconfig = Path(folder.name) / "kubeconfig"
        self.kubeconfig.write_text(control_plane.kubeconfig(self.server, NAMESPACE))
        self.kubeconfig.chmod(0o600)
        self.env = {"KUBECONFIG": str(self.kubeconfig), "HOME": folder.name}

    def assert_there(self, rendered: list[dict]):
        """What was rendered is there, whole, and of the release nothing else."""
        wanted = by_key(plain(rendered))
        there = {
            (api, kind, namespace, name): object for (api, kind, namespace, name), object in self.cluster.objects.items()
            if kind not in ("ReplicaSet", "Secret", "Job", "Pod")
            and "helm.sh/hook" not in object["metadata"].get("annotations", {})
        }
        self.assertEqual(sorted(there), sorted(key for key in wanted if key[1] not in ("Job", "Pod")))
        for name, object in there.items():
            self.assertTrue(covers(object, wanted[name]), f"{name}:\n{object}\nis not\n{wanted[name]}")

    def assert_migrated_first(self, since: int):
        log = [(verb, kind) for verb, kind, _ in self.cluster.log[since:] if kind != "Secret"]
        made = [kind for verb, kind in log if verb in ("create", "patch", "apply")]
        self.assertIn("Job", made)
        self.assertLess(made.index("Job"), made.index("Deployment"), log)

    @needs_helm
    def test_helm_3(self):
        def run(*arguments):
            return helm(*arguments, "--namespace", NAMESPACE, env=self.env)

        run("install", NAME, str(CHART), "-f", str(BEFORE), "--wait", "--timeout", "60s")
        before = render_3(values_of(BEFORE))
        self.assert_there(before)
        self.assert_migrated_first(0)
        since = len(self.cluster.log)
        run("upgrade", NAME, str(CHART), "-f", str(AFTER), "--wait", "--timeout", "60s")
        self.assert_there(render_3(values_of(AFTER)))
        self.assert_migrated_first(since)
        since = len(self.cluster.log)
        run("rollback", NAME, "1", "--wait", "--timeout", "60s")
        self.assert_there(before)
        self.assertNotIn("Job", [kind for _, kind, _ in self.cluster.log[since:]], "a rollback migrates nothing")
        self.assertIn("Succeeded", run("test", NAME, "--timeout", "60s"))
        self.assertIn(("create", "Pod", "r-errand-trial"), self.cluster.log)
        history = run("history", NAME)
        self.assertEqual([line.count("superseded") for line in history.splitlines()[1:]], [1, 1, 0], history)
        run("uninstall", NAME)
        left = {(kind, name) for _, kind, _, name in self.cluster.objects}
        # A hook's object is nobody's: the migration's guard stays behind, as the README says.
        self.assertEqual(left, {("NetworkPolicy", "fleet-migration")})

    def test_helm_4(self):
        import helm_python

        config = helm_python.Config(kubeconfig_path=str(self.kubeconfig), namespace=NAMESPACE, storage_driver="memory")
        options = {"namespace": NAMESPACE, "timeout": 60, "wait": "watcher"}
        config.install(str(CHART), NAME, values_of(BEFORE), **options)
        self.assert_there(render_4(values_of(BEFORE)))
        self.assert_migrated_first(0)
        config.upgrade(str(CHART), NAME, values_of(AFTER), **options)
        self.assert_there(render_4(values_of(AFTER)))
        config.rollback(NAME, version=1, timeout=60, wait="watcher")
        self.assert_there(render_4(values_of(BEFORE)))
        config.test(NAME, timeout=60)
        self.assertIn("Pod", [kind for verb, kind, _ in self.cluster.log if verb in ("create", "apply")])
        config.uninstall(NAME, timeout=60)

    @needs_helm
    def test_the_stand_in_refuses_what_is_wrong(self):
        folder = Path(tempfile.mkdtemp())
        (folder / "templates").mkdir()
        (folder / "Chart.yaml").write_text("apiVersion: v2\nname: bad\nversion: 0.0.1\n")
        (folder / "templates/a.yaml").write_text(
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {port: [{port: 80}], selector: {a: b}}\n"
        )
        with self.assertRaisesRegex(Exception, "'port' was unexpected"):
            helm("install", "bad", str(folder), "--namespace", NAMESPACE, env={**os.environ, **self.env})
