//! The steps of a provisioning as calls that are done once.

use std::time::Duration;

use async_trait::async_trait;
use errand_common::{
    config::Config,
    domain::{FailureClass, gate::Verdict},
};
use serde_json::{Value, json};

use super::configuration;
use crate::{
    effect::{self, Asked, Call, Description, End, Sent},
    gate::Policies,
    gateway::{AgentChange, FileEntry, NewAgent, Unanswered, failure::code},
    handler::{
        HandlerFailure, RunContext,
        recipient::{Reached, failed, gate_of},
        soul::{hash, refused},
    },
};

/// Tries of a request about an agent that was made a moment ago.
const TRIES: u32 = 5;
/// The pause before the second of them; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// A step.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step<'a> {
    /// Makes the agent, under its key.
    Create,
    /// Gives it its name and workspace.
    Update { created: bool },
    /// Puts the gateway's configuration right.
    Configure,
    /// Writes a file.
    Write { name: &'static str, content: &'a str },
    /// Removes files.
    Clean { names: &'a [&'static str] },
}

/// Takes steps.
pub(super) struct Steps {
    gates: Policies,
    /// The configuration is read, changed and written back: one at a time.
    alone: Policies,
}

impl Steps {
    pub(super) fn new(config: &Config, limit: Duration) -> Self {
        // Two that change it at once find out by its hash; this only spares them that.
        let lease = Duration::from_secs(config.worker.lease_seconds.into());
        Self { gates: Policies::new(&config.gates, limit), alone: Policies::one_at_a_time(&config.gates, lease) }
    }

    /// Takes a step, unless it is taken already. Returns what it came to.
    pub(super) async fn take(
        &self,
        context: &RunContext,
        reached: &Reached,
        ordinal: u32,
        step: Step<'_>,
    ) -> Result<Value, HandlerFailure> {
        let policies = if matches!(step, Step::Configure) { &self.alone } else { &self.gates };
        effect::perform(context, policies, ordinal, &StepCall { reached, step }).await
    }

    /// The agent's files as they are.
    pub(super) async fn list_files(&self, reached: &Reached, created: bool) -> Result<Vec<FileEntry>, HandlerFailure> {
        let key = reached.agent.key();
        let listed = patiently(created, || reached.client.files(&key)).await;
        listed.map_err(|unanswered| failed(unanswered.failure().clone()))
    }
}

/// Asks again while the gateway does not know an agent that was made a moment ago.
async fn patiently<T, F>(created: bool, ask: impl Fn() -> F + Send + Sync) -> Result<T, Unanswered>
where
    F: Future<Output = Result<T, Unanswered>> + Send,
    T: Send,
{
    let mut pause = FIRST_PAUSE;
    for _ in 1..TRIES {
        match ask().await {
            Err(Unanswered::Refused(failure)) if created && failure.code == code::UNKNOWN_AGENT => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            answer => return answer,
        }
    }
    ask().await
}

struct StepCall<'a> {
    reached: &'a Reached,
    step: Step<'a>,
}

impl StepCall<'_> {
    fn workspace(&self) -> String {
        self.reached.gateway.workspace(&self.reached.agent.key())
    }

    async fn create(&self) -> Result<Value, Unanswered> {
        let (key, workspace) = (self.reached.agent.key(), self.workspace());
        let new = NewAgent { name: &key, workspace: Some(&workspace) };
        match self.reached.client.create_agent(&new).await {
            Ok(_) => Ok(json!({"created": true})),
            Err(Unanswered::Refused(failure)) if failure.code == code::ALREADY_EXISTS => Ok(json!({"created": false})),
            Err(other) => Err(other),
        }
    }

    async fn update(&self, created: bool) -> Result<Value, Unanswered> {
        let (key, workspace) = (self.reached.agent.key(), self.workspace());
        let change = AgentChange { name: Some(&self.reached.agent.name), workspace: Some(&workspace) };
        patiently(created, || self.reached.client.update_agent(&key, &change)).await.map(|()| json!({"ok": true}))
    }

    /// Another may change it between the look and the change: the hash tells, and it is looked at again.
    async fn configure(&self) -> Result<Value, Unanswered> {
        let mut conflicts = 0;
        loop {
            let snapshot = self.reached.client.config().await?;
            let patch = configuration::patch(&snapshot.config, &self.reached.agent.key(), &self.workspace());
            let Some(patch) = patch else { return Ok(json!({"changed": false})) };
            match self.reached.client.patch_config(&patch, snapshot.hash.as_deref()).await {
                Ok(()) => return Ok(json!({"changed": true})),
                Err(Unanswered::Refused(failure)) if failure.code == code::CONFIG_CHANGED && conflicts < TRIES => {
                    conflicts += 1;
                }
                Err(other) => return Err(other),
            }
        }
    }

    async fn write(&self, name: &str, content: &str) -> Result<Value, Unanswered> {
        match self.reached.client.set_file(&self.reached.agent.key(), name, content, None).await {
            Ok(()) => Ok(json!({"ok": true})),
            Err(Unanswered::Refused(failure)) if failure.code == code::UNSUPPORTED_FILE => {
                Ok(json!({"unsupported": true}))
            }
            Err(other) => Err(other),
        }
    }

    /// Gateways that can't remove files, or not these, keep them.
    async fn clean(&self, names: &[&'static str]) -> Result<Value, Unanswered> {
        let key = self.reached.agent.key();
        let mut removed = Vec::new();
        for name in names {
            match self.reached.client.delete_file(&key, name).await {
                Ok(()) => removed.push(*name),
                Err(Unanswered::Refused(failure)) if failure.class == FailureClass::Invalid => {}
                Err(other) => return Err(other),
            }
        }
        Ok(json!({"removed": removed}))
    }
}

#[async_trait]
impl Call for StepCall<'_> {
    fn describe(&self) -> Description {
        let gate = gate_of(self.reached.gateway.id);
        // Changes of agents and configuration are few a minute: who has to wait for them holds up no message.
        let (kind, destination) = match self.step {
            Step::Create => ("agent_create", format!("{gate}:agents")),
            Step::Update { .. } => ("agent_update", format!("{gate}:agents")),
            Step::Configure => ("gateway_config", format!("{gate}:config")),
            Step::Write { .. } | Step::Clean { .. } => ("agent_file", gate),
        };
        // Of what the step is for, not of the bytes: another version may word a file otherwise, and the last word counts.
        let name = match self.step {
            Step::Write { name, .. } => name,
            _ => "",
        };
        Description { kind, destination, fingerprint: hash(&json!([kind, self.reached.agent.key(), name]).to_string()) }
    }

    async fn send(&self, _key: &str) -> Sent {
        let done = match self.step {
            Step::Create => self.create().await,
            Step::Update { created } => self.update(created).await,
            Step::Configure => self.configure().await,
            Step::Write { name, content } => self.write(name, content).await,
            Step::Clean { names } => self.clean(names).await,
        };
        match done {
            Ok(answer) => Sent { end: End::Done(answer), verdict: Verdict::Success, pause: None },
            Err(Unanswered::Refused(failure)) => refused(failure),
            Err(Unanswered::Doubt(failure)) => {
                Sent { end: End::Doubt(failure.message.clone()), verdict: failure.verdict(), pause: None }
            }
        }
    }

    /// Only the making of an agent can't be told from its having been there.
    async fn ask(&self, _key: &str) -> Asked {
        if !matches!(self.step, Step::Create) {
            return Asked::NotThere;
        }
        match self.reached.client.agents().await {
            Ok(list) if list.agents.iter().any(|agent| agent.id == self.reached.agent.key()) => {
                Asked::Done(json!({"created": self.reached.agent.provisioned_at.is_none()}))
            }
            Ok(_) => Asked::NotThere,
            Err(_) => Asked::Unknown,
        }
    }

    /// Each step leads to the same when it is taken twice.
    fn deduplicates(&self) -> bool {
        true
    }
}
