//! Identifiers. All are UUIDv7, so that they sort by the time of their making; a lease token is random.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id, later in sort order than those made before it by this process.
            #[must_use]
            #[expect(clippy::new_without_default, reason = "a default that differs each time would surprise")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id as a bare UUID, for adapters.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// Names a job. A task's id is its job's id.
    JobId
}
id! {
    /// Names a conversation.
    SessionId
}
id! {
    /// Names one message of a conversation.
    MessageId
}
id! {
    /// Names one start of one worker process; never reused, so that a dead worker's leases can't look alive.
    WorkerId
}
id! {
    /// Names a tool call's approval.
    ApprovalId
}
id! {
    /// Names what one run spent.
    UsageId
}
id! {
    /// Names an API key (not the secret).
    ApiKeyId
}
id! {
    /// Names a gateway.
    GatewayId
}
id! {
    /// Names an instance: a bridge that runs prompts elsewhere.
    InstanceId
}
id! {
    /// Names a board.
    BoardId
}
id! {
    /// Names an agent of a gateway.
    AgentId
}
id! {
    /// Names an item of a board's memory.
    MemoryId
}
id! {
    /// Names a question to a person.
    QuestionId
}
id! {
    /// Names who is told by webhooks.
    WebhookId
}
id! {
    /// Names what is told by webhooks: receivers know repeats by it.
    WebhookEventId
}
id! {
    /// Names a line of the audit.
    ActivityId
}

/// The random half of a fence: whoever holds it made the claim.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseToken(Uuid);

impl LeaseToken {
    /// A new unguessable token.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The token as a bare UUID, for adapters.
    #[must_use]
    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for LeaseToken {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}
