//! The engines that a task may name: those that live workers announce, and those of our own configuration.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use errand_common::{
    backend::Backend,
    config::{self, Config},
    port::StoreError,
    wire::engine::EngineInfo,
};
use serde_json::{Value, json};

use crate::{cached::Cached, limit, problem::Problem, state::App};

/// The built-in engine for trials: the default of last resort.
const ECHO: &str = "echo";

/// See the module.
pub(crate) struct Engines {
    backend: Backend,
    config: Arc<Config>,
    known: Cached<Arc<Known>>,
    chosen: Mutex<Choices>,
}

/// By tenant: the engine it chose, and since when that is known.
type Choices = HashMap<String, (Instant, Option<String>)>;

/// The engines of one moment.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) by_name: BTreeMap<String, EngineInfo>,
    /// The engine of those who name none.
    pub(crate) default: Option<String>,
}

impl Engines {
    pub(crate) fn new(backend: Backend, config: Arc<Config>) -> Self {
        Self { backend, config, known: Cached::new(App::fleet_memory()), chosen: Mutex::default() }
    }

    pub(crate) async fn known(&self) -> Result<Arc<Known>, StoreError> {
        let read = async {
            let workers = self.backend.store.live_workers().await?;
            let announced = workers.into_iter().flat_map(|worker| worker.engines);
            Ok(Arc::new(Known::unite(announced, &self.config)))
        };
        self.known.get(read).await
    }

    /// The engine that a tenant chose for its tasks that name none.
    pub(crate) async fn chosen_by(&self, tenant: &str) -> Result<Option<String>, StoreError> {
        if let Some((since, engine)) = self.choices().get(tenant)
            && since.elapsed() < limit::CHOICE_MEMORY
        {
            return Ok(engine.clone());
        }
        let engine = self.backend.store.default_engine(tenant).await?;
        self.remember(tenant, engine.clone());
        Ok(engine)
    }

    /// Makes a known engine the tenant's own choice. In this process it counts at once.
    pub(crate) async fn choose(&self, tenant: &str, engine: &str) -> Result<(), StoreError> {
        self.backend.store.choose_engine(tenant, engine, self.backend.clock.now()).await?;
        self.remember(tenant, Some(engine.to_owned()));
        Ok(())
    }

    fn choices(&self) -> MutexGuard<'_, Choices> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, tenant: &str, engine: Option<String>) {
        let mut choices = self.choices();
        if choices.len() >= limit::CHOICES_REMEMBERED {
            choices.retain(|_, (since, _)| since.elapsed() < limit::CHOICE_MEMORY);
        }
        // Forgotten at worst, never wrong: what is not remembered is read.
        choices.remove(tenant);
        if choices.len() < limit::CHOICES_REMEMBERED {
            choices.insert(tenant.to_owned(), (Instant::now(), engine));
        }
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
                capabilities: expected(engine),
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

    /// The engine of those who name none: the one that the tenant chose, or the fleet's.
    pub(crate) fn default_of<'a>(&'a self, chosen: Option<&'a str>) -> Option<&'a str> {
        chosen.or(self.default.as_deref())
    }

    /// Whether a task may be metered: what the engine announces, if it is known.
    pub(crate) fn metered(&self, engine: &str) -> bool {
        self.by_name.get(engine).is_some_and(|engine| engine.capabilities["metered"] == true)
    }

    /// The engine asked for, or the tenant's choice, or the fleet's default; `pointer` is where the client named it.
    pub(crate) fn choose(
        &self,
        asked: Option<&str>,
        chosen: Option<&str>,
        pointer: &str,
    ) -> Result<&EngineInfo, Problem> {
        if let (None, Some(chosen)) = (asked, chosen)
            && !self.by_name.contains_key(chosen)
        {
            // Never another one in its place: whoever chose it may have had a reason.
            let detail = format!(
                "No worker has the engine {chosen:?}, which this tenant chose, at the moment: name another one in engineType, \
                 or choose one with POST /api/v1/agent/engines/switch"
            );
            let problem = Problem::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, "no_engine", detail);
            return Err(problem.retry_after(limit::RETRY_AFTER_SECONDS));
        }
        let Some(name) = asked.or_else(|| self.default_of(chosen)) else {
            let detail = "No engine is known yet: configure one under [engines], or start a worker that has one";
            return Err(Problem::unavailable("no_engine", detail));
        };
        self.by_name.get(name).ok_or_else(|| {
            let names: Vec<_> = self.by_name.keys().map(String::as_str).collect();
            Problem::field(pointer, format!("unknown engine {name:?}; known are: {}", names.join(", ")))
        })
    }
}

/// What a submission needs to know of an engine before its first worker has said what it can do: whether it takes attachments, and
/// whether its runs spend tokens. Without that, a task sent a moment too early would be refused.
fn expected(engine: &config::Engine) -> Value {
    let asks_a_model = !matches!(engine, config::Engine::Echo(_) | config::Engine::Command(_));
    json!({ "attachments": asks_a_model, "metered": asks_a_model })
}

#[cfg(test)]
mod tests {
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
    fn an_engine_that_no_worker_has_announced_yet_is_expected_to_do_what_its_type_does() {
        let mut config = Config::default();
        let server = config::OpenAiCompatibleEngine::at("http://h/v1".into(), "m".into());
        config.engines.table.insert("model".into(), config::Engine::OpenaiCompatible(server));
        config.engines.table.insert("echo".into(), config::Engine::Echo(config::EchoEngine::default()));
        let known = Known::unite(std::iter::empty(), &config);
        assert_eq!(known.by_name["model"].capabilities["attachments"], true);
        assert!(known.metered("model") && !known.metered("echo"));
        assert!(!known.by_name["model"].available);
    }

    #[test]
    fn an_unknown_engine_is_refused_with_the_known_ones() {
        let mut config = Config::default();
        config.engines.table.insert("echo".into(), config::Engine::Echo(config::EchoEngine::default()));
        let known = Known::unite(std::iter::empty(), &config);
        let problem = known.choose(Some("gpt"), None, "/engineType").expect_err("unknown");
        assert_eq!(problem.errors[0].pointer, "/engineType");
        assert!(problem.errors[0].detail.contains("echo"), "{problem:?}");
    }

    #[test]
    fn the_tenants_choice_wins_over_the_default_and_is_never_replaced() {
        let announced = [engine("a", "command", true), engine("z", "command", true)];
        let known = Known::unite(announced.into_iter(), &Config::default());
        let name = |asked, chosen| known.choose(asked, chosen, "").map(|engine| engine.name.clone());
        assert_eq!(name(None, None).expect("the default"), "a");
        assert_eq!(name(None, Some("z")).expect("the choice"), "z");
        assert_eq!(name(Some("a"), Some("z")).expect("as asked"), "a");
        let gone = name(None, Some("gone")).expect_err("not known now");
        assert!(gone.code == "no_engine" && gone.retryable && gone.detail.contains("gone"), "{gone:?}");
    }
}
