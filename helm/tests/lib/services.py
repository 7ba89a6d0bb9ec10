"""A private PostgreSQL and a private Redis on free ports of this machine, and the program under test."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]


def errand() -> Path | None:
    """The build to run."""
    named = os.environ.get("ERRAND_BIN")
    places = [Path(named)] if named else [PROJECT / f"target/{profile}/errand" for profile in ("debug", "release", "dist")]
    return next((place for place in places if place.exists()), None)


def postgres_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = found[-1] if found else shutil.which("initdb")
    return Path(path).parent if path else None


def missing() -> str | None:
    """What can't be run here."""
    if not errand():
        return "no build of errand: cargo build --workspace, or set ERRAND_BIN"
    if not postgres_programs():
        return "PostgreSQL is not installed"
    if not shutil.which("redis-server"):
        return "redis-server is not installed"
    return None


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_until(what: str, condition, seconds: float, every: float = 0.1):
    """The first true value of `condition`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(every)


def connects(port: int) -> bool:
    with socket.socket() as trying:
        trying.settimeout(1)
        return trying.connect_ex(("127.0.0.1", port)) == 0


class Services:
    """Both servers, until `stop`."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="errand-chart-"))
        self.processes: list[subprocess.Popen] = []
        self.postgres_port, self.redis_port = free_port(), free_port()
        try:
            self.make_database()
            self.start_redis()
        except BaseException:
            self.stop()
            raise

    def make_database(self):
        self.user = {}
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(self.folder, account.pw_uid, account.pw_gid)
            self.user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        options = ["--auth=trust", "--username=errand", "--encoding=UTF8", "--no-locale", "--no-sync"]
        command = [postgres_programs() / "initdb", *options, "-D", self.folder / "data"]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, **self.user)
        self.start_postgres()
        create = [postgres_programs() / "createdb", "-h", "127.0.0.1", "-p", str(self.postgres_port), "-U", "errand", "errand"]
        wait_until("PostgreSQL serves", lambda: subprocess.run(create, capture_output=True).returncode == 0, 60, 0.5)

    def start_postgres(self):
        settings = {
            "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": self.postgres_port, "fsync": "off",
            "max_connections": 200,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        log = (self.folder / "postgres.log").open("a")
        command = [postgres_programs() / "postgres", "-D", self.folder / "data", *options]
        self.postgres = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **self.user)
        self.processes.append(self.postgres)
        wait_until("PostgreSQL listens", lambda: connects(self.postgres_port), 60)

    def stop_postgres(self):
        """At once, as if its machine were gone."""
        self.postgres.send_signal(signal.SIGQUIT)
        self.postgres.wait(30)

    def start_redis(self):
        options = ["--port", str(self.redis_port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.redis = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL, cwd=self.folder)
        self.processes.append(self.redis)
        wait_until("Redis listens", lambda: connects(self.redis_port), 30)

    def stop_redis(self):
        self.redis.kill()
        self.redis.wait(30)

    @property
    def database_url(self) -> str:
        return f"postgres://errand@127.0.0.1:{self.postgres_port}/errand"

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self.redis_port}"

    def stop(self):
        for process in reversed(self.processes):
            # SIGINT: PostgreSQL ends its sessions; Redis has nothing to save.
            process.send_signal(signal.SIGINT)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
