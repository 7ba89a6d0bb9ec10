//! Holds `docs/configuration.md` against the schema, the defaults and the field docs of this module.

use serde_json::{Value, json};

use super::{
    Config, Engine, File, Tool, load,
    schema::{self, Rule},
};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
const SOURCES: [&str; 5] = [
    include_str!("mod.rs"),
    include_str!("engine.rs"),
    include_str!("gateways.rs"),
    include_str!("telemetry.rs"),
    include_str!("webhooks.rs"),
];
const PRICE_SOURCE: &str = include_str!("price.rs");
const TOOL_SOURCE: &str = include_str!("tool.rs");
const BEGIN: &str = "<!-- settings: written by a test, not by hand -->\n";
const END: &str = "<!-- end of settings -->\n";

/// The docs of a field: the lines above it in the struct that `above` introduces.
fn meaning(above: &str, key: &str) -> String {
    let source = SOURCES.into_iter().find(|source| source.contains(above));
    meaning_in(source.unwrap_or_else(|| panic!("{above} is in no source")), above, key)
}

fn meaning_in(source: &str, above: &str, key: &str) -> String {
    let body = &source[source.find(above).unwrap_or_else(|| panic!("{above} is not in the source"))..];
    let body = &body[body.find("pub struct").expect("a struct")..];
    let body = &body[..body.find("\n}").expect("its end")];
    let mut docs = Vec::new();
    for line in body.lines().map(str::trim) {
        if line.starts_with(&format!("pub {key}:")) {
            return docs.join(" ");
        } else if let Some(text) = line.strip_prefix("/// ") {
            docs.push(text.to_owned());
        } else if !line.starts_with("#[") {
            docs.clear();
        }
    }
    panic!("{key} has no docs below {above}");
}

/// As it would be written in the file.
fn default(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "unset".to_owned(),
        Some(value) => format!("`{value}`"),
    }
}

fn row(name: &str, default: &str, rule: Rule, meaning: &str) -> String {
    format!("| `{name}` | {default} | {} | {meaning} |\n", rule.allowed())
}

const HEAD: &str = "| setting | default | allowed | meaning |\n|---|---|---|---|\n";

fn tables() -> String {
    let defaults = serde_json::to_value(Config::default()).expect("serialises");
    let mut text = String::new();
    for section in schema::sections().filter(|section| !matches!(*section, "engines" | "prices")) {
        text += &format!("\n### `[{section}]`\n\n{HEAD}");
        let prefix = format!("{section}.");
        for (name, rule) in schema::SETTINGS {
            let Some(key) = name.strip_prefix(&prefix) else { continue };
            let value = default(defaults.get(section).and_then(|fields| fields.get(key)));
            text += &row(key, &value, *rule, &meaning(&format!("/// `[{section}]`\n"), key));
        }
    }
    const DESTINATION: &str = "[gates.destinations.\"<host>:<port>\"]";
    text += &format!("\n### `{DESTINATION}`\n\n{HEAD}");
    for (key, rule) in schema::DESTINATION {
        text += &row(key, "unset", *rule, &meaning(&format!("/// `{DESTINATION}`\n"), key));
    }
    text += &own_table("[prices.\"<model>\"]", schema::PRICE, PRICE_SOURCE, &json!({}));
    for (engine_type, settings) in schema::ENGINES {
        text += &format!("\n### `[engines.<name>]` with `type = \"{engine_type}\"`\n\n{HEAD}");
        let mut least = json!({"type": engine_type});
        for setting in settings.iter().filter(|setting| setting.required) {
            least[setting.key] = if matches!(setting.rule, Rule::List(_)) { json!(["x"]) } else { json!("http://x") };
        }
        let engine: Engine = serde_json::from_value(least).expect("its least settings");
        let defaults = serde_json::to_value(&engine).expect("serialises");
        for setting in *settings {
            let value = if setting.required { "must be set".to_owned() } else { default(defaults.get(setting.key)) };
            let above = format!("/// `type = \"{engine_type}\"`\n");
            text += &row(setting.key, &value, setting.rule, &meaning(&above, setting.key));
        }
    }
    let least = json!({"name": "x", "description": "x", "command": ["x"]});
    let tool: Tool = serde_json::from_value(least).expect("its least settings");
    let defaults = serde_json::to_value(tool).expect("serialises");
    text + &own_table("[[engines.<name>.tools]]", schema::TOOL, TOOL_SOURCE, &defaults) + "\n"
}

/// The settings of a table that stands for itself.
fn own_table(title: &str, settings: &[schema::EngineSetting], source: &str, defaults: &Value) -> String {
    let mut text = format!("\n### `{title}`\n\n{HEAD}");
    for setting in settings {
        let value = if setting.required { "must be set".to_owned() } else { default(defaults.get(setting.key)) };
        text += &row(setting.key, &value, setting.rule, &meaning_in(source, &format!("/// `{title}`\n"), setting.key));
    }
    text
}

/// The text between two marks.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(begin).unwrap_or_else(|| panic!("{PAGE} has no {begin:?}"));
    rest.split_once(end).unwrap_or_else(|| panic!("{PAGE} has no {end:?}")).0
}

/// `ERRAND_UPDATE=1 cargo test -p errand-common` writes the tables anew.
#[test]
fn the_page_about_the_configuration_tells_every_setting_as_it_is() {
    let page = std::fs::read_to_string(PAGE).expect("docs/configuration.md");
    let tables = tables();
    if std::env::var_os("ERRAND_UPDATE").is_some() {
        let (before, after) = (page.split_once(BEGIN).expect("a begin").0, page.split_once(END).expect("an end").1);
        std::fs::write(PAGE, [before, BEGIN, &tables, END, after].concat()).expect("writable");
        return;
    }
    assert_eq!(
        between(&page, BEGIN, END),
        tables,
        "docs/configuration.md is out of date: run `ERRAND_UPDATE=1 cargo test -p errand-common`"
    );
}

#[test]
fn the_example_on_the_page_loads() {
    let page = std::fs::read_to_string(PAGE).expect("docs/configuration.md");
    let example = between(&page, "```toml\n", "```\n");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("errand.toml");
    std::fs::write(&path, example).expect("written");
    let config = load(File::Required(&path), []).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(config.engines.default.as_deref(), Some("review"));
    assert_eq!(config.engines.table.keys().collect::<Vec<_>>(), ["echo", "local", "review"]);
}
