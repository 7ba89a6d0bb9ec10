//! The process's environment: read here and nowhere else.

use std::{env, ffi::OsString, path::Path};

use errand_common::config::{self, Config, Faults, File};

use crate::{
    arguments::{ClientOptions, Global},
    command::dev::DATA_DIR,
};

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

/// The name under which a person can call this program again, as a shell takes it.
pub(crate) fn program() -> String {
    let name = env::args_os().next().and_then(|name: OsString| name.into_string().ok());
    quoted(&name.filter(|name| name.contains('/')).unwrap_or_else(|| "errand".to_owned()))
}

/// A command that a person can paste: this program, what it is to do, and the options that name the same server.
/// A key that was given is not repeated.
pub(crate) fn command(what: &str, options: &ClientOptions) -> String {
    let mut line = format!("{} {what}", program());
    if let Some(url) = options.url.as_deref().filter(|url| variable("ERRAND_URL").as_deref() != Some(url)) {
        line += &format!(" --url {}", quoted(url));
    }
    if options.data_dir != *DATA_DIR {
        line += &format!(" --data-dir {}", quoted(&options.data_dir.to_string_lossy()));
    }
    line
}

/// A word as a shell takes it.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_word_that_a_shell_would_take_apart_is_quoted() {
        assert_eq!(quoted("target/debug/errand"), "target/debug/errand");
        assert_eq!(quoted("my data"), "'my data'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_command_to_paste_names_the_same_server_and_no_key() {
        let options = ClientOptions {
            url: Some("http://h:1".to_owned()),
            key: Some("errand_secret".to_owned()),
            data_dir: PathBuf::from("my data"),
            json: false,
        };
        let line = command("jobs follow 01", &options);
        assert!(line.ends_with(" jobs follow 01 --url http://h:1 --data-dir 'my data'"), "{line}");
    }
}
