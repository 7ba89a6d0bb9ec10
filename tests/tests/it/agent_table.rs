//! `docs/agent-tasks.md` names tests: each of them is in the sources. It names routes: each of the API's is there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// What the page says of routes that are not there yet.
const LATER: &str = "| comes with bridges |";

/// Beginnings of routes below `/agent` that agents of gateways call: another page's.
const COORDINATION: &[&str] = &["/agent/boards/", "/agent/gateway/", "/agent/heartbeat"];

/// What the page says between backquotes, if it names a test: `file.rs::name`.
fn named(page: &str) -> Vec<(&str, &str)> {
    let quoted = page.split('`').skip(1).step_by(2);
    quoted.filter_map(|text| text.split_once("::")).filter(|(file, _)| file.ends_with(".rs")).collect()
}

/// The file, below the root of the workspace if it is there, else below this folder.
fn file(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let from_root = tests.join("..").join(name);
    if from_root.is_file() { from_root } else { tests.join("tests/it").join(name) }
}

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/agent-tasks.md")).expect("the page")
}

#[test]
fn every_route_of_agent_tasks_is_on_the_page() {
    let page = page();
    let document = fs::read_to_string(file("api/openapi.json")).expect("the document");
    let document: Value = serde_json::from_str(&document).expect("JSON");
    let mut missing = Vec::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let Some(path) = path.strip_prefix("/api/v1").filter(|path| path.starts_with("/agent/")) else { continue };
        if COORDINATION.iter().any(|beginning| path.starts_with(beginning)) {
            continue;
        }
        for method in operations.as_object().expect("operations").keys() {
            let row = format!("| `{} {path}` |", method.to_uppercase());
            if !page.contains(&row) {
                missing.push(row);
            }
        }
    }
    assert!(missing.is_empty(), "not on the page: {missing:#?}");
}

#[test]
fn every_test_that_the_page_names_is_in_the_sources() {
    let page = page();
    let named = named(&page);
    assert!(named.len() > 20, "the page names {} tests", named.len());
    let missing: Vec<_> = named
        .iter()
        .filter(|(name, test)| {
            let source = fs::read_to_string(file(name)).unwrap_or_default();
            !source.contains(&format!("fn {test}("))
        })
        .collect();
    assert!(missing.is_empty(), "not in the sources: {missing:#?}");
    // A row without a test shows nothing.
    let rows = page.lines().filter(|line| line.starts_with('|') && !line.starts_with("|---"));
    let bare: Vec<_> =
        rows.filter(|row| !row.contains(".rs::") && !row.ends_with("test |") && !row.contains(LATER)).collect();
    assert!(bare.is_empty(), "without a test: {bare:#?}");
}
