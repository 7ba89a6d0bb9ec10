//! What judging a submission needs, and what it brings along: the same for one job, a batch and the jobs of a group.

use std::sync::Arc;

use errand_common::{
    domain::{AttachmentContent, AttachmentRef},
    wire::engine::EngineInfo,
};

use crate::{
    attachment::Attachment, auth::Caller, coordination::places::Places, engines::Known, problem::Problem, state::App,
};

/// See the module.
pub(crate) struct Intake<'a> {
    pub(crate) app: &'a App,
    pub(crate) caller: &'a Caller,
    known: Arc<Known>,
    /// The engine that the tenant chose for tasks that name none.
    chosen: Option<String>,
    /// What payloads name.
    pub(crate) places: Places<'a>,
    /// The client waits for what comes of it.
    pub(crate) awaited: bool,
    /// Contents of the attachments of all that was judged right.
    contents: Vec<AttachmentContent>,
}

impl<'a> Intake<'a> {
    pub(crate) async fn open(app: &'a App, caller: &'a Caller) -> Result<Self, Problem> {
        let known = app.engines.known().await?;
        let chosen = app.engines.chosen_by(&caller.tenant).await?;
        let places = Places::new(app, &caller.tenant);
        Ok(Self { app, caller, known, chosen, places, awaited: false, contents: Vec::new() })
    }

    /// The same, for a client that waits.
    pub(crate) fn awaited(self, awaited: bool) -> Self {
        Self { awaited, ..self }
    }

    /// The engine asked for, or the tenant's, or the fleet's; `pointer` is where the client named it.
    pub(crate) fn engine(&self, asked: Option<&str>, pointer: &str) -> Result<EngineInfo, Problem> {
        self.known.choose(asked, self.chosen.as_deref(), pointer).cloned()
    }

    /// Takes attachments along, and gives what messages and payloads name them by.
    pub(crate) fn attach(&mut self, attachments: Vec<Attachment>) -> Vec<AttachmentRef> {
        attachments
            .into_iter()
            .map(|attachment| {
                let (reference, content) = attachment.split();
                self.contents.push(content);
                reference
            })
            .collect()
    }

    /// Makes what was taken along durable: before the submission that names it.
    pub(crate) async fn keep_attachments(self) -> Result<(), Problem> {
        let Self { app, caller, mut contents, .. } = self;
        contents.sort_by(|one, other| one.hash.cmp(&other.hash));
        contents.dedup_by(|one, other| one.hash == other.hash);
        if !contents.is_empty() {
            app.backend.store.keep_attachments(&caller.tenant, contents, app.now()).await?;
        }
        Ok(())
    }
}
