//! The process's environment: read here and nowhere else.

use std::{env, path::Path};

use errand_common::config::{self, Config, Faults, File};

use crate::arguments::Global;

/// The file that is read if it is there.
const DEFAULT_FILE: &str = "errand.toml";

/// The configuration of this process.
///
/// # Errors
/// All its faults.
pub(crate) fn load(global: &Global) -> Result<Config, Faults> {
    let file = match &global.config {
        Some(path) => File::Required(path),
        None => File::IfPresent(Path::new(DEFAULT_FILE)),
    };
    let variables = env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .filter(|(name, _)| name.starts_with("ERRAND_"));
    config::load(file, variables)
}

/// A variable that is set and not empty.
pub(crate) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The name under which a person can call this program again.
pub(crate) fn program() -> String {
    env::args().next().filter(|name| name.contains('/')).unwrap_or_else(|| "errand".to_owned())
}
