//! What an environment variable names.

use super::schema;

/// Shorthands: the variable, and the setting it stands for.
const SHORTHANDS: &[(&str, &str, &str)] = &[
    ("ERRAND_DATABASE_URL", "database", "url"),
    ("ERRAND_REDIS_URL", "redis", "url"),
    ("ERRAND_LISTEN", "server", "listen"),
    ("ERRAND_PUBLIC_URL", "server", "public_url"),
];

/// Variables that are read elsewhere: by the command line, or given by us to an engine's program.
const ELSEWHERE: &[&str] = &[
    "ERRAND_URL",
    "ERRAND_API_KEY",
    "ERRAND_CONFIG",
    "ERRAND_LOG",
    "ERRAND_LOG_FORMAT",
    "ERRAND_TASK_ID",
    "ERRAND_SESSION_ID",
    "ERRAND_ATTEMPT",
];

/// What a variable names.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Variable {
    /// Nothing of the configuration.
    NotOurs,
    /// A setting outside `[engines]`, known or not.
    Setting { section: String, key: String },
    /// `engines.default`.
    DefaultEngine,
    /// A setting of one engine.
    Engine { name: String, key: String },
    /// It looks like ours and is not.
    Unknown { nearest: Option<String> },
}

/// Reads a variable's name. Names of engines are matched to those configured without regard to case.
pub(super) fn read<'a>(variable: &str, mut engines: impl Iterator<Item = &'a str>) -> Variable {
    let Some(rest) = variable.strip_prefix("ERRAND_") else { return Variable::NotOurs };
    if ELSEWHERE.contains(&variable) {
        return Variable::NotOurs;
    }
    if let Some((_, section, key)) = SHORTHANDS.iter().find(|(name, ..)| *name == variable) {
        return Variable::Setting { section: (*section).to_owned(), key: (*key).to_owned() };
    }
    let parts: Vec<String> = rest.split("__").map(str::to_lowercase).collect();
    match parts.as_slice() {
        [section, key] if section == "engines" && key == "default" => Variable::DefaultEngine,
        [section, name, key] if section == "engines" => {
            let name = engines.find(|known| known.eq_ignore_ascii_case(name)).unwrap_or(name).to_owned();
            Variable::Engine { name, key: key.clone() }
        }
        [section, key] if schema::rule(&format!("{section}.{key}")).is_some() => {
            Variable::Setting { section: section.clone(), key: key.clone() }
        }
        _ => Variable::Unknown { nearest: nearest(variable) },
    }
}

fn nearest(variable: &str) -> Option<String> {
    let settings = schema::SETTINGS.iter().map(|(key, _)| format!("ERRAND_{}", key.replace('.', "__").to_uppercase()));
    let others = SHORTHANDS.iter().map(|(name, ..)| *name).chain(ELSEWHERE.iter().copied()).map(str::to_owned);
    let known: Vec<String> = settings.chain(others).collect();
    schema::nearest(variable, known.iter().map(String::as_str)).map(str::to_owned)
}
