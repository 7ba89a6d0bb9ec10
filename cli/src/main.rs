//! The `errand` program.
fn main() {}
