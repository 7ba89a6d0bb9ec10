//! The OpenAPI document describes what is there.

use errand_tests::both_modes;
use serde_json::Value;

/// Method, path, and an answer it must describe.
const OPERATIONS: &[(&str, &str, &str)] = &[
    ("post", "/api/v1/agent/tasks", "202"),
    ("get", "/api/v1/agent/tasks/{id}", "200"),
    ("delete", "/api/v1/agent/tasks/{id}", "200"),
    ("get", "/api/v1/agent/sessions", "200"),
    ("get", "/api/v1/agent/sessions/{id}", "200"),
    ("delete", "/api/v1/agent/sessions/{id}", "200"),
    ("get", "/api/v1/agent/sessions/{id}/messages", "200"),
    ("get", "/api/v1/agent/sessions/{id}/tasks", "200"),
    ("get", "/api/v1/agent/sessions/{id}/events", "200"),
    ("get", "/api/v1/agent/engines", "200"),
    ("post", "/api/v1/jobs", "202"),
    ("post", "/api/v1/jobs/batch", "202"),
    ("get", "/api/v1/jobs", "200"),
    ("get", "/api/v1/jobs/{id}", "200"),
    ("get", "/api/v1/jobs/{id}/timeline", "200"),
    ("get", "/api/v1/jobs/{id}/events", "200"),
    ("post", "/api/v1/jobs/{id}/cancel", "200"),
    ("post", "/api/v1/jobs/{id}/retry", "202"),
    ("get", "/api/v1/queues", "200"),
    ("get", "/api/v1/workers", "200"),
    ("get", "/api/v1/keys", "200"),
    ("post", "/api/v1/agent/boards/{board_id}/agents/{agent_id}/nudge", "202"),
    ("get", "/api/v1/agent/boards/{board_id}/agents/{agent_id}/soul", "504"),
    ("put", "/api/v1/agent/boards/{board_id}/agents/{agent_id}/soul", "422"),
    ("post", "/api/v1/agent/boards/{board_id}/gateway/main/ask-user", "502"),
    ("post", "/api/v1/agent/gateway/boards/{board_id}/lead/message", "404"),
    ("post", "/api/v1/agent/gateway/leads/broadcast", "200"),
    ("get", "/api/v1/boards/{id}/memory/stream", "200"),
    ("patch", "/api/v1/gateways/{id}", "404"),
    ("post", "/api/v1/questions/{id}/answer", "409"),
    ("get", "/api/v1/activity/stream", "200"),
    ("post", "/api/v1/agent/instances/{id}/tasks", "202"),
    ("get", "/api/v1/agent/instances/{id}/sessions", "200"),
    ("patch", "/api/v1/agent/instances/{id}", "404"),
    ("post", "/api/v1/agent/instances/openclaw-app-callback", "410"),
    ("post", "/api/v1/stream/tickets", "200"),
    ("get", "/livez", "200"),
    ("get", "/readyz", "200"),
    ("get", "/metrics", "200"),
    ("get", "/scaling", "200"),
];

both_modes! {
    async fn every_route_is_described_with_its_answers(setup: Setup) {
        let errand = setup.start().await;
        let document = errand.client().get_root("/openapi.json").await.expect("a document").body;
        assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")), "{document:#}");
        let mut missing = Vec::new();
        for (method, path, status) in OPERATIONS {
            let responses = &document["paths"][path][method]["responses"];
            if responses[status].is_null() {
                missing.push(format!("{method} {path} {status}"));
            }
            if path.starts_with("/api/v1") && responses["401"].is_null() {
                missing.push(format!("{method} {path} 401"));
            }
        }
        assert!(missing.is_empty(), "{missing:#?}");
        errand.finish().await;
    }

    async fn every_reference_in_the_document_leads_somewhere(setup: Setup) {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Value::as_str));
                    fields.values().for_each(|field| references(field, found));
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let errand = setup.start().await;
        let document = errand.client().get_root("/openapi.json").await.expect("a document").body;
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.trim_start_matches('#');
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
        errand.finish().await;
    }
}
