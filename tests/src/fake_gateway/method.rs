//! The fake's methods: scopes first, then parameters, then the work.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::{Shared, chat, fault::detailed, fault::invalid, serve::Order, world::World, world::text};

const READ: &[&str] = &[
    "status",
    "sessions.list",
    "sessions.messages.subscribe",
    "sessions.messages.unsubscribe",
    "chat.history",
    "agents.list",
    "agents.files.list",
    "agents.files.get",
    "config.get",
];
const WRITE: &[&str] = &["chat.send", "chat.abort", "agent.wait", "sessions.patch"];
const ADMIN: &[&str] = &[
    "agents.create",
    "agents.update",
    "agents.delete",
    "agents.files.set",
    "sessions.reset",
    "sessions.delete",
    "config.patch",
];
/// Bounded in number.
const CONTROL: &[&str] = &["agents.create", "agents.update", "agents.delete", "config.patch"];

/// Between two looks whether a run has ended.
const LOOK: Duration = Duration::from_millis(5);

fn needed(method: &str) -> Option<&'static str> {
    [(READ, "operator.read"), (WRITE, "operator.write"), (ADMIN, "operator.admin")]
        .into_iter()
        .find(|(methods, _)| methods.contains(&method))
        .map(|(_, scope)| scope)
}

fn may(scopes: &[String], needed: &str) -> bool {
    let has = |scope: &str| scopes.iter().any(|granted| granted == scope);
    has(needed) || has("operator.admin") || (needed == "operator.read" && has("operator.write"))
}

/// Does what is asked, or says why not.
pub(super) async fn perform(
    shared: &Arc<Shared>,
    scopes: &[String],
    method: &str,
    params: &Map<String, Value>,
) -> Result<Value, Value> {
    if let Some(scope) = needed(method)
        && !may(scopes, scope)
    {
        let details = json!({"code": "MISSING_SCOPE", "missingScope": scope, "requiredScopes": [scope]});
        return Err(detailed("FORBIDDEN", &format!("missing scope: {scope}"), &details));
    }
    if CONTROL.contains(&method) {
        shared.world().may_write(method, shared.options.writes_per_minute)?;
    }
    match method {
        "health" => Ok(json!({"ok": true, "ts": 0})),
        "status" => Ok(json!({"version": "fake", "uptimeMs": 1})),
        "chat.send" => chat::take(shared, params),
        "chat.history" => shared.world().history(params),
        "chat.abort" => {
            let run_id = params.get("runId").and_then(Value::as_str);
            let (events, stopped) = shared.world().abort(&World::canonical(&text(params, "sessionKey")), run_id);
            for event in events {
                shared.orders.send(event).ok();
            }
            let run_ids: Vec<String> = stopped.into_iter().collect();
            Ok(json!({"ok": true, "aborted": !run_ids.is_empty(), "runIds": run_ids}))
        }
        "agent.wait" => Ok(wait(shared, params).await),
        "sessions.patch" => shared.world().patch_session(params),
        "sessions.reset" => shared.world().reset_session(params),
        "sessions.delete" => {
            shared.world().sessions.remove(&World::canonical(&text(params, "key")));
            Ok(json!({"ok": true}))
        }
        "sessions.list" => Ok(shared.world().list_sessions()),
        // What it means is kept by the connection.
        "sessions.messages.subscribe" | "sessions.messages.unsubscribe" => {
            Ok(json!({"ok": true, "key": World::canonical(&text(params, "key"))}))
        }
        "agents.list" => Ok(shared.world().list_agents()),
        "agents.create" => shared.world().create_agent(params),
        "agents.update" => shared.world().update_agent(params),
        "agents.delete" => shared.world().delete_agent(params),
        "agents.files.list" => shared.world().list_files(params),
        "agents.files.get" => shared.world().file(params),
        "agents.files.set" => shared.world().set_file(params),
        "config.get" => Ok(shared.world().config()),
        "config.patch" => {
            let done = shared.world().patch_config(params)?;
            if shared.options.config_restarts {
                let shared = shared.clone();
                tokio::spawn(async move {
                    // After the answer, as a real one does it.
                    sleep(LOOK).await;
                    shared.restart();
                });
            }
            Ok(done)
        }
        _ => Err(invalid(format!("unknown method: {method}"))),
    }
}

async fn wait(shared: &Arc<Shared>, params: &Map<String, Value>) -> Value {
    let run_id = text(params, "runId");
    let limit = params.get("timeoutMs").and_then(Value::as_u64).unwrap_or(30_000);
    let until = Instant::now() + Duration::from_millis(limit);
    loop {
        if let Some(end) = shared.world().run_end(&run_id) {
            return end;
        }
        if Instant::now() >= until {
            return json!({"runId": run_id, "status": "timeout"});
        }
        sleep(LOOK).await;
    }
}

/// Whether a connection wants to hear of this.
pub(super) fn hears(order: &Order, subscribed: Option<&[String]>) -> bool {
    match (order, subscribed) {
        (Order::Event { session_key: Some(session_key), .. }, Some(subscribed)) => subscribed.contains(session_key),
        _ => true,
    }
}
