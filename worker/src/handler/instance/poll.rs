//! `instance_poll`: asks a bridge what became of a prompt that it took and has not called back about. The sweep makes these jobs for
//! instances that want to be asked.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use errand_common::{
    config::{Config, Locale},
    domain::{Effect, FailureClass, JobState, instance::Said},
    port::store::{Callback, Claimed},
    wire::{
        http::{HttpPayload, Method},
        instance::{CallbackBody, POLL, PollPayload, VERSION},
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{DISPATCHES, PATH, place::Places};
use crate::{
    effect::{Call, End},
    handler::{Completion, Handler, HandlerFailure, RunContext, asking::ask, http::HttpHandler, message::invalid},
};

/// Asks bridges.
pub(crate) struct PollHandler {
    http: HttpHandler,
    places: Places,
    locale: Locale,
}

impl PollHandler {
    pub(crate) fn new(config: &Config) -> Self {
        Self { http: HttpHandler::new(config), places: Places::new(&config.outbound), locale: config.texts.locale }
    }

    /// What the bridge says; `None`: nothing new.
    fn understood(&self, answer: &Value) -> Option<Said> {
        let body = CallbackBody::deserialize(answer).ok()?;
        // Pieces come by callback alone: asked twice, it would say them twice.
        body.said(self.locale.bridge_timed_out(), self.locale.bridge_failed())
            .filter(|said| !matches!(said, Said::Piece { .. }))
    }
}

#[async_trait]
impl Handler for PollHandler {
    fn version(&self) -> u32 {
        VERSION
    }

    fn default_timeout(&self) -> Duration {
        self.http.default_timeout()
    }

    async fn run(&self, claimed: &Claimed, context: &Arc<RunContext>) -> Result<Completion, HandlerFailure> {
        let payload = PollPayload::deserialize(&claimed.job.payload).map_err(|error| invalid(POLL, &error))?;
        let (store, tenant) = (&context.backend.store, &claimed.job.tenant);
        let job = ask(context, "a job", || store.job(tenant, payload.job_id)).await?;
        let instance = ask(context, "an instance", || store.instance_of(tenant, payload.job_id)).await?;
        let sent = ask(context, "the dispatches of a task", || store.effects(payload.job_id, DISPATCHES)).await?;
        let waits = job.is_some_and(|job| job.state == JobState::AwaitingCallback);
        let (true, Some(instance), Some(Effect { key, ordinal, .. })) = (waits, instance, sent.last()) else {
            return Ok(Completion::new(json!({"state": "over"})));
        };
        let base = self.places.base_url(&instance).await?;
        let question = HttpPayload {
            method: Method::Get,
            url: format!("{base}{PATH}/{key}"),
            headers: std::collections::BTreeMap::new(),
            body: None,
            expect: vec![200, 202, 404],
            idempotent: true,
        };
        // It changes nothing there, so it is no effect: no key, no receipt.
        let said = match self.http.call(question, claimed)?.send(key).await.end {
            End::Done(answer) if answer["status"] == 404 => Some(Said::Failed {
                class: FailureClass::Transient,
                code: "BRIDGE_LOST_IT".to_owned(),
                message: self.locale.bridge_failed().to_owned(),
            }),
            End::Done(answer) => self.understood(&answer["body"]),
            End::Failed { message, .. } | End::Doubt(message) | End::Ambiguous(message) => {
                return Ok(Completion::new(json!({"state": "unknown", "reason": message})));
            }
        };
        let Some(said) = said else { return Ok(Completion::new(json!({"state": "running"}))) };
        let callback = Callback { tenant: tenant.clone(), job_id: payload.job_id, ordinal: *ordinal, said };
        let now = context.backend.clock.now();
        let (_, consequences) =
            ask(context, "what a bridge said", || store.call_back(vec![callback.clone()], now)).await?;
        context.backend.dispatch(consequences).await;
        Ok(Completion::new(json!({"state": "ended"})))
    }
}
