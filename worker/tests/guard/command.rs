//! The `command` engine with real programs.
use libtest_mimic::Trial;
pub(crate) fn trials() -> Vec<Trial> {
    Vec::new()
}
