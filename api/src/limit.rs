//! Bounds that no installation has had reason to change; those it may change are in the configuration.

use std::time::Duration;

/// Longest `Idempotency-Key`, in characters.
pub(crate) const IDEMPOTENCY_KEY_CHARS: usize = 255;
/// Longest dedup key, in characters.
pub(crate) const DEDUP_KEY_CHARS: usize = 255;
/// Longest wait a client may ask for, in seconds.
pub(crate) const WAIT_SECONDS: u64 = 60;
/// Entries of a page, if the client says nothing.
pub(crate) const PAGE_DEFAULT: u32 = 50;
/// Most entries of a page.
pub(crate) const PAGE_MAX: u32 = 200;
/// Most jobs of one batch, those of its groups included, and of one group.
pub(crate) const BATCH_JOBS: usize = 1_000;
/// Jobs that one bulk retry looks at.
pub(crate) const RETRIES_LOOKED_AT: u32 = 1_000;
/// Payloads that one bulk retry repeats, in characters of JSON; a single larger one is repeated alone.
pub(crate) const RETRIED_PAYLOAD_CHARS: i64 = 8 * 1024 * 1024;
/// Most faults that one answer tells.
pub(crate) const FAULTS: usize = 20;
/// Longest pointer, and longest detail, of one fault, in bytes.
pub(crate) const FAULT_BYTES: usize = 512;
/// Most transitions a timeline shows.
pub(crate) const TIMELINE_EVENTS: u32 = 1_000;
/// Largest `metadata` of a job, in bytes of JSON.
pub(crate) const METADATA_BYTES: usize = 16 * 1024;
/// Longest name of anything, in characters.
pub(crate) const NAME_CHARS: usize = 128;
/// Most entries of `allowedTools`.
pub(crate) const ALLOWED_TOOLS: usize = 256;
/// Most groups of one answer about usage.
pub(crate) const USAGE_GROUPS: u32 = 1_000;
/// Most attachments of one task.
pub(crate) const ATTACHMENTS: usize = 20;
/// Longest name of an attachment, in characters.
pub(crate) const FILE_NAME_CHARS: usize = 255;
/// A body from this size on is decoded off the threads that serve the others, in bytes.
pub(crate) const LARGE_BODY: usize = 256 * 1024;
/// Longest wait for memory to read a body with attachments.
pub(crate) const ROOM_WAIT: Duration = Duration::from_secs(5);
/// How long the engine that a tenant chose is remembered: another process's choice counts no later than that.
pub(crate) const CHOICE_MEMORY: Duration = Duration::from_secs(2);
/// Most tenants whose choice is remembered.
pub(crate) const CHOICES_REMEMBERED: usize = 4_096;
/// How far ahead a time may lie: ten years.
pub(crate) const FARTHEST_AHEAD: Duration = Duration::from_secs(10 * 365 * 86_400);
/// One attempt of a task, if the client says nothing, in seconds.
pub(crate) const TASK_TIMEOUT_SECONDS: i64 = 1_800;
/// A body beyond its limit is read and thrown away up to this many times the limit, so that the client, who is still
/// sending, gets to read the answer.
pub(crate) const BODY_DRAIN_FACTOR: usize = 4;
/// Longest time a body may take to arrive.
pub(crate) const BODY_READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time a request's head may take to arrive.
pub(crate) const HEAD_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long what is sent may stay unread by a client before its connection is cut.
pub(crate) const UNREAD: Duration = Duration::from_secs(30);
/// Most open connections of one process.
pub(crate) const CONNECTIONS: usize = 20_000;
/// Most submissions that wait for a commit.
pub(crate) const SUBMISSIONS_WAITING: usize = 8_192;
/// Most submissions of one commit.
pub(crate) const SUBMISSIONS_PER_COMMIT: usize = 512;
/// No further submission joins a commit that has this many jobs.
pub(crate) const JOBS_PER_COMMIT: usize = 2_000;
/// How long a valid key is remembered: a revoked one works no longer than that.
pub(crate) const KEY_MEMORY: Duration = Duration::from_secs(2);
/// How long a valid token is remembered, if it lives so long: one whose key is no longer trusted works no longer than that.
pub(crate) const TOKEN_MEMORY: Duration = Duration::from_secs(60);
/// Longest token of a user, in bytes.
pub(crate) const TOKEN_BYTES: usize = 8 * 1024;
/// Longest id, and longest address, of a user, in characters.
pub(crate) const USER_CHARS: usize = 255;
/// Most credentials remembered.
pub(crate) const CREDENTIALS_REMEMBERED: usize = 4_096;
/// Most addresses whose failed authentications are counted.
pub(crate) const ADDRESSES_COUNTED: usize = 16_384;
/// How long the fleet's engines and the queues' depths are remembered.
pub(crate) const FLEET_MEMORY: Duration = Duration::from_secs(1);
/// How long the database's epoch is remembered.
pub(crate) const EPOCH_MEMORY: Duration = Duration::from_secs(10);
/// Longest wait for the database in `/metrics` and `/scaling`; those who ask wait ten seconds as a rule.
pub(crate) const SAMPLE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the oldest due job may wait before `/scaling` calls it late, if the caller says nothing, in seconds.
pub(crate) const LATE_SECONDS: u64 = 60;
/// Longest wait for the database in `/readyz`.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// After how long a refused client may come again, in seconds.
pub(crate) const RETRY_AFTER_SECONDS: u64 = 1;
/// Events of one read of a stream's log: all that a watcher who is behind holds in memory.
pub(crate) const LOG_PAGE: u32 = 64;
/// Time between two checks of the watched streams' tails.
pub(crate) const TAIL_CHECK: Duration = Duration::from_secs(1);
/// How long a feed waits for the bus to tell what a check of its tail has found.
pub(crate) const TAIL_GRACE: Duration = Duration::from_millis(250);
/// Longest wait until a stream can be watched.
pub(crate) const FEED_START: Duration = Duration::from_secs(10);
/// Time between two comments on an idle event stream.
pub(crate) const SSE_COMMENT: Duration = Duration::from_secs(15);
/// Longest wait for the first frame of a WebSocket that brought no credential.
pub(crate) const WS_AUTH: Duration = Duration::from_secs(10);
/// Longest wait for a client to close its WebSocket too.
pub(crate) const WS_CLOSE: Duration = Duration::from_secs(1);
/// Longest time one frame may take to be handed to a WebSocket.
pub(crate) const WS_SEND: Duration = Duration::from_secs(10);
/// How long a message to an agent is tried, from its submission.
pub(crate) const DELIVERY_WINDOW: Duration = Duration::from_secs(600);
/// How long one is tried for which the client waits, from its first send.
pub(crate) const AWAITED_WINDOW: Duration = Duration::from_secs(45);
/// One attempt at a message to an agent, if the client says nothing, in seconds.
pub(crate) const MESSAGE_TIMEOUT_SECONDS: i64 = 120;
/// How long the reader of a soul waits.
pub(crate) const SOUL_WAIT: Duration = Duration::from_secs(60);
/// Largest JSON Schema of an answer, in bytes.
pub(crate) const ANSWER_SCHEMA_BYTES: usize = 64 * 1024;
/// How long a question may wait at most: a year.
pub(crate) const LONGEST_QUESTION: Duration = Duration::from_secs(366 * 86_400);
/// Most boards of one broadcast.
pub(crate) const BROADCAST_BOARDS: usize = 1_000;
/// Most agents of a board that hear of its chat.
pub(crate) const CHAT_AGENTS: u32 = 1_000;
/// Entries of a page of board memory, if the client says nothing; and the most of one.
pub(crate) const MEMORY_PAGE: u32 = 200;
/// Most entries of board memory that a page leaves out first: each is read to be left out.
pub(crate) const MEMORY_OFFSET: u32 = 100_000;
/// Longest text that an agent, or a person, is to read, in characters.
pub(crate) const TEXT_CHARS: usize = 100_000;
/// Most tags of an item of board memory, and of those that a reply shall carry.
pub(crate) const MEMORY_TAGS: usize = 64;
/// Longest tag, source and correlation id, in characters.
pub(crate) const TAG_CHARS: usize = 256;
/// Longest secret of a gateway, in bytes.
pub(crate) const GATEWAY_TOKEN_BYTES: usize = 4_096;
/// Most filters of a webhook's endpoint.
pub(crate) const WEBHOOK_FILTERS: usize = 32;
/// How long the former secret of a webhook's endpoint signs beside the new one, if the client says nothing, in seconds.
pub(crate) const WEBHOOK_OVERLAP_SECONDS: u64 = 86_400;
/// Attempts to replace a webhook's secret that others replace too.
pub(crate) const WEBHOOK_ROTATIONS: u32 = 5;
/// Longest session of an agent, in characters.
pub(crate) const SESSION_KEY_CHARS: usize = 255;
/// Open questions of a board that are withdrawn in one step when it is removed.
pub(crate) const WITHDRAWN_AT_ONCE: u32 = 200;
/// Time between two looks at the audit on behalf of a watcher.
pub(crate) const ACTIVITY_POLL: Duration = Duration::from_secs(1);
/// Lines of the audit that are read at once on behalf of a watcher.
pub(crate) const ACTIVITY_PAGE: u32 = 200;
/// How far the clocks of two processes may be apart.
pub(crate) const CLOCKS_APART: Duration = Duration::from_secs(5);
/// Most callbacks that wait for the database.
pub(crate) const CALLBACKS_WAITING: usize = 8_192;
/// Most callbacks that share a commit.
pub(crate) const CALLBACKS_PER_COMMIT: usize = 128;
/// Shortest and longest secret that signs callbacks, in characters.
pub(crate) const CALLBACK_SECRET_CHARS: std::ops::RangeInclusive<usize> = 16..=256;
/// How long a ticket for a stream is good.
pub(crate) const TICKET: Duration = Duration::from_secs(30);
