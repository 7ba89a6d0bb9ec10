//! Behaviour, seen from outside, and the promises of the ports. One binary, so that all tests share one PostgreSQL.

mod architecture;
mod bad_input;
mod cancel;
mod cli;
mod command_engine;
mod conformance;
mod crash;
mod dedup;
mod drain;
mod group;
mod harness;
mod idempotency;
mod jobs;
mod keys;
mod openai_engine;
mod openapi;
mod queues;
mod redis_faults;
mod retention;
mod retry;
mod roles;
mod schedule;
mod session;
mod socket;
mod stream;
mod submit;
