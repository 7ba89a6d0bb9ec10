//! What runs spent, summed.

use async_trait::async_trait;
use serde::Serialize;

use super::StoreError;
use crate::domain::{SessionId, Timestamp, UsageRecord, job::text_enum};

text_enum! {
    /// By what usage is summed.
    UsageGroup {
        /// UTC day: `2026-11-21`.
        Day = "day",
        /// Configured engine name.
        Engine = "engine",
        /// Model; empty if no engine said.
        Model = "model",
        /// Session.
        Session = "session",
        /// User; empty for keys.
        User = "user",
    }
}

/// Which records.
#[derive(Clone, Debug, Default)]
pub struct UsageFilter {
    /// Scope.
    pub tenant: String,
    /// Written at this time or later.
    pub from: Option<Timestamp>,
    /// Written before this time.
    pub to: Option<Timestamp>,
    /// Of this user's tasks only.
    pub user_id: Option<String>,
    /// Of this session only.
    pub session_id: Option<SessionId>,
}

/// A sum of records.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageSum {
    /// The value of each group asked for, in the order asked.
    pub group: Vec<String>,
    /// Records.
    pub records: u64,
    /// Of them: runs that died or were cut off before their usage was known. What is known of them is in the sums.
    pub unknown: u64,
    /// Tokens in.
    pub input_tokens: u64,
    /// Tokens out.
    pub output_tokens: u64,
    /// Read from caches.
    pub cache_read_tokens: u64,
    /// Written to caches.
    pub cache_write_tokens: u64,
    /// Billionths of a US dollar, of the records with a cost.
    pub cost_nano_usd: u64,
    /// Records with tokens and without a cost.
    pub unpriced: u64,
}

/// What has been spent so far, as budgets ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spent {
    /// Tokens in and out.
    pub tokens: u64,
    /// Billionths of a US dollar.
    pub cost_nano_usd: u64,
}

/// What was spent by a job, by its session and by its tenant since a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpentBy {
    /// By the job's former runs.
    pub job: Spent,
    /// By its session.
    pub session: Spent,
    /// By its tenant since the time.
    pub tenant: Spent,
}

/// What runs spent. Records are written with the end of their run: [`super::Finish`], [`super::Park`], [`super::Release`], or, for
/// a run of a metered task that died, by whoever ends its lease.
#[async_trait]
pub trait UsageReads: Send + Sync {
    /// Sums by these groups, ordered by them, up to `limit` rows.
    async fn usage_sums(
        &self,
        filter: &UsageFilter,
        groups: &[UsageGroup],
        limit: u32,
    ) -> Result<Vec<UsageSum>, StoreError>;

    /// The records of a job, oldest first, up to 1,000.
    async fn usage_of(&self, tenant: &str, job: crate::domain::JobId) -> Result<Vec<UsageRecord>, StoreError>;

    /// What budgets are judged by.
    async fn spent(
        &self,
        tenant: &str,
        job: crate::domain::JobId,
        session: Option<SessionId>,
        since: Timestamp,
    ) -> Result<SpentBy, StoreError>;
}
