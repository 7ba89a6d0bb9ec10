//! How a job waits until an agent is there: one provisioning, however many wait, and whoever waits is held back meanwhile.

use std::time::Duration;

use errand_common::{
    domain::{
        AgentId, FailureClass, Priority,
        coordination::{Agent, AgentStatus},
    },
    port::store::{Claimed, NewJob, Submission, Window},
    wire::coordination::{PROVISION_FAILED, ProvisionPayload},
};

use crate::handler::{HandlerFailure, RunContext, asking::ask};

/// How long a provisioning is tried that its gateway stands in the way of, from its first request. Longer than a restart.
const WINDOW: Window = Window { length: Duration::from_secs(120), from_send: true };
/// Between two looks.
const LOOK: Duration = Duration::from_millis(400);

/// The agent is there; or else its provisioning is wanted now.
///
/// # Errors
/// It is not there yet: the job is held back. Or it could not be provisioned while this job waited for it.
pub(crate) async fn provisioned(context: &RunContext, claimed: &Claimed, agent: &Agent) -> Result<(), HandlerFailure> {
    if !agent.needs_provisioning() {
        return Ok(());
    }
    let (job, store, now) = (&claimed.job, &context.backend.store, context.backend.clock.now());
    if let (AgentStatus::Failed, Some(id)) = (agent.status, agent.provision_job) {
        let provisioning = ask(context, "a provisioning", || store.job(&job.tenant, id)).await?;
        // One that failed before this job was made is tried again.
        if provisioning.as_ref().and_then(|job| job.finished_at).is_some_and(|at| at >= job.created_at) {
            return Err(in_vain(agent, provisioning.and_then(|job| job.failure).map(|failure| failure.class)));
        }
    }
    let wanted = Submission { jobs: vec![provisioning(claimed, agent)], idempotency: None };
    let submit = || async {
        let (mut results, consequences) = store.submit(vec![wanted.clone()], now).await;
        context.backend.dispatch(consequences).await;
        results.pop().transpose()
    };
    ask(context, "a provisioning", submit).await?;
    Err(HandlerFailure::HeldBack { until: now.plus(LOOK), reason: "provisioning" })
}

/// The run alone writes the agent's files from here on.
///
/// # Errors
/// Another does: the job is held back.
pub(crate) async fn files(context: &RunContext, claimed: &Claimed, agent: AgentId) -> Result<(), HandlerFailure> {
    let (store, now) = (&context.backend.store, context.backend.clock.now());
    let taken = ask(context, "an agent's files", || store.take_files(claimed.fence, agent, now)).await?;
    match taken {
        Ok(true) => Ok(()),
        Ok(false) => Err(HandlerFailure::HeldBack { until: now.plus(LOOK), reason: "agent_busy" }),
        Err(stale) => Err(HandlerFailure::Failed {
            class: FailureClass::Transient,
            code: "NOT_HELD",
            message: stale.to_string(),
            retry_after: None,
        }),
    }
}

fn in_vain(agent: &Agent, class: Option<FailureClass>) -> HandlerFailure {
    let why = agent.provision_error.as_deref().unwrap_or("it was given up");
    HandlerFailure::Failed {
        // The provisioning was tried for as long as that may help.
        class: class.filter(|class| !class.may_pass()).unwrap_or(FailureClass::Invalid),
        code: PROVISION_FAILED,
        message: format!("Gateway provision failed: {why}"),
        retry_after: None,
    }
}

fn provisioning(claimed: &Claimed, agent: &Agent) -> NewJob {
    let payload = ProvisionPayload { agent_id: agent.id, overwrite: false, if_needed: true };
    let mut job = NewJob {
        // It always serialises: it has string keys only.
        payload: serde_json::to_value(payload).unwrap_or_default(),
        queue: claimed.job.queue.clone(),
        priority: Priority::default().min(claimed.job.priority),
        trace: Some(claimed.job.trace_context()),
        ..NewJob::provision(agent, false, None)
    };
    if let Some(coordination) = &mut job.coordination {
        coordination.window = Some(WINDOW);
    }
    job
}
