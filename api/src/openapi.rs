//! The OpenAPI document: what the routes say of themselves, and what holds for all of them.

use utoipa::{
    OpenApi as _, PartialSchema, ToSchema,
    openapi::{
        Components, ContentBuilder, HttpMethod, OpenApi, Ref, RefOr, Required, ResponseBuilder,
        path::{Operation, ParameterBuilder, ParameterIn},
        schema::{ObjectBuilder, Type},
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use crate::{
    limit,
    problem::{FieldError, ProblemBody},
    router,
};

/// What is said before the routes.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Errand",
        description = "Durable jobs for fleets of AI agents. Errors are RFC 9457 documents with a stable `code` and, in \
                       `errors`, every field that is wrong with what is allowed. JSON bodies, and every single string in \
                       them, take 1024 KiB at most (`server.body_limit_kib`); headers 32 KiB (`server.header_limit_kib`). \
                       U+0000 is refused in any string."
    ),
    tags(
        (name = "tasks", description = "Prompts that engines run"),
        (name = "sessions", description = "Conversations"),
        (name = "instances", description = "Bridges that answer prompts elsewhere"),
        (name = "bridges", description = "What bridges call back with"),
        (name = "jobs", description = "Work of any kind"),
        (name = "streams", description = "Watching, from the beginning or from a position"),
        (name = "gateways", description = "Servers that run agents"),
        (name = "boards", description = "Where a lead and its agents work together, and what is left there"),
        (name = "agents", description = "Agents behind gateways"),
        (name = "coordination", description = "What agents ask of Errand, with their own token"),
        (name = "agent-lead", description = "For the lead of a board"),
        (name = "agent-worker", description = "For any agent of a board"),
        (name = "agent-main", description = "For a gateway's own agent"),
        (name = "questions", description = "Questions to people"),
        (name = "activity", description = "Who did what to whom"),
        (name = "webhooks", description = "Telling services outside, signed by Standard Webhooks"),
        (name = "keys", description = "API keys"),
        (name = "fleet", description = "Queues and workers"),
        (name = "operations", description = "For those who run it"),
    )
)]
struct Head;

/// The names of the kinds of credentials.
const API_KEY: &str = "api_key";
const AGENT_TOKEN: &str = "agent_token";
const USER_TOKEN: &str = "user_token";

pub(crate) fn head() -> OpenApi {
    Head::openapi()
}

/// The whole document.
#[must_use]
pub fn openapi() -> OpenApi {
    let mut document = router::described().merge(router::described_metrics()).into_openapi();
    let components = document.components.get_or_insert_with(Components::new);
    components.schemas.insert(ProblemBody::name().into_owned(), ProblemBody::schema());
    components.schemas.insert(FieldError::name().into_owned(), FieldError::schema());
    let bearer = SecurityScheme::Http(
        HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An API key, `errand_…`, of a service or an operator."))
            .build(),
    );
    components.add_security_scheme(API_KEY, bearer);
    components.add_security_scheme(USER_TOKEN, user_token());
    components.add_security_scheme(AGENT_TOKEN, agent_token());
    for (path, item) in &mut document.paths.paths {
        let operations = [
            (HttpMethod::Get, &mut item.get),
            (HttpMethod::Post, &mut item.post),
            (HttpMethod::Put, &mut item.put),
            (HttpMethod::Patch, &mut item.patch),
            (HttpMethod::Delete, &mut item.delete),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                complete(path, &method, operation);
            }
        }
    }
    document
}

/// Adds what holds for every route of its sort.
fn complete(path: &str, method: &HttpMethod, operation: &mut Operation) {
    refuse(operation, "503", "The database is away, or too much waits; `Retry-After` says when to come again");
    refuse(operation, "431", "`headers_too_large`");
    // Whatever takes parameters may be asked wrongly.
    if is_coordination(operation) {
        refuse(operation, "400", "A header is wrong");
        refuse(operation, "422", "Something in the request is wrong; `errors` says what, and what is allowed");
    } else if path.starts_with("/api/") || operation.parameters.is_some() {
        refuse(operation, "400", "Something in the request is wrong; `errors` says what, and what is allowed");
    }
    if !path.starts_with("/api/") {
        return;
    }
    let requirement = |scheme: &&str| SecurityRequirement::new::<_, [&str; 0], &str>(*scheme, []);
    operation.security = Some(credentials(operation).iter().map(requirement).collect());
    refuse(
        operation,
        "401",
        "`unauthenticated`: no API key, or one that is unknown or revoked; no user's token, or one that is expired or not trusted",
    );
    refuse(operation, "403", "`forbidden`: the key or token lacks the scope, or the agent may not do that");
    refuse(operation, "429", "`rate_limited`: too many failed authentications from this address (20 a minute)");
    if path.contains("id}") {
        refuse(operation, "404", "`not_found`: no such thing in this tenant, or another user's");
    }
    if path == "/api/v1/stream" {
        refuse(operation, "426", "`upgrade_required`: this route speaks WebSocket only");
    }
    let has_body = matches!(method, HttpMethod::Post | HttpMethod::Put | HttpMethod::Patch);
    if has_body {
        refuse(operation, "413", "`payload_too_large`: the body is larger than `server.body_limit_kib`");
        if operation.request_body.is_some() {
            refuse(operation, "415", "`unsupported_media_type`: the body must be application/json");
        }
    }
    if matches!(method, HttpMethod::Post | HttpMethod::Put) {
        operation.parameters.get_or_insert_default().push(idempotency_key().into());
        refuse(operation, "422", "`idempotency_mismatch`: the key was used for another request");
    }
}

/// Tags of the routes where what is wrong in a request is 422.
const COORDINATION: &[&str] = &["gateways", "boards", "agents", "coordination", "questions", "activity"];

fn has_tag(operation: &Operation, wanted: impl Fn(&str) -> bool) -> bool {
    operation.tags.iter().flatten().any(|tag| wanted(tag))
}

fn is_coordination(operation: &Operation) -> bool {
    has_tag(operation, |tag| COORDINATION.contains(&tag))
}

/// Who may call it.
fn credentials(operation: &Operation) -> &'static [&'static str] {
    if has_tag(operation, |tag| tag == "bridges") {
        // The token in its URL.
        &[]
    } else if has_tag(operation, |tag| tag == "coordination") {
        &[AGENT_TOKEN]
    } else if has_tag(operation, |tag| tag.starts_with("agent-")) {
        &[API_KEY, USER_TOKEN, AGENT_TOKEN]
    } else {
        &[API_KEY, USER_TOKEN]
    }
}

/// Of agents.
fn agent_token() -> SecurityScheme {
    let description = "An agent's token, `errand_agent_…`; `Authorization: Bearer` takes it too.";
    SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description("X-Agent-Token", description)))
}

/// Of end users; the configuration says which are taken.
fn user_token() -> SecurityScheme {
    let description = "A user's token, where `[auth]` says how to verify it: signed by HS256 with a shared secret, or by \
                       RS256, ES256 or EdDSA with a key of a JWK set. It needs `exp`, `sub` and the tenant's claim \
                       (`tenant_id`); `iss` and `aud` as configured. A user reads, submits, cancels and approves what is \
                       theirs; `admin` in `scope` opens the whole tenant.";
    SecurityScheme::Http(
        HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").description(Some(description)).build(),
    )
}

fn idempotency_key() -> utoipa::openapi::path::Parameter {
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(format!(
            "1 to {} visible ASCII characters: the same request again under the same key gets the same answer, with \
             `Idempotency-Replayed: true`. Kept for at least 24 h.",
            limit::IDEMPOTENCY_KEY_CHARS
        )))
        .schema(Some(
            ObjectBuilder::new()
                .schema_type(Type::String)
                .min_length(Some(1))
                .max_length(Some(limit::IDEMPOTENCY_KEY_CHARS))
                .pattern(Some("^[!-~]+$")),
        ))
        .build()
}

/// A refusal, unless the route describes that status itself.
fn refuse(operation: &mut Operation, status: &str, description: &str) {
    let problem = RefOr::Ref(Ref::from_schema_name(ProblemBody::name()));
    let content = ContentBuilder::new().schema(Some(problem)).build();
    let response = ResponseBuilder::new().description(description).content("application/problem+json", content).build();
    operation.responses.responses.entry(status.to_owned()).or_insert_with(|| response.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");

    /// `ERRAND_UPDATE=1 cargo test -p errand-api` writes it anew.
    #[test]
    fn the_committed_document_is_the_generated_one() {
        let mut generated = serde_json::to_string_pretty(&openapi()).expect("json");
        generated.push('\n');
        if std::env::var_os("ERRAND_UPDATE").is_some() {
            std::fs::write(COMMITTED, &generated).expect("writable");
        }
        let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
        assert!(
            committed == generated,
            "api/openapi.json is out of date: run `ERRAND_UPDATE=1 cargo test -p errand-api`"
        );
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        fn references<'a>(value: &'a serde_json::Value, found: &mut Vec<&'a str>) {
            match value {
                serde_json::Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(serde_json::Value::as_str));
                    fields.values().for_each(|field| references(field, found));
                }
                serde_json::Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let document = serde_json::to_value(openapi()).expect("json");
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.strip_prefix('#').expect(reference);
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
    }

    #[test]
    fn every_operation_of_the_api_says_how_it_refuses() {
        let document = serde_json::to_value(openapi()).expect("json");
        assert_eq!(document["openapi"], "3.1.0");
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                let wanted: &[&str] =
                    if path.starts_with("/api/") { &["400", "401", "403", "429", "503"] } else { &["503"] };
                for status in wanted {
                    assert!(operation["responses"].get(status).is_some(), "{method} {path} has no {status}");
                }
            }
        }
    }
}
