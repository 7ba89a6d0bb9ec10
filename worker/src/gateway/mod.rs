//! The client of OpenClaw gateways: one connection for each gateway and credential, used by all runs of this worker at once.
//!
//! ```text
//! Gateways ─► Link ──────────► Connection ─► socket
//!  (pool)      │ backoff        │ requests in flight, ticks, pings
//!              │ credentials    └─ chat events ─► Watch
//!              └─ Turn ─► deliver: one message, once
//! ```
//!
//! * [`Gateways`]: the pool; [`Target`] says where and as whom.
//! * [`Gateway`]: one gateway's methods, typed. Each ends as an answer, or [`Unanswered`]: refused, so that nothing happened,
//!   or in doubt.
//! * [`Turn::deliver`]: a message that is said once, whatever breaks.
//! * [`Gateway::watch`]: what a session's agent says, as it says it.
//! * [`Devices`]: where this installation's identity at a gateway is kept.
//!
//! Frames are encoded strictly and decoded leniently: gateways refuse fields they don't know, and send some that we don't.

mod connection;
mod counted;
mod device;
pub mod failure;
mod frame;
mod handshake;
mod link;
mod message;
mod method;
mod pool;
mod requests;
mod scope;
mod settings;
mod target;
mod tls;
mod transport;
mod turn;
mod watch;

pub(crate) use device::fresh_seed;
pub use device::{Devices, DevicesAway, DevicesInMemory, KeptDevice};
pub use failure::{GatewayFailure, Unanswered};
pub use link::Gateway;
pub use message::{Delivered, Message, Undelivered};
pub use method::{
    agents::{Agent, AgentChange, AgentList, CreatedAgent, NewAgent},
    chat::{Aborted, HistoryPage, HistoryRequest, RunEnd, RunEndStatus},
    config::ConfigSnapshot,
    files::{AgentFile, FileEntry},
    sessions::PatchedSession,
};
pub use pool::Gateways;
pub use settings::Settings;
pub use target::{Access, BadTarget, Target};
pub use turn::Turn;
pub use watch::{ChatEvent, ChatNews, ChatState, Watch};
