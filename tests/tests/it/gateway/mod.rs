//! What workers do at gateways, against the fake one: messages, souls, leads, questions, whatever goes wrong.

mod answers;
mod broadcast;
mod doctor;
mod engine;
mod faults;
mod fleet;
mod message;
mod parity;
mod provision;
mod question;
mod rest;
mod soul;
mod waves;
mod world;

pub(crate) use world::{Place, World};

/// Each body becomes a test in this process with SQLite and the queue in memory, and one with PostgreSQL and Redis.
macro_rules! everywhere {
    ($(async fn $name:ident($place:ident: Place) $body:block)+) => {
        $(mod $name {
            use super::*;

            async fn body($place: Place) $body

            #[test]
            fn embedded() {
                errand_tests::run::run(body(Place::Embedded));
            }

            #[test]
            fn cluster() {
                errand_tests::run::run(body(Place::Cluster));
            }
        })+
    };
}
pub(crate) use everywhere;
