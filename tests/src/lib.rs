//! The harness: runs the real program in a directory of its own, on either store, and looks at it from outside.
//!
//! A test asks for an [`Errand`] through [`both_stores!`], talks to it as a client would, and ends with
//! [`Errand::finish`], which fails the test if a job is unfinished or the log holds an error nobody expected.
//! Nothing here sleeps for luck: [`wait`] polls observable state until a deadline that is generous on purpose.

pub mod chaos;
pub mod client;
pub mod destination;
pub mod errand;
pub mod fake_openai;
pub mod fleet;
pub mod port;
pub mod postgres;
pub mod process;
pub mod program;
pub mod proxy;
pub mod redis;
pub mod run;
pub mod setup;
pub mod socket;
pub mod sse;
pub mod wait;
pub mod watchdog;

pub use client::{Answer, Client, Task};
pub use errand::Errand;
pub use setup::{Setup, Store};

/// Makes of each `async fn name(setup: Setup) { … }` two tests, `name::sqlite` and `name::postgres`.
#[macro_export]
macro_rules! both_stores {
    ($($(#[doc = $doc:expr])* async fn $name:ident($setup:ident: Setup) $body:block)+) => {
        $($(#[doc = $doc])* mod $name {
            #[allow(unused_imports, clippy::allow_attributes, reason = "some bodies need nothing of their module")]
            use super::*;

            async fn body($setup: $crate::Setup) $body

            #[test]
            fn sqlite() {
                $crate::run::run(body($crate::Setup::new(env!("CARGO_BIN_EXE_errand-under-test"), $crate::Store::Sqlite)));
            }

            #[test]
            fn postgres() {
                $crate::run::run(body($crate::Setup::new(env!("CARGO_BIN_EXE_errand-under-test"), $crate::Store::Postgres)));
            }
        })+
    };
}
