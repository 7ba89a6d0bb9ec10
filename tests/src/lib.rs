//! The harness: runs the real program in a directory of its own, as one process or as a cluster, and looks at it
//! from outside.
//!
//! A test asks for an [`Errand`] through [`both_modes!`], talks to it as a client would, and ends with
//! [`Errand::finish`], which fails the test if a job is unfinished or the log holds an error nobody expected.
//! Nothing here sleeps for luck: [`wait`] polls observable state until a deadline that is generous on purpose.

pub mod bridge;
pub mod chaos;
pub mod claude;
pub mod client;
pub mod collector;
pub mod destination;
pub mod errand;
pub mod fake_answer;
pub mod fake_gateway;
pub mod fake_messages;
pub mod fake_openai;
pub mod fake_transcription;
pub mod fleet;
pub mod identity;
pub mod port;
pub mod postgres;
pub mod process;
pub mod program;
pub mod proxy;
pub mod real_gateway;
pub mod redis;
pub mod run;
mod server;
pub mod setup;
pub mod socket;
pub mod sse;
pub mod usage;
pub mod wait;
pub mod watchdog;

pub use client::{Answer, Client, Task};
pub use errand::Errand;
pub use setup::{Mode, Setup};

/// Makes of each `async fn name(setup: Setup) { … }` two tests, `name::embedded` and `name::cluster`.
#[macro_export]
macro_rules! both_modes {
    ($($(#[doc = $doc:expr])* async fn $name:ident($setup:ident: Setup) $body:block)+) => {
        $($(#[doc = $doc])* mod $name {
            $crate::in_modes!($setup $body embedded: Embedded, cluster: Cluster);
        })+
    };
}

/// As [`both_modes!`], with a third test each, `name::dev_on_postgres`.
#[macro_export]
macro_rules! all_modes {
    ($($(#[doc = $doc:expr])* async fn $name:ident($setup:ident: Setup) $body:block)+) => {
        $($(#[doc = $doc])* mod $name {
            $crate::in_modes!($setup $body embedded: Embedded, cluster: Cluster, dev_on_postgres: DevOnPostgres);
        })+
    };
}

/// Makes of each `async fn name(setup: Setup) { … }` one test, `name::embedded`: it is about `errand dev` itself.
#[macro_export]
macro_rules! embedded_only {
    ($($(#[doc = $doc:expr])* async fn $name:ident($setup:ident: Setup) $body:block)+) => {
        $($(#[doc = $doc])* mod $name {
            $crate::in_modes!($setup $body embedded: Embedded);
        })+
    };
}

/// Makes of each `async fn name(setup: Setup) { … }` one test, `name::cluster`: it is about several processes.
#[macro_export]
macro_rules! cluster_only {
    ($($(#[doc = $doc:expr])* async fn $name:ident($setup:ident: Setup) $body:block)+) => {
        $($(#[doc = $doc])* mod $name {
            $crate::in_modes!($setup $body cluster: Cluster);
        })+
    };
}

/// What the macros above have in common.
#[doc(hidden)]
#[macro_export]
macro_rules! in_modes {
    ($setup:ident $body:block $($test:ident: $mode:ident),+) => {
        #[allow(unused_imports, clippy::allow_attributes, reason = "some bodies need nothing of their module")]
        use super::*;

        async fn body($setup: $crate::Setup) $body

        $(#[test]
        fn $test() {
            $crate::run::run(body($crate::Setup::new(env!("CARGO_BIN_EXE_errand-under-test"), $crate::Mode::$mode)));
        })+
    };
}
