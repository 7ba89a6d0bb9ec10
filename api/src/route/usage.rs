//! `GET /agent/usage`

use axum::{Json, extract::State};
use chrono::{DateTime, NaiveDate, Utc};
use errand_common::{
    domain::Timestamp,
    port::store::{UsageFilter, UsageGroup},
};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{
    auth::{Permit, Read},
    extract::Params,
    limit,
    problem::Problem,
    state::AppState,
    view::{UsageView, schema},
};

/// What was spent.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UsageReportView {
    /// Records written at this time or later; null: from the first.
    #[schema(schema_with = schema::time_or_null)]
    from: Option<Timestamp>,
    /// Records written before this time; null: to the last.
    #[schema(schema_with = schema::time_or_null)]
    to: Option<Timestamp>,
    /// By what it is summed.
    #[schema(value_type = Vec<String>)]
    group_by: Vec<UsageGroup>,
    /// One entry a group, in the order of their values, each with its values under the groups' names: `day`, `engine`, `model`
    /// (empty if nobody said), `session`, `user` (empty for keys).
    items: Vec<UsageItem>,
    /// There are more groups than one answer holds, which is 1000: ask for less time.
    truncated: bool,
    /// Over all groups.
    total: UsageView,
}

/// The sum of one group.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsageItem {
    /// The group's values by the groups' names.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    group: Map<String, Value>,
    /// Its sum.
    #[serde(flatten)]
    sum: UsageView,
}

/// Sums what the tenant's tasks spent; for a user without `admin`, their own.
#[utoipa::path(
    get, path = "/api/v1/agent/usage", tag = "tasks",
    params(
        ("from" = Option<String>, Query, description = "RFC 3339 time, or a day (`2026-11-21`, UTC): from then on"),
        ("to" = Option<String>, Query, description = "RFC 3339 time: before it; or a day: to its end"),
        ("group_by" = Option<String>, Query, description = "one or more of `day`, `engine`, `model`, `session`, `user`, with commas between; none: the total only"),
    ),
    responses((status = 200, body = UsageReportView))
)]
pub(crate) async fn show_usage(
    State(app): AppState,
    caller: Permit<Read>,
    mut query: Params,
) -> Result<Json<UsageReportView>, Problem> {
    let from = time(&mut query, "from", |day| day);
    let to = time(&mut query, "to", |day| day.succ_opt().unwrap_or(day));
    let group_by = groups(&mut query);
    if let (Some(from), Some(to)) = (from, to)
        && from >= to
    {
        query.fault("to", "must lie after from");
    }
    query.finish_ignoring_unknown()?;
    let user_id = caller.confined_to().map(str::to_owned);
    let filter = UsageFilter { tenant: caller.tenant.clone(), from, to, user_id, ..UsageFilter::default() };
    let store = &app.backend.store;
    let total = store.usage_sums(&filter, &[], 1).await?.pop().unwrap_or_default();
    let mut sums = match group_by.as_slice() {
        [] => Vec::new(),
        groups => store.usage_sums(&filter, groups, limit::USAGE_GROUPS + 1).await?,
    };
    let most = limit::USAGE_GROUPS as usize;
    let truncated = sums.len() > most;
    sums.truncate(most);
    let items = sums.into_iter().map(|mut sum| {
        let values = std::mem::take(&mut sum.group).into_iter().map(Value::from);
        let group = group_by.iter().map(|group| group.to_string()).zip(values).collect();
        UsageItem { group, sum: sum.into() }
    });
    Ok(Json(UsageReportView { items: items.collect(), from, to, group_by, truncated, total: total.into() }))
}

/// A time, or a day, of which `edge` says which midnight is meant.
fn time(query: &mut Params, name: &str, edge: impl Fn(NaiveDate) -> NaiveDate) -> Option<Timestamp> {
    let text = query.text(name)?;
    let day = || {
        let midnight = edge(text.parse::<NaiveDate>().ok()?).and_hms_opt(0, 0, 0)?;
        Some(Timestamp::from_micros(midnight.and_utc().timestamp_micros()))
    };
    let time = text.parse::<DateTime<Utc>>().ok().map(Timestamp::from).or_else(day);
    if time.is_none() {
        query.fault(name, "must be an RFC 3339 time such as 2026-11-21T09:00:00Z, or a day such as 2026-11-21");
    }
    time
}

fn groups(query: &mut Params) -> Vec<UsageGroup> {
    let Some(text) = query.text("group_by") else { return Vec::new() };
    let mut groups = Vec::new();
    for name in text.split(',').map(str::trim) {
        match name.parse::<UsageGroup>() {
            Ok(group) if !groups.contains(&group) => groups.push(group),
            Ok(_) => query.fault("group_by", format!("names {name} twice")),
            Err(_) => {
                let known: Vec<_> = UsageGroup::ALL.iter().map(|group| group.as_str()).collect();
                query.fault("group_by", format!("unknown group {name:?}; known are: {}", known.join(", ")));
                break;
            }
        }
    }
    groups
}
