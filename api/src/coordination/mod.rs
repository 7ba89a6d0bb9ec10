//! Speaking with agents behind gateways: the same operations by the routes of agents and as kinds of `POST /jobs`.
//!
//! * `policy`: which agent may do what, and to whom.
//! * `places`: boards, gateways and agents that a request names.
//! * `request`: what is asked for; `payload`: the same as the payload of a job.
//! * `operation`: from a request to a job; `answer`: from a job's end to what the caller reads.
//! * `chat`: whom an item in a board's chat is brought to.

pub(crate) mod answer;
pub(crate) mod chat;
pub(crate) mod operation;
pub(crate) mod payload;
pub(crate) mod places;
pub(crate) mod policy;
pub(crate) mod request;

use errand_common::domain::coordination::text::LOCAL_URL;

use crate::state::App;

/// Where agents are told to reply: without a slash at the end.
pub(crate) fn base_url(app: &App) -> &str {
    app.config.server.public_url.as_deref().map_or(LOCAL_URL, |url| url.trim_end_matches('/'))
}
