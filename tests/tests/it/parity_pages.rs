//! `docs/agent-tasks.md` and `docs/coordination.md` name tests: each of them is in the sources. They name routes: each of the
//! API's that is theirs is there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// A page, and the routes that it is about.
struct Page {
    name: &'static str,
    /// Their beginnings, below `/api/v1`.
    routes: &'static [&'static str],
    /// But for these, which are another page's.
    but: &'static [&'static str],
}

/// Beginnings of routes that agents of gateways call.
const OF_GATEWAYS: &[&str] = &["/agent/boards/", "/agent/gateway/", "/agent/heartbeat"];

const PAGES: [Page; 2] = [
    Page { name: "agent-tasks.md", routes: &["/agent/"], but: OF_GATEWAYS },
    Page {
        name: "coordination.md",
        routes: &[
            "/agent/boards/",
            "/agent/gateway/",
            "/agent/heartbeat",
            "/activity",
            "/agents",
            "/boards",
            "/gateways",
            "/questions",
        ],
        but: &[],
    },
];

impl Page {
    fn text(&self) -> String {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(self.name);
        fs::read_to_string(file).expect("the page")
    }

    fn is_about(&self, path: &str) -> bool {
        let begins = |beginnings: &[&str]| beginnings.iter().any(|beginning| path.starts_with(beginning));
        begins(self.routes) && !begins(self.but)
    }
}

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
fn every_route_is_on_its_page() {
    let document = fs::read_to_string(file("api/openapi.json")).expect("the document");
    let document: Value = serde_json::from_str(&document).expect("JSON");
    for page in PAGES {
        let (text, mut missing) = (page.text(), Vec::new());
        for (path, operations) in document["paths"].as_object().expect("paths") {
            let Some(path) = path.strip_prefix("/api/v1").filter(|path| page.is_about(path)) else { continue };
            for method in operations.as_object().expect("operations").keys() {
                let row = format!("| `{} {path}` |", method.to_uppercase());
                if !text.contains(&row) {
                    missing.push(row);
                }
            }
        }
        assert!(missing.is_empty(), "not on {}: {missing:#?}", page.name);
    }
}

#[test]
fn every_test_that_a_page_names_is_in_the_sources() {
    for page in PAGES {
        let (text, name) = (page.text(), page.name);
        let named = named(&text);
        assert!(named.len() > 20, "{name} names {} tests", named.len());
        let missing: Vec<_> = named
            .iter()
            .filter(|(name, test)| {
                let source = fs::read_to_string(file(name)).unwrap_or_default();
                !source.contains(&format!("fn {test}("))
            })
            .collect();
        assert!(missing.is_empty(), "{name} names what is not in the sources: {missing:#?}");
        // A row without a test shows nothing.
        let rows = text.lines().filter(|line| line.starts_with('|') && !line.starts_with("|---"));
        let bare: Vec<_> = rows.filter(|row| !row.contains(".rs::") && !row.ends_with("test |")).collect();
        assert!(bare.is_empty(), "{name}, without a test: {bare:#?}");
    }
}
