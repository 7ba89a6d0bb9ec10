//! What dies, and what holds: one test for each row of the table in ARCHITECTURE.md, with real processes and real signals.

mod api;
mod gateway;
mod postgres;
mod redis;
mod trial;
mod worker;
