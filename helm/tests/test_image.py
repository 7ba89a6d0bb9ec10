"""Where no engine can build the image: that every stage, path, user and command of its Dockerfile agrees with the project."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
import unittest
from pathlib import Path

import yaml

from lib import services
from lib.chart import CHART, PROJECT, of_kind, pod_of, render_4, values_of

DOCKERFILE = (PROJECT / "Dockerfile").read_text()
CARGO = tomllib.loads((PROJECT / "Cargo.toml").read_text())
CLI = tomllib.loads((PROJECT / "cli/Cargo.toml").read_text())


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of each line, continuations joined, comments left out."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def stages() -> dict[str, list[tuple[str, str]]]:
    found, name = {}, ""
    for instruction, rest in instructions():
        if instruction == "FROM":
            name = re.fullmatch(r"\S+ AS (\w+)", rest)[1]
        found.setdefault(name, []).append((instruction, rest))
    return found


def of(stage: str, instruction: str) -> list[str]:
    return [re.sub(r"\s+", " ", rest) for name, rest in stages()[stage] if name == instruction]


def sent_to_the_build(path: str) -> bool:
    """Whether .dockerignore lets a path through: the last line that matches decides."""
    let = True
    for line in (PROJECT / ".dockerignore").read_text().splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        pattern = line.lstrip("!").rstrip("/")
        parts = path.split("/")
        heads = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        if pattern.startswith("**/"):
            matches = any(fnmatch.fnmatch(part, pattern[3:]) for part in parts)
        else:
            matches = any(fnmatch.fnmatch(head, pattern) and head.count("/") == pattern.count("/") for head in heads)
        if matches:
            let = line.startswith("!")
    return let


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True)
    return [path for path in done.stdout.splitlines() if (PROJECT / path).exists()]


class Image(unittest.TestCase):
    def test_the_toolchain_is_the_projects(self):
        rust = re.search(r"^ARG RUST=\S*:([\d.]+)-slim-(\w+)$", DOCKERFILE, re.MULTILINE)
        channel = tomllib.loads((PROJECT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
        self.assertTrue(channel.startswith(rust[1]), f"{rust[1]} is not {channel}")
        # The program is linked against the C library of one and runs on that of the other.
        runtime = re.search(r"^ARG RUNTIME=\S*-debian(\d+)$", DOCKERFILE, re.MULTILINE)
        self.assertEqual({"bookworm": "12", "trixie": "13"}[rust[2]], runtime[1])

    def test_each_stage_is_there_before_it_is_copied_from_and_none_is_idle(self):
        seen, used = [], set()
        for name, lines in stages().items():
            for instruction, rest in lines:
                source = re.match(r"--from=(\w+)", rest) if instruction == "COPY" else None
                if source:
                    self.assertIn(source[1], seen)
                    used.add(source[1])
            seen.append(name)
        self.assertEqual(used, {"manifests", "build"})

    def test_what_is_built_is_what_is_started(self):
        (program,) = CLI["bin"]
        self.assertIn("dist", CARGO["profile"])
        builds = [part for run in of("build", "RUN") for part in run.split(" && ") if part.startswith("cargo build")]
        self.assertEqual(builds, [f"cargo build --locked --profile dist --package {CLI['package']['name']}"] * 2)
        install = next(part for run in of("build", "RUN") for part in run.split(" && ") if "install -D" in part)
        source, target = install.split()[-2:]
        self.assertEqual(source, f"target/dist/{program['name']}")
        (copied,) = of("image", "COPY")
        root = copied.split()[1].rstrip("/")
        self.assertEqual(json.loads(of("image", "ENTRYPOINT")[0]), [target.removeprefix(root)])
        self.assertEqual(of("image", "RUN"), [], "the image has no shell to run anything")

    def test_the_user_the_folder_and_the_ports_are_the_charts(self):
        values = yaml.safe_load((CHART / "values.yaml").read_text())
        user = f"{values['podSecurity']['runAsUser']}:{values['podSecurity']['runAsGroup']}"
        self.assertEqual(of("image", "USER"), [user])
        (folder,) = of("image", "WORKDIR")
        made = next(part for run in of("build", "RUN") for part in run.split(" && ") if "install -d" in part)
        self.assertEqual(made.split()[-5:], ["-o", user.split(":")[0], "-g", user.split(":")[1], f"/image{folder}"])
        objects = render_4(values_of(CHART / "ci/minimal-values.yaml"))
        ports = set()
        for deployment in of_kind(objects, "Deployment"):
            container = pod_of(deployment)["spec"]["containers"][0]
            self.assertNotIn("command", container, "the entry point is the image's")
            ports |= {str(port["containerPort"]) for port in container["ports"]}
            if container["args"][0] == "worker":
                self.assertIn(folder, [mount["mountPath"] for mount in container["volumeMounts"]])
        self.assertEqual(set(of("image", "EXPOSE")[0].split()), ports)

    def test_labels_and_versions_agree(self):
        version = CARGO["workspace"]["package"]["version"]
        self.assertIn(f"VERSION={version}", of("image", "ARG"))
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self.assertEqual(chart["appVersion"], version)
        (labels,) = of("image", "LABEL")
        self.assertIn(f'licenses="{CARGO["workspace"]["package"]["license"]}"', labels)

    def test_the_build_is_sent_what_it_needs_and_no_more(self):
        files = tracked()
        needed = [path for path in files if path.split("/")[0] in {*CARGO["workspace"]["members"], "migrations"}]
        needed += ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml"]
        self.assertGreater(len(needed), 200)
        self.assertEqual([path for path in needed if not sent_to_the_build(path)], [])
        kept = ["target/debug/errand", "cli/target/x", ".git/config", "helm/values.yaml", "README.md", ".errand/key", "tests/.errand/key"]
        self.assertEqual([path for path in kept if sent_to_the_build(path)], [])

    @unittest.skipUnless(shutil.which("cargo"), "no cargo")
    def test_the_stage_of_manifests_leaves_a_workspace_that_cargo_takes(self):
        with tempfile.TemporaryDirectory() as folder:
            for path in filter(sent_to_the_build, tracked()):
                target = Path(folder) / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(PROJECT / path, target)
            for run in of("manifests", "RUN"):
                subprocess.run(["sh", "-euc", run], cwd=folder, check=True)
            left = [path for path in Path(folder).rglob("*") if path.is_file()]
            self.assertEqual({path.name for path in left if path.suffix != ".rs"}, {"Cargo.toml", "Cargo.lock", "rust-toolchain.toml"})
            self.assertEqual({path.read_text() for path in left if path.suffix == ".rs"}, {"", "fn main() {}\n"})
            command = ["cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "CARGO_NET_OFFLINE": "true"})
            self.assertEqual(done.returncode, 0, done.stderr)
            packages = {package["name"] for package in json.loads(done.stdout)["packages"]}
            self.assertEqual(packages, {f"errand-{member}" for member in CARGO["workspace"]["members"]})

    @unittest.skipUnless(services.errand(), "no build of errand")
    def test_every_rendered_command_is_one_that_the_program_has(self):
        seen = set()
        for case in sorted((CHART / "ci").glob("*-values.yaml")):
            for object in render_4(values_of(case)):
                if pod_of(object):
                    seen.add(tuple(pod_of(object)["spec"]["containers"][0]["args"]))
        self.assertGreaterEqual({arguments[0] for arguments in seen}, {"api", "worker", "migrate", "trial"})
        for arguments in seen:
            with self.subTest(arguments):
                done = subprocess.run([services.errand(), *arguments, "--help"], capture_output=True, text=True, timeout=20)
                self.assertEqual(done.returncode, 0, done.stderr)
