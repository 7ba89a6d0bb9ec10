//! `docs/agent-tasks.md` names tests: each of them is in the sources.

use std::{
    fs,
    path::{Path, PathBuf},
};

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

#[test]
fn every_test_that_the_page_names_is_in_the_sources() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/agent-tasks.md");
    let page = fs::read_to_string(page).expect("the page");
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
    let bare: Vec<_> = rows.filter(|row| !row.contains(".rs::") && !row.ends_with("test |")).collect();
    assert!(bare.is_empty(), "without a test: {bare:#?}");
}
