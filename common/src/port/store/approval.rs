//! Tool calls that wait for a person.

use async_trait::async_trait;

use super::{Consequences, EngineState, Stale, StoreError};
use crate::domain::{
    Approval, ApprovalId, ApprovalScope, Decision, Fence, Job, JobId, NewEvent, Timestamp, ToolCall, UsageReport,
};

/// What a run asks.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Its id, if it has to be kept.
    pub id: ApprovalId,
    /// The call.
    pub call: ToolCall,
}

/// What is known about what a run asked, in the order asked.
#[derive(Clone, PartialEq, Debug)]
pub struct Asked {
    /// Each call's decision; `None`: it waits, under this approval.
    pub decisions: Vec<(ApprovalId, Option<Decision>)>,
}

/// What a person says.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Scope.
    pub tenant: String,
    /// The task.
    pub job_id: JobId,
    /// Which of its calls; unneeded if one waits.
    pub approval_id: Option<ApprovalId>,
    /// What.
    pub ruling: Ruling,
    /// Who: a key's id or a user's.
    pub decided_by: String,
    /// Now.
    pub now: Timestamp,
}

/// What a person says about a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ruling {
    /// It may run.
    Approve(ApprovalScope),
    /// It may not, and the engine is told so; the turn goes on.
    Deny {
        /// For the engine.
        message: String,
    },
    /// It may not, and the task ends: cancelled, code `USER_REJECT`.
    Reject,
}

/// What became of a verdict.
#[derive(Clone, PartialEq, Debug)]
pub enum Ruled {
    /// It counts. The job as it is now: still `awaiting_approval` if more calls wait.
    Done(Box<Job>),
    /// The job asks nothing now.
    NotAwaiting(Box<Job>),
    /// Several calls wait, and the verdict names none of them.
    Several(Vec<Approval>),
    /// No such call of this job waits; it may have been decided, or expired, a moment ago.
    NotPending,
}

/// What a run leaves behind that lets go of its process while its question waits.
#[derive(Clone, Debug)]
pub struct Park {
    /// Whose.
    pub fence: Fence,
    /// Last events.
    pub events: Vec<NewEvent>,
    /// What it spent; one record a claim.
    pub usage: Option<UsageReport>,
    /// What the engine needs to go on.
    pub engine_state: Option<EngineState>,
}

/// What became of an attempt to park.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parked {
    /// The claim is over; the job waits without a holder, and becomes `queued` with the last decision.
    Done,
    /// It was decided a moment ago: the claim is over, and the job is `queued`.
    Decided,
    /// The fence is no longer the job's.
    Stale,
}

/// Tool calls that wait for a person.
#[async_trait]
pub trait Approvals: Send + Sync {
    /// A run asks whether it may make these calls. For each that is decided already it gets the decision: an equal call
    /// (same tool, same input) of the same job that a former claim asked and that was decided is answered by that, once for each call decided; a tool that
    /// was approved for the session is allowed. The others are kept, each with an `approval_required` event; if there are any, the job is
    /// `awaiting_approval` from here on. Asking again under the same ids, after doubt, changes nothing.
    async fn ask(
        &self,
        fence: Fence,
        asks: Vec<Ask>,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Result<(Result<Asked, Stale>, Consequences), StoreError>;

    /// What was decided about these calls of a run; `None` for those that still wait.
    async fn decisions(&self, fence: Fence, ids: &[ApprovalId]) -> Result<Vec<Option<Decision>>, StoreError>;

    /// A person decides. What is approved for the session is approved for all calls of the tool that wait. With the last decision the job goes on in the same transaction: `running` if a claim holds it (it is
    /// told, see [`Consequences::decided`]) and its lease has not passed, else `queued`. `None`: no such job in this tenant.
    async fn rule(&self, verdict: Verdict) -> Result<Option<(Ruled, Consequences)>, StoreError>;

    /// The engine asks these no more. With the last of them the job is `running` again.
    async fn withdraw(
        &self,
        fence: Fence,
        ids: &[ApprovalId],
        now: Timestamp,
    ) -> Result<(Result<(), Stale>, Consequences), StoreError>;

    /// The holder lets go of a job that waits: no attempt is spent.
    async fn park(&self, park: Park, now: Timestamp) -> Result<(Parked, Consequences), StoreError>;

    /// Expires what nobody decided in time, up to `limit`; expiry denies, and the job goes on as after [`Approvals::rule`].
    async fn expire_approvals(&self, now: Timestamp, limit: u32) -> Result<(usize, Consequences), StoreError>;

    /// The approvals of a job, oldest first, up to 1,000. Empty if there is no such job in this tenant.
    async fn approvals(&self, tenant: &str, job: JobId) -> Result<Vec<Approval>, StoreError>;
}
