//! The `errand` program.
