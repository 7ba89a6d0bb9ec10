//! `instance_task`: one prompt for the bridge of an instance. The bridge takes it, and calls back when it is answered; the job waits
//! for that without a worker.
//!
//! * `place`: where the bridge is.
//! * `poll`: asks a bridge that has not called back.

mod place;
pub(super) mod poll;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use errand_common::{
    config::{Config, Locale},
    domain::{
        Effect, FailureClass, JobId, Receipt, SessionId,
        instance::{Instance, InstanceStatus},
    },
    port::store::Claimed,
    wire::{
        callback::{self, Dispatch},
        http::{HttpPayload, Method},
        instance::{InstanceTaskPayload, KIND, VERSION},
    },
};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use self::place::Places;
use super::{
    Completion, Handler, HandlerFailure, RunContext, Waits,
    asking::ask,
    http::{HttpCall, HttpHandler},
    message::invalid,
};
use crate::effect::{self, Call, Description, Sent};

/// Where prompts go.
const PATH: &str = "/task-async";
/// Most dispatches of one job that are looked at. There is one, and one more for each time that its instance moved meanwhile.
const DISPATCHES: u32 = 1_000;

/// Hands prompts to bridges.
pub(crate) struct InstanceTaskHandler {
    http: HttpHandler,
    places: Places,
    locale: Locale,
}

impl InstanceTaskHandler {
    pub(crate) fn new(config: &Config) -> Self {
        Self { http: HttpHandler::new(config), places: Places::new(&config.outbound), locale: config.texts.locale }
    }

    /// What end users read of a dispatch that failed.
    fn told(&self, failure: HandlerFailure) -> HandlerFailure {
        match failure {
            HandlerFailure::Failed { class, code, message, retry_after } if class != FailureClass::Fatal => {
                HandlerFailure::Failed { class, code, message: self.locale.bridge_unreachable(&message), retry_after }
            }
            HandlerFailure::InDoubt { message } => {
                HandlerFailure::InDoubt { message: self.locale.bridge_unreachable(&message) }
            }
            other => other,
        }
    }

    /// Hands the prompt over, unless that is done. Returns once the bridge has taken it.
    async fn dispatch(
        &self,
        claimed: &Claimed,
        context: &Arc<RunContext>,
        (instance, payload): (&Instance, &InstanceTaskPayload),
    ) -> Result<(), HandlerFailure> {
        let job = claimed.job.id;
        let session = claimed
            .job
            .session_id
            .ok_or_else(|| invalid(KIND, &"it belongs to no session, and has nobody to answer"))?;
        let base = self.places.base_url(instance).await.map_err(|failure| self.told(failure))?;
        let url = format!("{base}{PATH}");
        let store = &context.backend.store;
        let known = ask(context, "the dispatches of a task", || store.effects(job, DISPATCHES)).await?;
        let vault = &context.backend.vault;
        let fresh = |ordinal| Dispatch { tenant: claimed.job.tenant.clone(), job_id: job, ordinal }.unsigned(vault);
        let ordinal = ordinal(known.last(), &place::destination(instance));
        let kept = known.last().filter(|effect| effect.ordinal == ordinal).and_then(|effect| effect.request.clone());
        let unsigned = kept.unwrap_or_else(|| fresh(ordinal));
        // The key that signed it may be gone since; then no callback under the old token would be believed either.
        let token = match callback::signed(&unsigned, vault) {
            Some(token) => token,
            None => callback::signed(&fresh(ordinal), vault).unwrap_or_default(),
        };
        let http = HttpPayload {
            method: Method::Post,
            url,
            headers: std::collections::BTreeMap::new(),
            body: Some(payload.request(session, job, &errand_common::domain::effect::key(job, ordinal), &token)),
            expect: Vec::new(),
            idempotent: true,
        };
        let call = BridgeCall {
            call: self.http.call(http, claimed).map_err(|failure| self.told(failure))?,
            destination: place::destination(instance),
            fingerprint: fingerprint(session, job, &payload.prompt),
            unsigned,
        };
        let done = effect::perform(context, self.http.policies(), ordinal, &call).await;
        done.map(drop).map_err(|failure| self.told(failure))
    }
}

/// The number of the dispatch to be made, or made again: another one if the instance has moved and nobody knows that its former
/// bridge took it. What that one says from then on is superseded.
fn ordinal(last: Option<&Effect>, destination: &str) -> u32 {
    match last {
        None => 1,
        Some(Effect { ordinal, receipt: Some((Receipt::Done(_), _)), .. }) => *ordinal,
        Some(effect) if effect.destination == destination => effect.ordinal,
        Some(effect) => effect.ordinal.saturating_add(1),
    }
}

/// Of what the bridge is to do.
fn fingerprint(session: SessionId, job: JobId, prompt: &str) -> String {
    let parts = serde_json::json!([session, job, prompt]);
    Sha256::digest(parts.to_string()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[async_trait]
impl Handler for InstanceTaskHandler {
    fn version(&self) -> u32 {
        VERSION
    }

    fn default_timeout(&self) -> Duration {
        self.http.default_timeout()
    }

    /// The dispatch has its own, shorter limit: an attempt that is cut off knows nothing of it.
    fn time_limit(&self, _claimed: &Claimed) -> Duration {
        self.http.default_timeout()
    }

    async fn run(&self, claimed: &Claimed, context: &Arc<RunContext>) -> Result<Completion, HandlerFailure> {
        let payload = InstanceTaskPayload::deserialize(&claimed.job.payload).map_err(|error| invalid(KIND, &error))?;
        let (store, tenant) = (&context.backend.store, &claimed.job.tenant);
        let instance = ask(context, "an instance", || store.instance(tenant, payload.instance_id)).await?;
        let instance = fit(instance, &payload)?;
        self.dispatch(claimed, context, (&instance, &payload)).await?;
        let until = context.backend.clock.now().plus(Duration::from_secs(payload.callback_seconds.into()));
        let poll_every = instance.poll_seconds.map(|seconds| Duration::from_secs(seconds.into()));
        Ok(Completion { waits: Waits::Callback { until, poll_every }, ..Completion::new(Value::Null) })
    }
}

/// The instance, if it takes prompts. One that starts will.
fn fit(instance: Option<Instance>, payload: &InstanceTaskPayload) -> Result<Instance, HandlerFailure> {
    let Some(instance) = instance else {
        let message = format!("Instance {} not found", payload.instance_id);
        return Err(unfit(FailureClass::Invalid, "INSTANCE_GONE", message));
    };
    match instance.unfit() {
        None => Ok(instance),
        Some(message) if instance.status == InstanceStatus::Starting => {
            Err(unfit(FailureClass::Transient, "INSTANCE_NOT_RUNNING", message))
        }
        Some(message) => Err(unfit(FailureClass::Invalid, "INSTANCE_NOT_RUNNING", message)),
    }
}

const fn unfit(class: FailureClass, code: &'static str, message: String) -> HandlerFailure {
    HandlerFailure::Failed { class, code, message, retry_after: None }
}

/// A prompt on its way to its bridge.
struct BridgeCall<'a> {
    call: HttpCall<'a>,
    destination: String,
    fingerprint: String,
    unsigned: String,
}

#[async_trait]
impl Call for BridgeCall<'_> {
    fn describe(&self) -> Description {
        Description { kind: KIND, destination: self.destination.clone(), fingerprint: self.fingerprint.clone() }
    }

    fn request(&self) -> Option<String> {
        Some(self.unsigned.clone())
    }

    async fn send(&self, key: &str) -> Sent {
        self.call.send(key).await
    }

    /// It is told the key, and takes what comes twice under it once.
    fn deduplicates(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use errand_common::domain::Timestamp;

    use super::*;

    fn dispatched(ordinal: u32, receipt: Option<Receipt>) -> Effect {
        Effect {
            job_id: JobId::new(),
            ordinal,
            key: "k".into(),
            kind: KIND.into(),
            destination: "a:1".into(),
            fingerprint: "f".into(),
            request: None,
            claim: 1,
            attempt: 1,
            intent_at: Timestamp::default(),
            receipt: receipt.map(|receipt| (receipt, Timestamp::default())),
        }
    }

    #[test]
    fn a_prompt_goes_under_one_number_until_its_instance_has_moved() {
        assert_eq!(ordinal(None, "a:1"), 1);
        for receipt in [None, Some(Receipt::Failed(Value::Null))] {
            let last = dispatched(2, receipt);
            assert_eq!((ordinal(Some(&last), "a:1"), ordinal(Some(&last), "b:1")), (2, 3));
        }
        let taken = dispatched(1, Some(Receipt::Done(Value::Null)));
        assert_eq!(ordinal(Some(&taken), "b:1"), 1, "its former bridge has it");
    }
}
