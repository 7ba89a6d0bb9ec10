//! Jobs as they are shown, with what has to be read besides their rows.

use errand_common::{
    domain::{Job, JobId},
    wire::{coordination, group},
};

use crate::{problem::Problem, state::App, view::JobView};

/// Kinds whose jobs have children.
const PARENTS: &[&str] = &[group::KIND, coordination::BROADCAST];

/// One job.
pub(crate) async fn job(app: &App, job: Job) -> Result<JobView, Problem> {
    jobs(app, vec![job]).await?.pop().ok_or_else(Problem::internal)
}

/// A list of them, in its order.
pub(crate) async fn jobs(app: &App, jobs: Vec<Job>) -> Result<Vec<JobView>, Problem> {
    let epoch = app.epoch().await?;
    let parents: Vec<JobId> =
        jobs.iter().filter(|job| PARENTS.contains(&job.kind.as_str())).map(|job| job.id).collect();
    let mut children = app.backend.store.children(&parents).await?;
    Ok(jobs
        .into_iter()
        .map(|job| {
            let its = children.remove(&job.id).unwrap_or_default();
            JobView::new(job, &epoch, &its)
        })
        .collect())
}
