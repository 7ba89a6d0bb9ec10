//! From what clients say of an endpoint to the endpoint.

use errand_common::{
    domain::{
        WebhookId,
        webhook::{EVENTS, WebhookFormat, is_filter},
    },
    port::store::NewWebhook,
    wire::webhook::{Secrets, WebhookSecret, check_url},
};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    limit,
    problem::{Faults, Problem},
    state::App,
    view::schema,
};

/// Who is told of one job's end.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhookTarget {
    /// Where: an https URL at a public address, or a URL within the networks that the operator allows.
    #[schema(example = "https://example.com/hooks/errand", max_length = 2048)]
    url: String,
    /// What signs the delivery: `whsec_` followed by 24 to 64 bytes in base64. Without it the delivery is not signed.
    secret: Option<String>,
    /// How it is told; `standard` if absent.
    #[schema(schema_with = schema::webhook_format)]
    format: Option<WebhookFormat>,
}

/// The secret is not shown.
impl std::fmt::Debug for WebhookTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookTarget").field("format", &self.format).finish_non_exhaustive()
    }
}

impl WebhookTarget {
    /// The endpoint, with every fault found; `at` is where the request names it.
    pub(crate) fn judge(self, app: &App, at: &str) -> Result<NewWebhook, Problem> {
        let mut faults = Faults::default();
        let url = kept_url(app, &self.url, &format!("{at}/url"), &mut faults);
        let secret = kept_secret(self.secret.as_deref(), &format!("{at}/secret"), &mut faults);
        faults.finish()?;
        let id = WebhookId::new();
        let secrets = secret.map(|secret| Secrets::new(secret).seal(&app.backend.vault, id));
        let format = self.format.unwrap_or_default();
        Ok(NewWebhook { id, url, description: String::new(), events: Vec::new(), format, secrets })
    }
}

/// The URL as it is kept.
pub(crate) fn kept_url(app: &App, url: &str, pointer: &str, faults: &mut Faults) -> String {
    check_url(url, &app.config.outbound.allow).unwrap_or_else(|why| {
        faults.add(pointer, why);
        String::new()
    })
}

/// The client's own secret, if there is one.
pub(crate) fn kept_secret(secret: Option<&str>, pointer: &str, faults: &mut Faults) -> Option<WebhookSecret> {
    let secret = WebhookSecret::parse(secret?);
    faults.check(secret.is_some(), pointer, || WebhookSecret::FORM.to_owned());
    secret
}

/// Checks which events an endpoint wants.
pub(crate) fn check_events(events: &[String], faults: &mut Faults) {
    faults.check(events.len() <= limit::WEBHOOK_FILTERS, "/events", || {
        format!("may name {} types at most", limit::WEBHOOK_FILTERS)
    });
    for (index, event) in events.iter().enumerate().take(limit::WEBHOOK_FILTERS) {
        faults.check(is_filter(event), &format!("/events/{index}"), || {
            format!("must be a type or a family such as job.*; types are {}", EVENTS.join(", "))
        });
    }
}
