//! Schemas of the domain's types, which know nothing of OpenAPI.

use errand_common::{
    domain::{
        ApprovalScope, DedupMode, EventType, FailureClass, JobState, OnBusy, Role, SessionStatus,
        coordination::{AgentRole, AgentStatus, Presence, QuestionState, text::LeadMessageKind},
        instance::InstanceStatus,
        webhook::{WebhookFormat, WebhookState},
    },
    port::store::Scope,
};
use utoipa::openapi::{
    RefOr, Schema,
    schema::{AdditionalProperties, ArrayBuilder, KnownFormat, ObjectBuilder, SchemaFormat, SchemaType, Type},
};

fn one_of(names: impl Iterator<Item = &'static str>) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).build().into()
}

macro_rules! names {
    ($($function:ident = $type:ty),+ $(,)?) => {
        $(pub(crate) fn $function() -> RefOr<Schema> {
            one_of(<$type>::ALL.iter().map(|value| value.as_str()))
        })+
    };
}
names! {
    job_state = JobState,
    failure_class = FailureClass,
    on_busy = OnBusy,
    approval_scope = ApprovalScope,
    role = Role,
    session_status = SessionStatus,
    event_type = EventType,
    scope = Scope,
    http_method = errand_common::wire::http::Method,
    dedup_mode = DedupMode,
    agent_role = AgentRole,
    agent_status = AgentStatus,
    presence = Presence,
    question_state = QuestionState,
    lead_message_kind = LeadMessageKind,
    instance_status = InstanceStatus,
    webhook_format = WebhookFormat,
    webhook_state = WebhookState,
}

pub(crate) fn scopes() -> RefOr<Schema> {
    ArrayBuilder::new().items(scope()).min_items(Some(1)).build().into()
}

fn text(format: KnownFormat) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(format)))
}

pub(crate) fn uuid() -> RefOr<Schema> {
    text(KnownFormat::Uuid).build().into()
}

pub(crate) fn time() -> RefOr<Schema> {
    text(KnownFormat::DateTime).build().into()
}

fn or_null(format: KnownFormat) -> RefOr<Schema> {
    text(format).schema_type(SchemaType::from_iter([Type::String, Type::Null])).build().into()
}

pub(crate) fn uuid_or_null() -> RefOr<Schema> {
    or_null(KnownFormat::Uuid)
}

pub(crate) fn uuids_or_null() -> RefOr<Schema> {
    ArrayBuilder::new().schema_type(SchemaType::from_iter([Type::Array, Type::Null])).items(uuid()).build().into()
}

pub(crate) fn time_or_null() -> RefOr<Schema> {
    or_null(KnownFormat::DateTime)
}

/// What came of an effect.
pub(crate) fn effect_result() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
        .enum_values(Some([Some("done"), Some("failed"), None]))
        .build()
        .into()
}

/// `{state: count}`
pub(crate) fn counts() -> RefOr<Schema> {
    let number = ObjectBuilder::new().schema_type(Type::Integer).build();
    let values = AdditionalProperties::RefOr(RefOr::T(number.into()));
    ObjectBuilder::new().schema_type(Type::Object).additional_properties(Some(values)).build().into()
}
