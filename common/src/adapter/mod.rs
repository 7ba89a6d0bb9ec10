//! Who keeps the promises of [`crate::port`].

pub mod clock;
pub mod memory;
pub mod redis;
pub mod sql;
