//! Users within a tenant, and what a task is told that gives way.

use errand_common::{
    domain::{Job, JobState, OnBusy},
    port::store::{Created, Interruption, JobFilter, NewJob, SessionFilter},
};

use super::{Fixture, LEASE, TENANT, now, on_both, task};

fn of(user: Option<&str>, job: NewJob) -> NewJob {
    NewJob { user_id: user.map(str::to_owned), ..job }
}

impl Fixture {
    async fn jobs_of(&self, filter: JobFilter) -> Vec<Job> {
        self.store.jobs(TENANT, &JobFilter { limit: 10, ..filter }).await.unwrap()
    }
}

on_both! {
    async fn a_user_joins_only_sessions_of_their_own(fixture: Fixture) {
        let submit = async |user, session| -> Created {
            fixture.submit(of(user, task(session, "hi", OnBusy::Enqueue))).await.unwrap()
        };
        let anns = submit(Some("ann"), None).await;
        let keys = submit(None, None).await;
        let session = async |created: &Created| fixture.store.session(TENANT, created.session_id.unwrap()).await.unwrap().unwrap();
        assert_eq!(session(&anns).await.user_id.as_deref(), Some("ann"));
        assert_eq!(session(&keys).await.user_id, None);
        assert_eq!(fixture.job(anns.id).await.user_id.as_deref(), Some("ann"));

        assert_eq!(submit(Some("ann"), anns.session_id).await.session_id, anns.session_id);
        assert_eq!(submit(None, anns.session_id).await.session_id, anns.session_id, "a key may use all of its tenant's");
        let bobs = submit(Some("bob"), anns.session_id).await;
        assert_ne!(bobs.session_id, anns.session_id);
        assert_eq!((bobs.state, session(&bobs).await.user_id.as_deref()), (JobState::Queued, Some("bob")));
        assert_ne!(submit(Some("bob"), keys.session_id).await.session_id, keys.session_id);
    }

    async fn lists_are_narrowed_to_a_user(fixture: Fixture) {
        for user in [Some("ann"), Some("bob"), None, Some("ann")] {
            fixture.submit(of(user, task(None, "hi", OnBusy::default()))).await.unwrap();
        }
        let ann = || Some("ann".to_owned());
        let all = fixture.jobs_of(JobFilter { user_id: ann(), ..JobFilter::default() }).await;
        assert_eq!(all.len(), 2);
        assert!(all.iter().all(|job| job.user_id.as_deref() == Some("ann")));
        let session_id = all[0].session_id;
        let narrow = [
            (JobFilter { session_id, user_id: ann(), ..JobFilter::default() }, 1),
            (JobFilter { session_id, user_id: Some("bob".to_owned()), ..JobFilter::default() }, 0),
            (JobFilter { states: vec![JobState::Queued], user_id: ann(), ..JobFilter::default() }, 2),
            (JobFilter { states: vec![JobState::Failed], user_id: ann(), ..JobFilter::default() }, 0),
            (JobFilter { parent_id: Some(all[0].id), user_id: ann(), ..JobFilter::default() }, 0),
            (JobFilter { before: Some(all[0].id), user_id: ann(), ..JobFilter::default() }, 1),
            (JobFilter::default(), 4),
        ];
        for (filter, count) in narrow {
            assert_eq!(fixture.jobs_of(filter.clone()).await.len(), count, "{filter:?}");
        }
        let sessions = async |user_id, before| {
            fixture.store.sessions(TENANT, &SessionFilter { user_id, instance_id: None, before, limit: 10 }).await.unwrap()
        };
        let anns = sessions(ann(), None).await;
        assert_eq!((anns.len(), sessions(None, None).await.len()), (2, 4));
        assert_eq!(sessions(ann(), Some(anns[0].id)).await.len(), 1);
    }

    async fn a_task_that_gives_way_is_told_what_to(fixture: Fixture) {
        let reasons = [
            (Interruption::Task, "USER_INTERRUPT", "Interrupted by a new task"),
            (Interruption::Inject, "USER_INJECT", "Interrupted by user injection"),
            (Interruption::Voice, "VOICE_INJECT", "Interrupted by voice message"),
        ];
        for later in [false, true] {
            for (interruption, code, message) in reasons {
                let active = fixture.submit(task(None, "active", OnBusy::default())).await.unwrap();
                fixture.claim(active.id, LEASE).await;
                let mut next = task(active.session_id, "next", OnBusy::Interrupt);
                next.task.as_mut().unwrap().interruption = interruption;
                let at = now().plus(LEASE);
                next.run_at = later.then_some(at);
                let next = fixture.submit(next).await.unwrap();
                if later {
                    let _ = fixture.store.promote(&[next.id], at).await.unwrap();
                }
                let failure = fixture.job(active.id).await.failure.unwrap();
                assert_eq!((failure.code.as_str(), failure.message.as_str()), (code, message), "later: {later}");
            }
        }
    }
}
