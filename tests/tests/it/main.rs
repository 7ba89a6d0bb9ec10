//! Behaviour, seen from outside. One binary, so that all tests share one PostgreSQL.

mod conformance;
mod harness;
