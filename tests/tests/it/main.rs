//! Behaviour, seen from outside, and the promises of the ports. One binary, so that all tests share one PostgreSQL.

mod architecture;
mod bad_input;
mod cancel;
mod cli;
mod command_engine;
mod conformance;
mod crash;
mod drain;
mod failure;
mod harness;
mod idempotency;
mod jobs;
mod keys;
mod openai_engine;
mod openapi;
mod redis_faults;
mod retry;
mod schedule;
mod session;
mod socket;
mod stream;
mod submit;
