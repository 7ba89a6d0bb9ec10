//! The engines that a task may name: those that live workers announce, and those of our own configuration.

use std::{collections::BTreeMap, sync::Arc};

use errand_common::{backend::Backend, config::Config, port::StoreError, wire::engine::EngineInfo};
use serde_json::json;

use crate::{cached::Cached, problem::Problem, state::App};

/// The built-in engine for trials: the default of last resort.
const ECHO: &str = "echo";

/// See the module.
pub(crate) struct Engines {
    backend: Backend,
    config: Arc<Config>,
    known: Cached<Arc<Known>>,
}

/// The engines of one moment.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) by_name: BTreeMap<String, EngineInfo>,
    /// The engine of those who name none.
    pub(crate) default: Option<String>,
}

impl Engines {
    pub(crate) fn new(backend: Backend, config: Arc<Config>) -> Self {
        Self { backend, config, known: Cached::new(App::fleet_memory()) }
    }

    pub(crate) async fn known(&self) -> Result<Arc<Known>, StoreError> {
        let read = async {
            let workers = self.backend.store.live_workers().await?;
            let announced = workers.into_iter().flat_map(|worker| worker.engines);
            Ok(Arc::new(Known::unite(announced, &self.config)))
        };
        self.known.get(read).await
    }
}

impl Known {
    fn unite(announced: impl Iterator<Item = EngineInfo>, config: &Config) -> Self {
        let mut by_name: BTreeMap<String, EngineInfo> = BTreeMap::new();
        for engine in announced {
            match by_name.get_mut(&engine.name) {
                Some(known) if known.available || !engine.available => {}
                _ => {
                    by_name.insert(engine.name.clone(), engine);
                }
            }
        }
        for (name, engine) in &config.engines.table {
            by_name.entry(name.clone()).or_insert_with(|| EngineInfo {
                name: name.clone(),
                engine_type: engine.type_name().to_owned(),
                available: false,
                reason: Some("no live worker has announced it".to_owned()),
                queue: engine.queue().to_owned(),
                capabilities: json!({}),
            });
        }
        let default = config.engines.default.clone().or_else(|| Self::first(&by_name));
        Self { by_name, default }
    }

    fn first(by_name: &BTreeMap<String, EngineInfo>) -> Option<String> {
        let real = by_name.values().find(|engine| engine.available && engine.engine_type != ECHO);
        let echo = || by_name.values().find(|engine| engine.engine_type == ECHO);
        real.or_else(echo).or_else(|| by_name.values().next()).map(|engine| engine.name.clone())
    }

    /// The engine asked for, or the default; `pointer` is where the client named it.
    pub(crate) fn choose(&self, asked: Option<&str>, pointer: &str) -> Result<&EngineInfo, Problem> {
        let Some(name) = asked.or(self.default.as_deref()) else {
            let detail = "No engine is known yet: configure one under [engines], or start a worker that has one";
            return Err(Problem::unavailable("no_engine", detail));
        };
        self.by_name.get(name).ok_or_else(|| {
            let names: Vec<_> = self.by_name.keys().map(String::as_str).collect();
            Problem::field(pointer, format!("unknown engine {name:?}; known are: {}", names.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use errand_common::config;

    use super::*;

    fn engine(name: &str, engine_type: &str, available: bool) -> EngineInfo {
        EngineInfo {
            name: name.into(),
            engine_type: engine_type.into(),
            available,
            reason: None,
            queue: "default".into(),
            capabilities: json!({}),
        }
    }

    #[test]
    fn an_engine_is_available_if_one_worker_can_run_it() {
        let announced = [engine("a", "command", false), engine("a", "command", true), engine("a", "command", false)];
        let known = Known::unite(announced.into_iter(), &Config::default());
        assert!(known.by_name["a"].available);
    }

    #[test]
    fn the_default_is_the_first_that_is_available_and_echo_at_worst() {
        let default = |engines: Vec<EngineInfo>| Known::unite(engines.into_iter(), &Config::default()).default;
        assert_eq!(default(vec![engine("z", "command", true), engine("echo", "echo", true)]).as_deref(), Some("z"));
        assert_eq!(default(vec![engine("a", "command", false), engine("echo", "echo", true)]).as_deref(), Some("echo"));
        assert_eq!(default(vec![]), None);
    }

    #[test]
    fn an_unknown_engine_is_refused_with_the_known_ones() {
        let mut config = Config::default();
        config.engines.table.insert("echo".into(), config::Engine::Echo(config::EchoEngine::default()));
        let known = Known::unite(std::iter::empty(), &config);
        let problem = known.choose(Some("gpt"), "/engineType").expect_err("unknown");
        assert_eq!(problem.errors[0].pointer, "/engineType");
        assert!(problem.errors[0].detail.contains("echo"), "{problem:?}");
    }
}
