//! Repeating jobs of coordination: what was kept with the original beside its payload is the new job's too.

use std::collections::HashMap;

use serde_json::json;

use super::question;
use crate::{
    adapter::sql::{
        dialect::{Dialect, SqlTx, params},
        row::JobRow,
        statement::{self as jobs, coordination as statement},
        unit::{Unit, id_rows},
    },
    domain::{JobId, QuestionId, Timestamp, coordination::Question},
    port::{
        StoreError,
        store::{NewJob, coordination::NewQuestion},
    },
    wire::coordination::{ASK_USER, KINDS},
};

/// What new jobs take over, by the job they repeat.
#[derive(Default)]
pub(in crate::adapter::sql) struct Originals {
    rows: HashMap<JobId, JobRow>,
    questions: HashMap<JobId, Question>,
}

impl Originals {
    /// Those of jobs of coordination, children too, that say nothing of it themselves.
    pub(in crate::adapter::sql) async fn see<D: Dialect>(
        unit: &mut Unit<D>,
        jobs: &[&NewJob],
    ) -> Result<Self, StoreError> {
        let is_silent = |new: &&NewJob| new.coordination.is_none() && KINDS.contains(&new.kind.as_str());
        let originals: Vec<_> = jobs
            .iter()
            .flat_map(|new| std::iter::once(*new).chain(&new.children))
            .filter(is_silent)
            .filter_map(|new| new.retry_of)
            .map(JobId::uuid)
            .collect();
        if originals.is_empty() {
            return Ok(Self::default());
        }
        let ids = id_rows(originals);
        let rows = unit.load_jobs(&jobs::SEE_JOBS, params![ids.clone()]).await?;
        let questions = unit.tx.fetch(&statement::QUESTIONS_OF_JOBS, params![ids]).await?;
        let questions = questions.iter().map(question::read).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            rows: rows.into_iter().map(|row| (row.job.id, row)).collect(),
            questions: questions.into_iter().map(|question| (question.job_id, question)).collect(),
        })
    }

    /// Whether a new job is to ask what its original asked, and that is known no more: its board was removed.
    pub(in crate::adapter::sql) fn has_lost_question(&self, new: &NewJob) -> bool {
        let repeats = new.kind == ASK_USER && new.coordination.is_none();
        repeats && new.retry_of.is_some_and(|original| !self.questions.contains_key(&original))
    }

    /// Gives a new job what its original had. A question is asked anew, under another id and for as long as the first.
    pub(in crate::adapter::sql) fn hand_down(
        &self,
        new: &NewJob,
        row: &mut JobRow,
        now: Timestamp,
    ) -> Option<NewQuestion> {
        let original = new.retry_of.filter(|_| new.coordination.is_none())?;
        let former = self.rows.get(&original).filter(|former| former.job.tenant == new.tenant)?;
        row.told.clone_from(&former.told);
        row.window = former.window;
        let asked = self.questions.get(&original)?;
        let id = QuestionId::new();
        if let Some(payload) = row.job.payload.as_object_mut() {
            payload.insert("question_id".to_owned(), json!(id));
        }
        Some(NewQuestion {
            id,
            board_id: asked.board_id,
            agent_id: asked.agent_id,
            content: asked.content.clone(),
            correlation_id: asked.correlation_id.clone(),
            reply_tags: asked.reply_tags.clone(),
            reply_source: asked.reply_source.clone(),
            answer_schema: asked.answer_schema.clone(),
            remind_at: asked.remind_at.map(|at| now.plus(at.since(asked.created_at) / (asked.reminders + 1))),
            expires_at: now.plus(asked.expires_at.since(asked.created_at)),
        })
    }
}
