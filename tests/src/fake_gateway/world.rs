//! What a gateway knows: in memory, and for good.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Instant,
};

use ring::digest::{SHA256, digest};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    chat::{Known, Session, Turn},
    fault::{Fault, detailed, invalid},
    serve::Order,
};

/// Names of files that agents may have.
const FILES: &[&str] =
    &["AGENTS.md", "BOOTSTRAP.md", "HEARTBEAT.md", "IDENTITY.md", "MEMORY.md", "SOUL.md", "TOOLS.md", "USER.md"];

/// Of those, what newer gateways take; and what they don't tell of in a list.
const RETIRED_FILES: &[&str] = &["HEARTBEAT.md", "TOOLS.md"];
const UNLISTED_FILES: &[&str] = &["IDENTITY.md"];

/// A device that came.
#[derive(Clone, Debug)]
pub(super) struct PairedDevice {
    pub(super) approved: bool,
    pub(super) request_id: String,
    pub(super) token: Option<String>,
}

/// An agent and its files.
#[derive(Clone, Debug, Default)]
pub(super) struct FakeAgent {
    name: String,
    workspace: String,
    files: BTreeMap<String, String>,
}

/// All of it.
pub(super) struct World {
    pub(super) boot_id: String,
    pub(super) away: bool,
    /// `Some`: another shared token than that of the options.
    pub(super) token: Option<String>,
    pub(super) connections: usize,
    pub(super) requests: HashMap<String, Vec<Value>>,
    /// Methods, and the traces that their requests named; empty where they named none.
    pub(super) traces: Vec<(String, String)>,
    pub(super) faults: HashMap<String, VecDeque<Fault>>,
    /// All methods that were asked for, in order.
    pub(super) calls: Vec<String>,
    /// Of all messages to a session.
    pub(super) session_faults: HashMap<String, Fault>,
    pub(super) devices: BTreeMap<String, PairedDevice>,
    pub(super) sessions: BTreeMap<String, Session>,
    /// By key, until a restart.
    pub(super) known: HashMap<String, Known>,
    pub(super) turns: VecDeque<Turn>,
    pub(super) turns_begun: usize,
    agents: BTreeMap<String, FakeAgent>,
    config: Value,
    few_files: bool,
    writes: VecDeque<Instant>,
}

impl World {
    pub(super) fn new(old_config: bool, few_files: bool) -> Self {
        let main = FakeAgent { name: "main".into(), workspace: "/workspace".into(), files: BTreeMap::new() };
        Self {
            boot_id: Uuid::new_v4().to_string(),
            away: false,
            token: None,
            connections: 0,
            requests: HashMap::new(),
            traces: Vec::new(),
            faults: HashMap::new(),
            calls: Vec::new(),
            session_faults: HashMap::new(),
            devices: BTreeMap::new(),
            sessions: BTreeMap::new(),
            known: HashMap::new(),
            turns: VecDeque::new(),
            turns_begun: 0,
            agents: BTreeMap::from([("main".to_owned(), main)]),
            config: if old_config { json!({"agents": {"list": []}}) } else { json!({"agents": {"defaults": {}}}) },
            few_files,
            writes: VecDeque::new(),
        }
    }

    /// A new process: what was only in memory is gone.
    pub(super) fn forget(&mut self) {
        self.boot_id = Uuid::new_v4().to_string();
        self.known.clear();
        self.writes.clear();
    }

    pub(super) fn next_fault(&mut self, method: &str) -> Option<Fault> {
        self.faults.get_mut(method)?.pop_front()
    }

    pub(super) fn fault_of_session(&self, method: &str, params: &Map<String, Value>) -> Option<Fault> {
        let key = (method == "chat.send").then(|| Self::canonical(&text(params, "sessionKey")))?;
        self.session_faults.get(&key).cloned()
    }

    /// The keys of gateways: lower case, and below an agent.
    pub(super) fn canonical(key: &str) -> String {
        let key = key.to_lowercase();
        if key.starts_with("agent:") { key } else { format!("agent:main:{key}") }
    }

    pub(super) fn has_agent(&self, id: &str) -> bool {
        self.agents.contains_key(id)
    }

    pub(super) fn said(&self, session_key: &str) -> Vec<(String, String)> {
        self.sessions.get(&Self::canonical(session_key)).map(Session::said).unwrap_or_default()
    }

    pub(super) fn said_in_all(&self) -> usize {
        self.sessions.values().map(|session| session.said().len()).sum()
    }

    /// Ends what runs, well.
    pub(super) fn finish_all(&mut self) -> Vec<Order> {
        let mut events = Vec::new();
        while let Some((key, _)) = self.sessions.iter().find(|(_, session)| session.is_running()) {
            let key = key.clone();
            events.extend(self.finish(&key));
        }
        events
    }

    /// Loses what runs.
    pub(super) fn drop_all(&mut self) {
        self.sessions.values_mut().for_each(Session::lose_run);
    }

    pub(super) fn waiting_devices(&self) -> Vec<String> {
        self.devices.iter().filter(|(_, device)| !device.approved).map(|(id, _)| id.clone()).collect()
    }

    pub(super) fn approve_devices(&mut self) {
        for device in self.devices.values_mut().filter(|device| !device.approved) {
            device.approved = true;
            device.token = Some(Uuid::new_v4().simple().to_string());
        }
    }

    pub(super) fn revoke_device_tokens(&mut self) {
        for device in self.devices.values_mut() {
            device.token = device.token.as_ref().map(|_| Uuid::new_v4().simple().to_string());
        }
    }

    /// Whether one more write may be made now.
    pub(super) fn may_write(&mut self, method: &str, per_minute: usize) -> Result<(), Value> {
        let now = Instant::now();
        self.writes.retain(|at| now.duration_since(*at).as_secs() < 60);
        if self.writes.len() >= per_minute {
            let message = format!("rate limit exceeded for {method}; retry after 60s");
            return Err(json!({"code": "UNAVAILABLE", "message": message, "retryable": true, "retryAfterMs": 60_000}));
        }
        self.writes.push_back(now);
        Ok(())
    }

    pub(super) fn list_agents(&self) -> Value {
        let agents: Vec<Value> = self
            .agents
            .iter()
            .map(|(id, agent)| json!({"id": id, "name": agent.name, "workspace": agent.workspace}))
            .collect();
        json!({"defaultId": "main", "mainKey": "main", "scope": "per-sender", "agents": agents})
    }

    pub(super) fn create_agent(&mut self, params: &Map<String, Value>) -> Result<Value, Value> {
        let name = text(params, "name");
        let slug: String =
            name.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let id = slug.trim_matches('-').to_owned();
        if self.agents.contains_key(&id) {
            return Err(invalid(format!("agent \"{id}\" already exists")));
        }
        let workspace = Some(text(params, "workspace")).filter(|path| !path.is_empty());
        let workspace = workspace.unwrap_or_else(|| format!("/workspace/{id}"));
        let agent = FakeAgent { name: name.clone(), workspace: workspace.clone(), files: BTreeMap::new() };
        self.agents.insert(id.clone(), agent);
        Ok(json!({"ok": true, "agentId": id, "name": name, "workspace": workspace}))
    }

    pub(super) fn update_agent(&mut self, params: &Map<String, Value>) -> Result<Value, Value> {
        let agent = self.agent(params)?;
        for (name, field) in [("name", &mut agent.name), ("workspace", &mut agent.workspace)] {
            if let Some(value) = params.get(name).and_then(Value::as_str) {
                *field = value.to_owned();
            }
        }
        Ok(json!({"ok": true, "agentId": text(params, "agentId")}))
    }

    pub(super) fn delete_agent(&mut self, params: &Map<String, Value>) -> Result<Value, Value> {
        self.agent(params)?;
        self.agents.remove(&text(params, "agentId"));
        Ok(json!({"ok": true}))
    }

    fn agent(&mut self, params: &Map<String, Value>) -> Result<&mut FakeAgent, Value> {
        let id = text(params, "agentId");
        self.agents.get_mut(&id).ok_or_else(|| invalid(format!("agent \"{id}\" not found")))
    }

    pub(super) fn list_files(&mut self, params: &Map<String, Value>) -> Result<Value, Value> {
        let few_files = self.few_files;
        let agent = self.agent(params)?;
        let is_listed = |name: &&&str| !few_files || !(RETIRED_FILES.contains(*name) || UNLISTED_FILES.contains(*name));
        let files: Vec<Value> = FILES
            .iter()
            .filter(is_listed)
            .map(|name| json!({"name": name, "missing": !agent.files.contains_key(*name)}))
            .collect();
        Ok(json!({"agentId": text(params, "agentId"), "workspace": agent.workspace, "files": files}))
    }

    fn supported(&self, params: &Map<String, Value>) -> Result<String, Value> {
        let name = text(params, "name");
        let is_known = FILES.contains(&name.as_str()) && !(self.few_files && RETIRED_FILES.contains(&name.as_str()));
        if is_known { Ok(name) } else { Err(invalid(format!("unsupported file \"{name}\""))) }
    }

    pub(super) fn file(&mut self, params: &Map<String, Value>) -> Result<Value, Value> {
        let name = self.supported(params)?;
        let agent = self.agent(params)?;
        let file = match agent.files.get(&name) {
            None => json!({"name": name, "missing": true}),
            Some(content) => {
                json!({"name": name, "missing": false, "content": content, "hash": hash(content), "size": content.len()})
            }
        };
        Ok(json!({"agentId": text(params, "agentId"), "file": file}))
    }

    pub(super) fn set_file(&mut self, params: &Map<String, Value>) -> Result<Value, Value> {
        let name = self.supported(params)?;
        let agent = self.agent(params)?;
        if let Some(expected) = params.get("expectedHash").and_then(Value::as_str) {
            let current = agent.files.get(&name).map(|content| hash(content));
            if current.as_deref() != Some(expected) {
                let details = json!({"type": "agent_file_conflict", "currentHash": current});
                return Err(detailed("INVALID_REQUEST", "the file has changed", &details));
            }
        }
        let content = text(params, "content");
        let file = json!({"name": name, "missing": false, "content": content, "hash": hash(&content)});
        agent.files.insert(name, content);
        Ok(json!({"ok": true, "agentId": text(params, "agentId"), "file": file}))
    }

    pub(super) fn config(&self) -> Value {
        json!({"hash": hash(&self.config.to_string()), "config": self.config, "valid": true})
    }

    pub(super) fn patch_config(&mut self, params: &Map<String, Value>) -> Result<Value, Value> {
        if params.get("baseHash").and_then(Value::as_str) != Some(&hash(&self.config.to_string())) {
            return Err(invalid("config changed since last load; re-run config.get and retry"));
        }
        let patch: Value = serde_json::from_str(&text(params, "raw")).map_err(|_| invalid("raw is not JSON"))?;
        let is_old = self.config.pointer("/agents/list").is_some();
        let foreign = if is_old { NEW_NAMES } else { OLD_NAMES };
        if let Some(path) = foreign.iter().find(|path| patch.pointer(path).is_some()) {
            return Err(invalid(format!("invalid config: Unrecognized key: {path}")));
        }
        merge(&mut self.config, patch);
        Ok(json!({"ok": true, "config": self.config}))
    }
}

/// What only older, or only newer configurations have.
const OLD_NAMES: &[&str] = &["/agents/list", "/channels/defaults/heartbeat"];
const NEW_NAMES: &[&str] = &["/agents/entries", "/channels/defaults/heartbeatVisibility"];

fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (name, value) in patch {
                merge(target.entry(name).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch,
    }
}

/// A parameter that is text, or nothing.
pub(super) fn text(params: &Map<String, Value>, name: &str) -> String {
    params.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn hash(content: &str) -> String {
    digest(&SHA256, content.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
