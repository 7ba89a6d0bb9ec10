//! The direction of imports: which part of the house may know which.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no source below {}", directory.display());
    found.sort();
    found
}

/// Whether code, as opposed to a comment, speaks of `path::…`.
fn mentions(file: &Path, path: &str) -> bool {
    let text = fs::read_to_string(file).expect("a source file");
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).any(|code| {
        code.match_indices(path).any(|(at, _)| {
            let before = code[..at].chars().next_back();
            let after = code[at + path.len()..].chars().next();
            let is_name = |c: char| c.is_alphanumeric() || c == '_';
            !before.is_some_and(|c| is_name(c) || c == ':' || c == '"') && !after.is_some_and(is_name)
        })
    })
}

/// Asserts that no source below `directory`, those below `except` aside, speaks of any of `paths`.
fn assert_unknown(directory: &str, except: &[&str], paths: &[&str]) {
    let root = workspace();
    let mut wrong = Vec::new();
    for file in sources(&root.join(directory)) {
        let name = file.strip_prefix(&root).expect("below the workspace").display().to_string();
        if except.iter().any(|except| name.starts_with(except)) {
            continue;
        }
        wrong.extend(paths.iter().filter(|path| mentions(&file, path)).map(|path| format!("{name} speaks of {path}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn dependencies(package: &str) -> Vec<String> {
    let text = fs::read_to_string(workspace().join(package).join("Cargo.toml")).expect("a manifest");
    let section = text.split("[dependencies]").nth(1).unwrap_or_default().split("\n[").next().unwrap_or_default();
    section
        .lines()
        .filter_map(|line| line.split(['.', '=', ' ']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

fn assert_independent(package: &str, of: &[&str]) {
    let dependencies = dependencies(package);
    assert!(!dependencies.is_empty());
    for name in of {
        assert!(!dependencies.iter().any(|dependency| dependency == name), "{package} depends on {name}");
    }
}

#[test]
fn only_the_sql_adapter_speaks_sql() {
    assert_unknown("common/src", &["common/src/adapter/sql"], &["sqlx"]);
    for package in ["api", "worker", "cli"] {
        assert_independent(package, &["sqlx"]);
    }
}

#[test]
fn only_the_redis_adapter_speaks_to_redis() {
    // The configuration has a field of that name, and two modules must name the adapter.
    let except =
        ["common/src/adapter/redis", "common/src/adapter/mod.rs", "common/src/backend.rs", "common/src/config"];
    assert_unknown("common/src", &except, &["redis"]);
    for package in ["api", "worker", "cli"] {
        assert_independent(package, &["redis"]);
    }
}

#[test]
fn only_the_api_serves_http() {
    for package in ["common", "worker", "cli"] {
        assert_independent(package, &["axum", "tower-http", "utoipa"]);
    }
}

#[test]
fn only_the_runner_knows_the_worker_framework() {
    assert_unknown("worker/src", &["worker/src/runner.rs"], &["apalis", "apalis_core"]);
    for package in ["common", "api", "cli"] {
        assert_independent(package, &["apalis", "apalis-core"]);
    }
}

#[test]
fn api_and_worker_do_not_know_each_other() {
    assert_independent("api", &["errand-worker", "errand-cli"]);
    assert_independent("worker", &["errand-api", "errand-cli"]);
    assert_independent("common", &["errand-api", "errand-worker", "errand-cli"]);
}

#[test]
fn the_domain_knows_nothing_but_itself() {
    let others =
        ["crate::wire", "crate::port", "crate::adapter", "crate::backend", "crate::config", "crate::telemetry"];
    assert_unknown("common/src/domain", &[], &others);
    assert_unknown("common/src/domain", &[], &["tokio", "sqlx", "std::fs", "std::env", "std::net", "rand", "tracing"]);
}

#[test]
fn each_layer_knows_only_those_below_it() {
    assert_unknown("common/src/wire", &[], &["crate::port", "crate::adapter", "crate::backend"]);
    assert_unknown("common/src/port", &[], &["crate::adapter", "crate::backend"]);
    assert_unknown("common/src/adapter", &[], &["crate::backend"]);
    for package in ["api/src", "worker/src"] {
        assert_unknown(package, &[], &["errand_common::adapter"]);
    }
}

#[test]
fn a_comment_is_no_import_and_a_longer_name_is_another_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("a.rs");
    let check = |text: &str| {
        fs::write(&file, text).expect("a file");
        mentions(&file, "sqlx")
    };
    assert!(check("use sqlx::Pool;"));
    assert!(check("let x = sqlx::query(\"\");"));
    assert!(!check("// sqlx is used elsewhere"));
    assert!(!check("use sqlx_core::x;"));
    assert!(!check("use crate::my_sqlx::x;"));
}
