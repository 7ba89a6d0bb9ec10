//! The chaos program: a fleet of real processes under load, faults from a seed, and a checker over what is left behind.

pub mod check;
pub mod history;
pub mod schedule;
