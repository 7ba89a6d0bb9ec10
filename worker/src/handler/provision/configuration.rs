//! What a gateway's own configuration has to say of an agent. Each change may restart the gateway: what is right already is left
//! alone.
//!
//! Gateways refuse keys that they don't know, and newer ones call some by other names: which those are shows in where the
//! agents stand that are there.

use serde_json::{Value, json};

/// How a gateway's configuration names what we set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// Agents by their ids, in `agents.entries`.
    Entries,
    /// Older gateways: agents in `agents.list`.
    List,
}

impl Form {
    fn of(config: &Value) -> Self {
        if config.pointer("/agents/list").is_some_and(|list| !list.is_null()) { Self::List } else { Self::Entries }
    }

    /// How often an agent's heartbeat comes, and where what it says goes.
    fn heartbeat(self) -> Value {
        match self {
            Self::Entries => json!({"every": "10m", "target": "last"}),
            Self::List => json!({"every": "10m", "target": "last", "includeReasoning": false}),
        }
    }

    /// What of heartbeats channels show.
    const fn visibility(self) -> &'static str {
        match self {
            Self::Entries => "heartbeatVisibility",
            Self::List => "heartbeat",
        }
    }
}

/// The patch that makes `config` fit for the agent; `None` if it does already, or can't be read.
pub(super) fn patch(config: &Value, agent_key: &str, workspace: &str) -> Option<Value> {
    let fields = config.as_object()?;
    let mut patch = json!({});
    let at = |path: &[&str]| path.iter().skip(1).try_fold(fields.get(path[0])?, |value, name| value.get(*name));
    let form = Form::of(config);
    let wanted = [("workspace", json!(workspace)), ("heartbeat", form.heartbeat())];
    match form {
        Form::Entries => {
            let entry = at(&["agents", "entries", agent_key]);
            for (name, value) in wanted {
                if entry.and_then(|entry| entry.get(name)) != Some(&value) {
                    patch["agents"]["entries"][agent_key][name] = value;
                }
            }
        }
        Form::List => {
            let mut list = at(&["agents", "list"])?.as_array()?.clone();
            if enlist(&mut list, agent_key, wanted) {
                patch["agents"] = json!({"list": list});
            }
        }
    }
    let visibility = form.visibility();
    for (name, value) in [("showOk", false), ("showAlerts", true), ("useIndicator", true)] {
        if at(&["channels", "defaults", visibility, name]).is_none() {
            patch["channels"]["defaults"][visibility][name] = json!(value);
        }
    }
    if at(&["tools", "exec", "host"]).is_none() {
        patch["tools"] = json!({"exec": {"host": "gateway"}});
    }
    (patch != json!({})).then_some(patch)
}

/// Puts the agent into the list, or puts its entry right. Returns whether anything changed.
fn enlist(list: &mut Vec<Value>, agent_key: &str, wanted: [(&str, Value); 2]) -> bool {
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
        let patched = patch(&json!({}), "lead-7", "/w/workspace-lead-7").expect("a patch");
        let expected = json!({
            "agents": {"entries": {"lead-7": {"workspace": "/w/workspace-lead-7", "heartbeat": {"every": "10m", "target": "last"}}}},
            "channels": {"defaults": {"heartbeatVisibility": {"showOk": false, "showAlerts": true, "useIndicator": true}}},
            "tools": {"exec": {"host": "gateway"}},
        });
        assert_eq!(patched, expected);
        assert_eq!(patch(&expected, "lead-7", "/w/workspace-lead-7"), None);
    }

    #[test]
    fn an_older_gateway_is_spoken_to_by_its_own_names() {
        let patched = patch(&json!({"agents": {"list": []}}), "lead-7", "/w").expect("a patch");
        let heartbeat = Form::List.heartbeat();
        let expected = json!({
            "agents": {"list": [{"id": "lead-7", "workspace": "/w", "heartbeat": heartbeat}]},
            "channels": {"defaults": {"heartbeat": {"showOk": false, "showAlerts": true, "useIndicator": true}}},
            "tools": {"exec": {"host": "gateway"}},
        });
        assert_eq!(patched, expected);
        assert_eq!(patch(&expected, "lead-7", "/w"), None);
    }

    #[test]
    fn only_what_differs_of_an_entry_is_changed() {
        let config = json!({
            "agents": {"entries": {"a.b": {"workspace": "/w", "model": "y"}, "main": {}}},
            "channels": {"defaults": {"heartbeatVisibility": {"showOk": true, "showAlerts": false, "useIndicator": false}}},
            "tools": {"exec": {"host": "sandbox"}},
        });
        let heartbeat = json!({"every": "10m", "target": "last"});
        assert_eq!(
            patch(&config, "a.b", "/w"),
            Some(json!({"agents": {"entries": {"a.b": {"heartbeat": heartbeat}}}}))
        );
    }

    #[test]
    fn what_others_set_stays() {
        let config = json!({
            "agents": {"list": [{"id": "main", "model": "x"}, {"id": "lead-7", "workspace": "/old", "model": "y"}]},
            "channels": {"defaults": {"heartbeat": {"showOk": true, "showAlerts": false, "useIndicator": false}}},
            "tools": {"exec": {"host": "sandbox"}},
        });
        let patch = patch(&config, "lead-7", "/new").expect("a patch");
        let entry = json!({"id": "lead-7", "workspace": "/new", "model": "y", "heartbeat": Form::List.heartbeat()});
        assert_eq!(patch, json!({"agents": {"list": [{"id": "main", "model": "x"}, entry]}}));
    }

    #[test]
    fn what_can_not_be_read_is_left_alone() {
        assert_eq!(patch(&Value::Null, "a", "/w"), None);
        assert_eq!(patch(&json!({"agents": {"list": "?"}}), "a", "/w"), None);
    }
}
