//! Built-in defaults ← file ← environment, checked whole.
//!
//! The environment is an argument: nothing here reads the process's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::{Table, Value};

use super::{
    Config, agreement,
    environment::{self, Variable},
    fault::{Fault, Faults, Origin},
    schema::{self, EngineSetting, Rule},
};

/// Which file to read.
#[derive(Clone, Copy, Debug)]
pub enum File<'a> {
    /// None.
    None,
    /// This one, if it is there.
    IfPresent(&'a Path),
    /// This one; a fault if it is missing.
    Required(&'a Path),
}

/// Loads a configuration.
///
/// # Errors
/// All faults at once.
pub fn load(file: File<'_>, variables: impl IntoIterator<Item = (String, String)>) -> Result<Config, Faults> {
    let mut draft = Draft::default();
    draft.read(file);
    // The long form of a name wins over its shorthand, so it comes later.
    let mut variables: Vec<_> = variables.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    variables.sort_by_key(|(name, _)| (name.contains("__"), name.clone()));
    for (name, value) in variables {
        draft.variable(&name, &value);
    }
    draft.finish()
}

/// A value before its setting's rule is known.
enum Raw {
    Toml(Value),
    Text(String),
}

impl Raw {
    /// A text setting takes a variable as it is; others read it as TOML.
    fn interpret(self, rule: Option<Rule>) -> Value {
        match self {
            Self::Toml(value) => value,
            Self::Text(text) if rule.is_none_or(Rule::takes_text) => Value::String(text),
            Self::Text(text) => {
                let document = format!("value = {text}");
                let parsed = document.parse::<Table>().ok().and_then(|mut table| table.remove("value"));
                parsed.unwrap_or(Value::String(text))
            }
        }
    }
}

/// The table of one engine, its fields not yet checked: they depend on its type.
struct EngineDraft {
    origin: Origin,
    fields: BTreeMap<String, (Raw, Origin)>,
}

/// What has been read so far.
#[derive(Default)]
struct Draft {
    sections: BTreeMap<String, Table>,
    /// Where each setting was read last.
    origins: BTreeMap<String, Origin>,
    default_engine: Option<(String, Origin)>,
    engines: BTreeMap<String, EngineDraft>,
    faults: Vec<Fault>,
}

impl Draft {
    fn fault(&mut self, origin: &Origin, key: impl Into<String>, detail: impl Into<String>) {
        self.faults.push(Fault { origin: origin.clone(), key: key.into(), detail: detail.into() });
    }

    fn read(&mut self, file: File<'_>) {
        let (path, required) = match file {
            File::None => return,
            File::IfPresent(path) => (path, false),
            File::Required(path) => (path, true),
        };
        let origin = Origin::File(PathBuf::from(path));
        match std::fs::read_to_string(path) {
            Ok(text) => self.document(&text, &origin),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => {}
            Err(error) => self.fault(&origin, "", format!("can't be read: {error}")),
        }
    }

    fn document(&mut self, text: &str, origin: &Origin) {
        let table = match text.parse::<Table>() {
            Ok(table) => table,
            Err(error) => {
                // The error's own rendering quotes the line, which may hold a secret.
                let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
                return self.fault(origin, "", format!("line {line} is not valid TOML: {}", error.message()));
            }
        };
        for (section, content) in table {
            match content {
                Value::Table(fields) if section == "engines" => self.engines_table(fields, origin),
                Value::Table(prices) if section == "prices" => self.prices(prices, origin),
                Value::Table(mut fields) => {
                    if section == "gates"
                        && let Some(destinations) = fields.remove("destinations")
                    {
                        self.destinations(destinations, origin);
                    }
                    for (key, value) in fields {
                        self.setting(&section, &key, Raw::Toml(value), origin);
                    }
                }
                _ if schema::sections().any(|known| known == section) => {
                    self.fault(origin, &section, format!("is not a table; write [{section}]"));
                }
                _ => self.unknown(origin, &section, &section, schema::sections()),
            }
        }
    }

    /// `[gates.destinations]`: a table of tables, each named by its destination.
    fn destinations(&mut self, content: Value, origin: &Origin) {
        const SECTION: &str = "gates.destinations";
        let Value::Table(destinations) = content else {
            return self.fault(origin, SECTION, "is not a table; write [gates.destinations.\"api.example.com:443\"]");
        };
        let mut table = Table::new();
        for (name, content) in destinations {
            let place = format!("{SECTION}.{name:?}");
            let Value::Table(fields) = content else {
                self.fault(origin, &place, format!("is not a table; write [{place}]"));
                continue;
            };
            if !schema::is_destination(&name) {
                let detail = "does not name a destination; allowed: host and port, such as \"api.example.com:443\"";
                self.fault(origin, &place, detail);
            }
            for (key, value) in &fields {
                let setting = format!("{place}.{key}");
                match schema::DESTINATION.iter().find(|(known, _)| known == key) {
                    None => self.unknown(origin, &setting, key, schema::DESTINATION.iter().map(|(known, _)| *known)),
                    Some((_, rule)) => {
                        if let Err(detail) = rule.check(value) {
                            self.fault(origin, setting, detail);
                        }
                    }
                }
            }
            table.insert(name, Value::Table(fields));
        }
        self.sections.entry("gates".to_owned()).or_default().insert("destinations".to_owned(), Value::Table(table));
    }

    /// `[prices]`: a table of tables, each named by its model.
    fn prices(&mut self, models: Table, origin: &Origin) {
        for (model, content) in &models {
            let place = format!("prices.{model:?}");
            let Value::Table(fields) = content else {
                self.fault(origin, &place, format!("is not a table; write [{place}]"));
                continue;
            };
            self.check_fields(&place, fields, schema::PRICE, origin);
        }
        self.sections.insert("prices".to_owned(), models);
    }

    /// Checks a table that stands for itself: a price, a tool.
    fn check_fields(&mut self, place: &str, fields: &Table, settings: &[EngineSetting], origin: &Origin) {
        for (key, value) in fields {
            let name = format!("{place}.{key}");
            match settings.iter().find(|setting| setting.key == key) {
                None => self.unknown(origin, &name, key, settings.iter().map(|setting| setting.key)),
                Some(setting) => {
                    if let Err(detail) = setting.rule.check(value) {
                        self.fault(origin, name, detail);
                    }
                }
            }
        }
        for setting in settings.iter().filter(|setting| setting.required && !fields.contains_key(setting.key)) {
            let detail = format!("is missing; allowed: {}", setting.rule.allowed());
            self.fault(origin, format!("{place}.{}", setting.key), detail);
        }
    }

    /// `[[engines.<name>.tools]]`
    fn tools(&mut self, place: &str, tools: &Value, origin: &Origin) {
        let mut names = BTreeSet::new();
        for (number, tool) in tools.as_array().into_iter().flatten().enumerate() {
            let Value::Table(fields) = tool else { continue };
            let place = format!("{place}[{number}]");
            self.check_fields(&place, fields, schema::TOOL, origin);
            if let Some(name) = fields.get("name").and_then(Value::as_str)
                && !names.insert(name)
            {
                self.fault(origin, format!("{place}.name"), format!("is {name:?}, as another tool's of this engine"));
            }
        }
    }

    fn engines_table(&mut self, fields: Table, origin: &Origin) {
        for (name, content) in fields {
            match content {
                Value::Table(fields) if name != "default" => {
                    self.engine(&name, origin);
                    for (key, value) in fields {
                        self.engine_field(&name, &key, Raw::Toml(value), origin);
                    }
                }
                Value::String(engine) if name == "default" => self.default_engine = Some((engine, origin.clone())),
                _ if name == "default" => {
                    self.fault(origin, "engines.default", "is not text; allowed: the name of an engine");
                }
                _ => self.fault(origin, format!("engines.{name}"), format!("is not a table; write [engines.{name}]")),
            }
        }
    }

    fn variable(&mut self, name: &str, value: &str) {
        let origin = Origin::Variable(name.to_owned());
        let raw = Raw::Text(value.to_owned());
        match environment::read(name, self.engines.keys().map(String::as_str)) {
            Variable::NotOurs => {}
            Variable::Setting { section, key } => self.setting(&section, &key, raw, &origin),
            Variable::DefaultEngine => self.default_engine = Some((value.to_owned(), origin)),
            Variable::Engine { name, key } => {
                self.engine(&name, &origin);
                self.engine_field(&name, &key, raw, &origin);
            }
            Variable::Unknown { nearest } => {
                let hint = nearest.map_or_else(
                    || "settings are named ERRAND_SECTION__KEY".to_owned(),
                    |name| format!("did you mean {name}?"),
                );
                self.fault(&origin, "", format!("is not a variable of Errand; {hint}"));
            }
        }
    }

    fn setting(&mut self, section: &str, key: &str, raw: Raw, origin: &Origin) {
        let name = format!("{section}.{key}");
        let Some(rule) = schema::rule(&name) else {
            return self.unknown_setting(origin, &name, key);
        };
        let value = raw.interpret(Some(rule));
        match rule.check(&value) {
            Ok(()) => {
                self.sections.entry(section.to_owned()).or_default().insert(key.to_owned(), value);
                self.origins.insert(name, origin.clone());
            }
            Err(detail) => self.fault(origin, name, detail),
        }
    }

    /// A key that is known in another section is the likelier meaning than one that only looks alike.
    fn unknown_setting(&mut self, origin: &Origin, name: &str, key: &str) {
        let names = || schema::SETTINGS.iter().map(|(known, _)| *known);
        let elsewhere = names().find(|known| known.split_once('.').is_some_and(|(_, last)| last == key));
        match elsewhere.or_else(|| schema::nearest(name, names())) {
            Some(meant) => self.fault(origin, name, format!("is not a setting; did you mean {meant}?")),
            None => {
                let section = name.split('.').next().unwrap_or_default().to_owned();
                let siblings: Vec<_> = names()
                    .filter_map(|known| known.split_once('.').filter(|(s, _)| *s == section).map(|(_, last)| last))
                    .collect();
                let known = if siblings.is_empty() {
                    format!("sections are {}", schema::sections().collect::<Vec<_>>().join(", "))
                } else {
                    format!("[{section}] has {}", siblings.join(", "))
                };
                self.fault(origin, name, format!("is not a setting; {known}"));
            }
        }
    }

    fn unknown<'a>(&mut self, origin: &Origin, name: &str, wrong: &str, known: impl Iterator<Item = &'a str>) {
        let known: Vec<_> = known.collect();
        let hint = schema::nearest(wrong, known.iter().copied())
            .map_or_else(|| format!("known are {}", known.join(", ")), |meant| format!("did you mean {meant}?"));
        self.fault(origin, name, format!("is not a setting; {hint}"));
    }

    fn engine(&mut self, name: &str, origin: &Origin) {
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(named) {
            return self.fault(
                origin,
                format!("engines.{name}"),
                "is not a name for an engine; allowed: 1 to 64 of A-Z a-z 0-9 _ - .",
            );
        }
        self.engines
            .entry(name.to_owned())
            .or_insert_with(|| EngineDraft { origin: origin.clone(), fields: BTreeMap::new() });
    }

    fn engine_field(&mut self, name: &str, key: &str, raw: Raw, origin: &Origin) {
        if let Some(engine) = self.engines.get_mut(name) {
            engine.fields.insert(key.to_owned(), (raw, origin.clone()));
        }
    }

    fn finish(mut self) -> Result<Config, Faults> {
        let mut engines = Table::new();
        for (name, engine) in std::mem::take(&mut self.engines) {
            let table = self.check_engine(&name, engine);
            engines.insert(name, Value::Table(table));
        }
        if let Some((name, origin)) = self.default_engine.take() {
            // `echo` is built in.
            if name != "echo" && !engines.contains_key(&name) {
                let names = engines.keys().map(String::as_str);
                let configured: Vec<_> = names.filter(|known| *known != "echo").chain(["echo"]).collect();
                let detail =
                    format!("names {name:?}, which is not configured; configured are {}", configured.join(", "));
                self.fault(&origin, "engines.default", detail);
            }
            engines.insert("default".to_owned(), Value::String(name));
        }
        Faults::check(self.faults)?;
        let mut document: Table =
            self.sections.into_iter().map(|(section, fields)| (section, Value::Table(fields))).collect();
        document.insert("engines".to_owned(), Value::Table(engines));
        let unknown = || Origin::File(PathBuf::from("configuration"));
        let config = Config::deserialize(Value::Table(document)).map_err(|error| {
            Faults::from(Fault { origin: unknown(), key: String::new(), detail: error.message().to_owned() })
        })?;
        let faults = agreement::check(&config).into_iter().map(|(key, detail)| {
            let origin = self.origins.get(key).cloned().unwrap_or_else(unknown);
            Fault { origin, key: key.to_owned(), detail }
        });
        Faults::check(faults.collect())?;
        Ok(config)
    }

    fn check_engine(&mut self, name: &str, engine: EngineDraft) -> Table {
        let prefix = format!("engines.{name}");
        let mut fields = engine.fields;
        let mut table = Table::new();
        let types = || schema::ENGINES.iter().map(|(known, _)| *known);
        let stated = fields.remove("type").map(|(raw, origin)| (raw.interpret(None), origin));
        let engine_type = match stated {
            None => name.to_owned(),
            Some((Value::String(text), origin)) => {
                if schema::engine_settings(&text).is_none() {
                    let known = types().collect::<Vec<_>>().join(", ");
                    self.fault(&origin, format!("{prefix}.type"), format!("is {text:?}; allowed: {known}"));
                    return table;
                }
                text
            }
            Some((_, origin)) => {
                self.fault(&origin, format!("{prefix}.type"), "is not text");
                return table;
            }
        };
        let Some(settings) = schema::engine_settings(&engine_type) else {
            let known = types().collect::<Vec<_>>().join(", ");
            self.fault(&engine.origin, prefix, format!("has no type; add type = one of {known}"));
            return table;
        };
        for (key, (raw, origin)) in fields {
            let setting_name = format!("{prefix}.{key}");
            let Some(setting) = settings.iter().find(|setting| setting.key == key) else {
                let known = settings.iter().map(|setting| setting.key).chain(["type"]);
                self.unknown(&origin, &setting_name, &key, known);
                continue;
            };
            let value = raw.interpret(Some(setting.rule));
            if let Err(detail) = setting.rule.check(&value) {
                self.fault(&origin, &setting_name, detail);
            }
            if matches!(setting.rule, Rule::Tools) {
                self.tools(&setting_name, &value, &origin);
            }
            // Kept even if faulty, so that it isn't reported as missing too.
            table.insert(key, value);
        }
        for setting in settings.iter().filter(|setting| setting.required && !table.contains_key(setting.key)) {
            let detail = format!("is missing; allowed: {}", setting.rule.allowed());
            self.fault(&engine.origin, format!("{prefix}.{}", setting.key), detail);
        }
        // Said here rather than by a server that refuses every request.
        let number = |key: &str| table.get(key).and_then(Value::as_integer);
        if table.get("thinking").and_then(Value::as_str) == Some("enabled")
            && number("thinking_budget_tokens").unwrap_or(4_096) >= number("max_tokens").unwrap_or(16_384)
        {
            let detail = "is not less than max_tokens, which includes it";
            self.fault(&engine.origin, format!("{prefix}.thinking_budget_tokens"), detail);
        }
        table.insert("type".to_owned(), Value::String(engine_type));
        table
    }
}

#[cfg(test)]
mod tests;
