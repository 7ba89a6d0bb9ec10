use serde_json::json;

use super::*;
use crate::config::{Engine, ToolApproval};

const KEY: &str = "errand_0123456789abcdef0123456789abcdef";

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Loads a file with this text and these variables.
fn load_both(text: &str, pairs: &[(&str, &str)]) -> Result<Config, Faults> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("errand.toml");
    std::fs::write(&path, text).expect("write the file");
    load(File::Required(&path), variables(pairs))
}

fn faults(text: &str, pairs: &[(&str, &str)]) -> Vec<Fault> {
    load_both(text, pairs).expect_err("faults").list().to_vec()
}

#[test]
fn nothing_gives_the_defaults() {
    let config = load(File::None, []).expect("defaults");
    assert_eq!(config.worker.concurrency, 64);
    assert!(config.engines.table.is_empty());
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
    let file = "[worker]\nconcurrency = 7\nlease_seconds = 9\n[server]\nlisten = \"127.0.0.1:1\"";
    let config =
        load_both(file, &[("ERRAND_WORKER__CONCURRENCY", "8"), ("ERRAND_LISTEN", "127.0.0.1:2")]).expect("valid");
    assert_eq!(config.worker.concurrency, 8);
    assert_eq!(config.worker.lease_seconds, 9);
    assert_eq!(config.worker.drain_seconds, 30);
    assert_eq!(config.server.listen.port(), 2);
}

#[test]
fn the_long_form_of_a_variable_wins_over_its_shorthand() {
    let pairs = [("ERRAND_SERVER__LISTEN", "127.0.0.1:3"), ("ERRAND_LISTEN", "127.0.0.1:2")];
    assert_eq!(load(File::None, variables(&pairs)).expect("valid").server.listen.port(), 3);
}

#[test]
fn a_text_setting_takes_the_raw_text_and_others_are_read_as_toml() {
    let pairs = [
        ("ERRAND_ENGINES__OPENAI_COMPATIBLE__MODEL", "123"),
        ("ERRAND_ENGINES__OPENAI_COMPATIBLE__BASE_URL", "http://127.0.0.1:1/v1"),
        ("ERRAND_ENGINES__ECHO__WORD_DELAY_MS", "5"),
        ("ERRAND_WORKER__QUEUES", "[\"a\", \"b\"]"),
        ("ERRAND_DATABASE_URL", "postgres://u:p@h/d"),
        ("ERRAND_ENGINES__DEFAULT", "echo"),
    ];
    let config = load(File::None, variables(&pairs)).expect("valid");
    assert_eq!(config.worker.queues, ["a", "b"]);
    assert_eq!(config.database.url.expect("set").expose(), "postgres://u:p@h/d");
    assert_eq!(config.engines.default.as_deref(), Some("echo"));
    let Engine::OpenaiCompatible(server) = &config.engines.table["openai_compatible"] else { panic!("its type") };
    assert_eq!(server.model, "123");
    let Engine::Echo(echo) = &config.engines.table["echo"] else { panic!("its type") };
    assert_eq!(echo.word_delay_ms, 5);
}

#[test]
fn a_variable_reaches_an_engine_of_the_file_without_regard_to_case() {
    let config = load_both(
        "[engines.Review]\ntype = \"command\"\ncommand = [\"a\"]",
        &[("ERRAND_ENGINES__REVIEW__COMMAND", "[\"b\"]")],
    )
    .expect("valid");
    let Engine::Command(command) = &config.engines.table["Review"] else { panic!("its type") };
    assert_eq!(command.command, ["b"]);
}

#[test]
fn all_faults_are_reported_at_once() {
    let file = "
        [server]
        lisen = \"127.0.0.1:1\"
        [worker]
        concurrency = 0
        lease_seconds = 1
        drain_seconds = \"long\"
        [texts]
        locale = \"de\"
        [engines]
        default = \"nobody\"
        [engines.review]
        type = \"command\"
        command = []
        [engines.openai_compatible]
        base_url = \"ftp://h\"
    ";
    let found = faults(file, &[("ERRAND_REDIS_URL", "http://h"), ("ERRAND_WORKR__QUEUES", "[]")]);
    let keys: Vec<_> = found.iter().map(|fault| fault.key.as_str()).collect();
    for key in [
        "server.lisen",
        "worker.concurrency",
        "worker.lease_seconds",
        "worker.drain_seconds",
        "texts.locale",
        "engines.default",
        "engines.review.command",
        "engines.openai_compatible.base_url",
        "engines.openai_compatible.model",
        "redis.url",
        "",
    ] {
        assert!(keys.contains(&key), "{key:?} is not among {keys:?}");
    }
    assert_eq!(found.len(), 11, "{found:#?}");
}

/// The one fault of a file, without the file's name.
fn only_fault(text: &str) -> String {
    let found = faults(text, &[]);
    assert_eq!(found.len(), 1, "{found:#?}");
    format!("{} {}", found[0].key, found[0].detail).trim().to_owned()
}

#[test]
fn each_fault_names_the_setting_and_what_is_allowed() {
    for (text, expected) in [
        ("[worker]\nconcurrency = 10001", "worker.concurrency is 10001; allowed: a whole number from 1 to 10000"),
        ("[worker]\nconcurrency = 1.5", "worker.concurrency is 1.5; allowed: a whole number from 1 to 10000"),
        ("[worker]\nlease_seconds = 1", "worker.lease_seconds is 1; allowed: a whole number from 2 to 3600"),
        ("[worker]\nconcurency = 5", "worker.concurency is not a setting; did you mean worker.concurrency?"),
        ("[server]\nconcurrency = 5", "server.concurrency is not a setting; did you mean worker.concurrency?"),
        (
            "[database]\nzzzzzzzzzz = 1",
            "database.zzzzzzzzzz is not a setting; [database] has url, max_connections, renewal_connections, \
             acquire_timeout_seconds, answer_timeout_seconds, idle_transaction_seconds",
        ),
        ("worker = 3", "worker is not a table; write [worker]"),
        (
            "[server]\nlisten = \"8080\"",
            "server.listen is \"8080\"; allowed: an IP address with a port, such as 127.0.0.1:8080",
        ),
        (
            "[engines.x]\nqueue = \"a\"",
            "engines.x has no type; add type = one of echo, command, openai_compatible, claude_api, claude_code_cli, claude_agent_sdk, openclaw",
        ),
        (
            "[engines.x]\ntype = \"eco\"",
            "engines.x.type is \"eco\"; allowed: echo, command, openai_compatible, claude_api, claude_code_cli, claude_agent_sdk, openclaw",
        ),
        ("[engines.echo]\nqeue = \"a\"", "engines.echo.qeue is not a setting; did you mean queue?"),
        (
            "[engines.command]\ncommand = [\" \"]",
            "engines.command.command holds something that is not text, or blank text; \
             allowed: a list of one or more texts such as [\"a\", \"b\"]",
        ),
        (
            "[engines.command]",
            "engines.command.command is missing; allowed: a list of one or more texts such as [\"a\", \"b\"]",
        ),
        (
            "[engines]\ndefault = \"review\"\n[engines.echo]",
            "engines.default names \"review\", which is not configured; configured are echo",
        ),
        (
            "[database]\nurl = \"mysql://u:p@h\"",
            "database.url has the scheme \"mysql\"; allowed: a URL that begins with postgres:// or postgresql:// or sqlite://",
        ),
    ] {
        assert_eq!(only_fault(text), expected);
    }
}

#[test]
fn no_fault_shows_a_secret() {
    let shown = [
        faults("[database]\nurl = \"mysql://user:hunter2@h\"\n[redis]\nurl = \"hunter2\"", &[]),
        faults("[auth]\nbootstrap_key = \"hunter2\"", &[]),
        faults("[auth]\nbootstrap_key = [\"hunter2\"]", &[]),
        faults("[database]\nurl = \"postgres://u:hunter2@h", &[]),
        faults("[secrets]\nkeys = [\"k1:hunter2\"]", &[]),
        faults("[secrets]\nkeys = \"hunter2\"", &[]),
        faults("", &[("ERRAND_DATABASE_URL", "hunter2://x"), ("ERRAND_DATABASE_URLS", "hunter2")]),
    ]
    .concat()
    .iter()
    .map(Fault::to_string)
    .collect::<String>();
    // A scheme is no secret: `hunter2://` is shown as one.
    assert_eq!(shown.replace("has the scheme \"hunter2\"", "").matches("hunter2").count(), 0, "{shown}");
    let config = load_both(&format!("[auth]\nbootstrap_key = \"{KEY}\""), &[]).expect("valid");
    assert!(!format!("{config:?}").contains(KEY));
    assert_eq!(config.auth.bootstrap_key.expect("set").expose(), KEY);
}

#[test]
fn variables_of_others_are_left_alone_and_unknown_ones_of_ours_are_faults() {
    let config = load(
        File::None,
        variables(&[("PATH", "x"), ("ERRAND_URL", "x"), ("ERRAND_LOG", "debug"), ("ERRAND_LISTEN", "")]),
    );
    assert_eq!(config.expect("valid").server.listen.port(), 8080);
    let found = faults(
        "",
        &[("ERRAND_WORKER__CONCURENCY", "5"), ("ERRAND_DATABSE_URL", "x"), ("ERRAND_QQQQQQQQQQQQQQQQ", "1")],
    );
    let texts: Vec<_> = found.iter().map(Fault::to_string).collect();
    assert_eq!(
        texts,
        [
            "ERRAND_DATABSE_URL: is not a variable of Errand; did you mean ERRAND_DATABASE_URL?",
            "ERRAND_QQQQQQQQQQQQQQQQ: is not a variable of Errand; settings are named ERRAND_SECTION__KEY",
            "ERRAND_WORKER__CONCURENCY: is not a variable of Errand; did you mean ERRAND_WORKER__CONCURRENCY?",
        ]
    );
}

#[test]
fn a_file_that_must_be_there_is_missed_and_one_that_may_be_is_not() {
    let path = Path::new("/nowhere/errand.toml");
    assert!(load(File::IfPresent(path), []).is_ok());
    let missed = load(File::Required(path), []).expect_err("missing").to_string();
    assert!(missed.contains("/nowhere/errand.toml: can't be read"), "{missed}");
}

#[test]
fn broken_toml_names_its_line() {
    let found = faults("[worker]\nconcurrency = = 1", &[]);
    assert!(found[0].detail.starts_with("line 2 is not valid TOML"), "{found:?}");
}

#[test]
fn the_schema_names_exactly_the_settings_of_the_structs() {
    let shape = serde_json::to_value(Config::default()).expect("serialises");
    let mut of_structs: Vec<String> = shape
        .as_object()
        .expect("an object")
        .iter()
        .filter(|(section, _)| *section != "engines")
        .flat_map(|(section, fields)| {
            fields.as_object().expect("an object").keys().map(move |key| format!("{section}.{key}")).collect::<Vec<_>>()
        })
        .collect();
    let mut of_schema: Vec<String> = schema::SETTINGS.iter().map(|(key, _)| (*key).to_owned()).collect();
    of_structs.retain(|name| name != "gates.destinations");
    of_structs.sort();
    of_schema.sort();
    assert_eq!(of_schema, of_structs);
}

#[test]
fn the_schema_names_exactly_the_settings_of_the_engines() {
    for sample in [
        json!({"type": "echo"}),
        json!({"type": "command", "command": ["a"]}),
        json!({"type": "openai_compatible", "base_url": "http://h", "model": "m"}),
        json!({"type": "claude_api", "model": "m"}),
        json!({"type": "claude_code_cli", "binary": "claude", "home": "/h"}),
        json!({"type": "claude_agent_sdk", "binary": "claude", "home": "/h"}),
        json!({"type": "openclaw", "gateway": "0193a5f0-0000-7000-8000-000000000001", "agent": "main"}),
    ] {
        let engine: Engine = serde_json::from_value(sample).expect("its least settings");
        let shape = serde_json::to_value(&engine).expect("serialises");
        let mut of_struct: Vec<&str> = shape.as_object().expect("an object").keys().map(String::as_str).collect();
        let settings = schema::engine_settings(engine.type_name()).expect("known");
        let mut of_schema: Vec<&str> = settings.iter().map(|setting| setting.key).chain(["type"]).collect();
        of_struct.sort_unstable();
        of_schema.sort_unstable();
        assert_eq!(of_schema, of_struct);
    }
    assert_eq!(schema::ENGINES.len(), 7);
}

#[test]
fn a_destination_has_a_gate_of_its_own() {
    let file = "[outbound]\nallow = [\"10.1.0.0/16\", \"fd00::/8\"]\n[gates]\nconcurrency = 9\n\
        [gates.destinations.\"api.example.com:443\"]\nconcurrency = 3\nrate_per_second = 10\n\
        [gates.destinations.\"[::1]:80\"]";
    let config = load_both(file, &[("ERRAND_GATES__PROBES", "2")]).expect("valid");
    let gate = &config.gates.destinations["api.example.com:443"];
    assert_eq!((gate.concurrency, gate.rate_per_second, gate.burst), (Some(3), Some(10), None));
    assert_eq!((config.gates.concurrency, config.gates.probes, config.gates.destinations.len()), (9, 2, 2));
    assert_eq!(config.outbound.allow.len(), 2);
}

#[test]
fn every_fault_of_a_gate_is_told() {
    let file = "[outbound]\nallow = [\"10.1.0.0\"]\n[gates]\nprobes = 0\n\
        [gates.destinations.\"https://x\"]\n[gates.destinations.\"x.example:443\"]\nrate = 1\nburst = 0";
    let faults = faults(file, &[]);
    let mut keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
    keys.sort_unstable();
    let place = |rest: &str| format!("gates.destinations.\"{rest}");
    let expected = [
        place("https://x\""),
        place("x.example:443\".burst"),
        place("x.example:443\".rate"),
        "gates.probes".to_owned(),
        "outbound.allow".to_owned(),
    ];
    assert_eq!(keys, expected);
}

#[test]
fn the_schema_names_exactly_the_settings_of_a_destination() {
    let shape = serde_json::to_value(crate::config::DestinationGate::default()).expect("serialises");
    let mut of_struct: Vec<&str> = shape.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut of_schema: Vec<&str> = schema::DESTINATION.iter().map(|(key, _)| *key).collect();
    of_struct.sort_unstable();
    of_schema.sort_unstable();
    assert_eq!(of_schema, of_struct);
}

#[test]
fn a_key_set_needs_an_issuer_and_an_encrypted_way_to_it() {
    let told = |lines: &str| -> Vec<String> {
        let text = format!("[auth]\n{lines}");
        let found = load_both(&text, &[]).map_or_else(|faults| faults.list().to_vec(), |_| Vec::new());
        assert!(found.iter().all(|fault| fault.key == "auth.jwks_url" && fault.to_string().contains("errand.toml")));
        found.into_iter().map(|fault| fault.detail).collect()
    };
    let issuer = "issuer = \"https://id.example.com\"\n";
    for url in ["https://id.example.com/keys", "http://127.0.0.1:9/keys", "http://[::1]/keys", "http://localhost/keys"]
    {
        assert_eq!(told(&format!("{issuer}jwks_url = {url:?}")), [""; 0], "{url}");
    }
    for url in ["http://10.1.2.3/keys", "http://8.8.8.8/keys"] {
        let told = told(&format!("{issuer}jwks_url = {url:?}"));
        assert!(told.len() == 1 && told[0].contains("outbound.allow"), "{url}: {told:?}");
        let allowed =
            format!("[outbound]\nallow = [\"10.0.0.0/8\", \"8.8.8.8/32\"]\n[auth]\n{issuer}jwks_url = {url:?}");
        assert!(load_both(&allowed, &[]).is_ok(), "{url}");
    }
    assert!(told("jwks_url = \"https://id.example.com/keys\"")[0].contains("auth.issuer"));
    let both = format!("{issuer}jwks_url = \"https://x/keys\"\njwt_secret = \"{}\"", "s".repeat(32));
    assert!(told(&both)[0].contains("auth.jwt_secret"));
}

#[test]
fn a_secret_for_tokens_is_long_and_never_shown() {
    let short = "hunter2-hunter2";
    let faults = faults(&format!("[auth]\njwt_secret = {short:?}"), &[]);
    let told = faults[0].to_string();
    assert!(told.contains("32 bytes") && !told.contains(short), "{told}");
    let config = load(File::None, variables(&[("ERRAND_AUTH__JWT_SECRET", &"s".repeat(32))])).expect("valid");
    assert!(!format!("{config:?}").contains("ssss"));
}

#[test]
fn tools_and_prices_are_read_and_their_faults_told() {
    let file = "[prices.\"large-1.5\"]\ninput = \"4\"\noutput = 0.6\n\
        [engines.claude_api]\nmodel = \"large-1.5\"\n\
        [[engines.claude_api.tools]]\nname = \"look\"\ndescription = \"Looks.\"\ncommand = [\"cat\"]\n\
        schema = { type = \"object\" }\n\
        [[engines.claude_api.tools]]\nname = \"find\"\ndescription = \"Finds.\"\ncommand = [\"cat\"]\n\
        schema = '{\"type\": \"object\"}'\napproval = \"never\"";
    let config = load_both(file, &[]).expect("valid");
    assert_eq!(config.prices["large-1.5"].output.nano_usd(), 600_000_000);
    let Engine::ClaudeApi(engine) = &config.engines.table["claude_api"] else { panic!("the engine") };
    assert_eq!(engine.tools[0].schema, engine.tools[1].schema);
    assert_eq!((engine.tools[0].approval, engine.tools[1].approval), (ToolApproval::Ask, ToolApproval::Never));

    let file = "[prices.m]\ninput = \"much\"\n\
        [engines.claude_api]\nmodel = \"m\"\nthinking = \"enabled\"\nmax_tokens = 100\n\
        [[engines.claude_api.tools]]\nname = \"a b\"\ncomand = [\"cat\"]\ndescription = \"x\"";
    let keys: Vec<_> = faults(file, &[]).into_iter().map(|fault| fault.key).collect();
    for key in [
        "prices.\"m\".input",
        "prices.\"m\".output",
        "engines.claude_api.thinking_budget_tokens",
        "engines.claude_api.tools[0].name",
        "engines.claude_api.tools[0].comand",
        "engines.claude_api.tools[0].command",
    ] {
        assert!(keys.iter().any(|found| found == key), "{key} in {keys:?}");
    }
}
