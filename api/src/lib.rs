//! The API and the relay: everything that speaks HTTP.
//!
//! * [`serve()`]: from start to graceful end; `listen`: one listener.
//! * [`operations()`]: what a process without an api answers about itself.
//! * `router`: the table of routes; `route`: one file an endpoint; `view`: what they show.
//! * `scope`: what a caller may see.
//! * `extract`, `auth`, `idempotency`, `observe`, `problem`: what every request goes through.
//! * `batch`: lets what arrives together share a commit; `submit`, `callback`: what does.
//! * `coordination`: speaking with agents behind gateways.
//! * `relay`: streams to watchers, over SSE and WebSocket.

mod attachment;
mod auth;
mod batch;
mod budget;
mod cached;
mod callback;
mod cancel;
mod coordination;
mod dedup;
mod engines;
mod extract;
mod group;
mod http;
mod idempotency;
mod instance;
mod intake;
mod job;
mod limit;
mod listen;
mod observe;
mod openapi;
mod operations;
mod problem;
mod relay;
mod route;
mod router;
mod scope;
mod serve;
mod shown;
mod state;
mod submission;
mod submit;
mod task;
mod traced;
mod transcription;
mod view;
mod wait;
mod webhook;

pub use auth::{NoClient, look_at_key_set};
pub use openapi::openapi;
pub use operations::{NotReady, OperationsOptions, Readiness, operations, starting};
pub use serve::{ServeError, ServeOptions, serve};
pub use state::RenderMetrics;
