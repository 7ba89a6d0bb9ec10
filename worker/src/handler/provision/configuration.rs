//! What a gateway's own configuration has to say of an agent. Each change may restart the gateway: what is right already is left
//! alone.

use serde_json::{Value, json};

/// How often an agent's heartbeat comes, and where what it says goes.
fn heartbeat() -> Value {
    json!({"every": "10m", "target": "last", "includeReasoning": false})
}

/// The patch that makes `config` fit for the agent; `None` if it does already, or can't be read.
pub(super) fn patch(config: &Value, agent_key: &str, workspace: &str) -> Option<Value> {
    let config = config.as_object()?;
    let mut patch = json!({});
    let at = |path: &str| config.get(path.split('/').next()?)?.pointer(&path[path.find('/')?..]);
    let mut list = match at("agents/list") {
        None | Some(Value::Null) => Vec::new(),
        Some(list) => list.as_array()?.clone(),
    };
    if enlist(&mut list, agent_key, workspace) {
        patch["agents"] = json!({"list": list});
    }
    for (name, value) in [("showOk", false), ("showAlerts", true), ("useIndicator", true)] {
        if at(&format!("channels/defaults/heartbeat/{name}")).is_none() {
            patch["channels"]["defaults"]["heartbeat"][name] = json!(value);
        }
    }
    if at("tools/exec/host").is_none() {
        patch["tools"] = json!({"exec": {"host": "gateway"}});
    }
    (patch != json!({})).then_some(patch)
}

/// Puts the agent into the list, or puts its entry right. Returns whether anything changed.
fn enlist(list: &mut Vec<Value>, agent_key: &str, workspace: &str) -> bool {
    let wanted = [("workspace", json!(workspace)), ("heartbeat", heartbeat())];
    let Some(entry) = list.iter_mut().find(|entry| entry["id"] == json!(agent_key)) else {
        let mut entry = json!({"id": agent_key});
        for (name, value) in wanted {
            entry[name] = value;
        }
        list.push(entry);
        return true;
    };
    let mut changed = false;
    for (name, value) in wanted {
        if entry[name] != value {
            entry[name] = value;
            changed = true;
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_configuration_gets_all_and_a_fitting_one_nothing() {
        let patch = patch(&json!({}), "lead-7", "/w/workspace-lead-7").expect("a patch");
        let expected = json!({
            "agents": {"list": [{"id": "lead-7", "workspace": "/w/workspace-lead-7", "heartbeat": heartbeat()}]},
            "channels": {"defaults": {"heartbeat": {"showOk": false, "showAlerts": true, "useIndicator": true}}},
            "tools": {"exec": {"host": "gateway"}},
        });
        assert_eq!(patch, expected);
        assert_eq!(super::patch(&expected, "lead-7", "/w/workspace-lead-7"), None);
    }

    #[test]
    fn what_others_set_stays() {
        let config = json!({
            "agents": {"list": [{"id": "main", "model": "x"}, {"id": "lead-7", "workspace": "/old", "model": "y"}]},
            "channels": {"defaults": {"heartbeat": {"showOk": true, "showAlerts": false, "useIndicator": false}}},
            "tools": {"exec": {"host": "sandbox"}},
        });
        let patch = patch(&config, "lead-7", "/new").expect("a patch");
        let entry = json!({"id": "lead-7", "workspace": "/new", "model": "y", "heartbeat": heartbeat()});
        assert_eq!(patch, json!({"agents": {"list": [{"id": "main", "model": "x"}, entry]}}));
    }

    #[test]
    fn what_can_not_be_read_is_left_alone() {
        assert_eq!(patch(&Value::Null, "a", "/w"), None);
        assert_eq!(patch(&json!({"agents": {"list": "?"}}), "a", "/w"), None);
    }
}
