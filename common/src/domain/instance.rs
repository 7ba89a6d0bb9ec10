//! Instances: bridges that take a prompt, answer it elsewhere, and call back.

use serde::{Deserialize, Serialize};

use super::{FailureClass, InstanceId, Timestamp, Usage, job::text_enum};

text_enum! {
    /// Whether an instance takes prompts.
    #[derive(Default)]
    InstanceStatus {
        /// Will soon.
        Starting = "starting",
        /// Does.
        #[default]
        Running = "running",
        /// Does not.
        Stopped = "stopped",
        /// Can't.
        Error = "error",
    }
}

/// An instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Whose it is.
    pub tenant: String,
    /// For people.
    pub name: String,
    /// The user whose alone it is; `None`: every user of the tenant may use it.
    pub user_id: Option<String>,
    /// Its bridge's name or address, without a port.
    pub server_host: Option<String>,
    /// Its bridge's port.
    pub host_port: u16,
    /// Whether it takes prompts.
    pub status: InstanceStatus,
    /// Signs the bodies of its callbacks; sealed.
    pub callback_secret: Option<String>,
    /// How often its bridge is asked for what it has not called back about, in seconds; `None`: never.
    pub poll_seconds: Option<u32>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl Instance {
    /// Why it takes no prompt now, in one sentence.
    #[must_use]
    pub fn unfit(&self) -> Option<String> {
        if self.status != InstanceStatus::Running {
            return Some(format!("Instance is {} — it must be running to accept messages", self.status));
        }
        self.server_host.is_none().then(|| "Instance has no server host configured".to_owned())
    }
}

/// What a bridge says of a prompt.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "snake_case")]
pub enum Said {
    /// It is answered.
    Done {
        /// The answer. Empty: what the pieces said.
        result: String,
        /// What it cost, if the bridge says.
        usage: Option<Usage>,
    },
    /// It can't be answered.
    Failed {
        /// Timed out, or not.
        class: FailureClass,
        /// For programs.
        code: String,
        /// For people.
        message: String,
    },
    /// A piece of the answer; more follows.
    Piece {
        /// To be appended.
        content: String,
        /// Its number, from 1 without gaps: one that came before is not appended again. Without one, all are appended.
        number: Option<i64>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_says_why_it_takes_nothing() {
        let mut instance = Instance {
            id: InstanceId::new(),
            tenant: "t".into(),
            name: "n".into(),
            user_id: None,
            server_host: Some("bridge.example".into()),
            host_port: 443,
            status: InstanceStatus::Running,
            callback_secret: None,
            poll_seconds: None,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        };
        assert_eq!(instance.unfit(), None);
        instance.server_host = None;
        assert_eq!(instance.unfit().as_deref(), Some("Instance has no server host configured"));
        instance.status = InstanceStatus::Stopped;
        let told = instance.unfit();
        assert_eq!(told.as_deref(), Some("Instance is stopped — it must be running to accept messages"));
    }
}
