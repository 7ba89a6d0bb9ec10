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
