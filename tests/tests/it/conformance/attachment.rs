//! Contents of attachments, what names them, and what tenants choose.

use std::{sync::Arc, time::Duration};

use errand_common::{
    domain::{AttachmentContent, AttachmentRef, OnBusy},
    port::store::NewJob,
};

use super::{Fixture, LEASE, TENANT, now, on_both, task};

fn content(hash: &str, base64: &str) -> AttachmentContent {
    AttachmentContent { hash: hash.to_owned(), base64: base64.to_owned(), size: 3 }
}

fn named(hash: &str) -> AttachmentRef {
    AttachmentRef {
        hash: hash.to_owned(),
        media_type: "image/png".to_owned(),
        file_name: Some("a \"b\".png".to_owned()),
        size: 3,
    }
}

fn with_attachments(mut job: NewJob, attachments: Vec<AttachmentRef>) -> NewJob {
    job.task.as_mut().unwrap().attachments = attachments;
    job
}

impl Fixture {
    async fn keep(&self, tenant: &str, contents: &[AttachmentContent]) {
        self.store.keep_attachments(tenant, contents.to_vec(), now()).await.unwrap();
    }
}

on_both! {
    async fn a_content_is_kept_once_a_tenant(fixture: Fixture) {
        fixture.keep(TENANT, &[content("b", "Yg=="), content("a", "YQ==")]).await;
        fixture.keep(TENANT, &[content("a", "YQ=="), content("a", "YQ==")]).await;
        fixture.keep("other", &[content("a", "YQ==")]).await;
        assert_eq!(fixture.count("SELECT count(*) FROM attachments").await, 3);
        let hashes = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let mut found = fixture.store.attachments(TENANT, &hashes).await.unwrap();
        found.sort_by(|one, other| one.hash.cmp(&other.hash));
        assert_eq!(found, [content("a", "YQ=="), content("b", "Yg==")]);
        assert_eq!(fixture.store.attachments("other", &hashes).await.unwrap(), [content("a", "YQ==")]);
        assert!(fixture.store.attachments("third", &hashes).await.unwrap().is_empty());
    }

    async fn a_large_content_comes_back_as_it_was(fixture: Fixture) {
        let large = content("large", &"QUJD".repeat(7_000_000));
        fixture.keep(TENANT, std::slice::from_ref(&large)).await;
        assert!(fixture.store.attachments(TENANT, &["large".to_owned()]).await.unwrap() == [large], "28 MB came back changed");
    }

    async fn many_who_keep_the_same_at_once_all_succeed(fixture: Fixture) {
        let fixture = Arc::new(fixture);
        let contents: Vec<_> = (0..5).map(|index| content(&index.to_string(), "YQ==")).collect();
        let racers = (0..8).map(|racer| {
            let (fixture, mut contents) = (fixture.clone(), contents.clone());
            contents.rotate_left(racer % 5);
            tokio::spawn(async move { fixture.keep(TENANT, &contents).await })
        });
        for racer in futures::future::join_all(racers).await {
            racer.unwrap();
        }
        assert_eq!(fixture.count("SELECT count(*) FROM attachments").await, 5);
    }

    async fn what_comes_with_a_prompt_is_shown_with_its_message(fixture: Fixture) {
        fixture.keep(TENANT, &[content("a", "YQ==")]).await;
        let first = with_attachments(task(None, "look", OnBusy::default()), vec![named("a")]);
        let created = fixture.submit(first).await.unwrap();
        let waiting = with_attachments(task(created.session_id, "and this", OnBusy::Enqueue), vec![named("a"), named("b")]);
        fixture.submit(waiting).await.unwrap();
        let run = fixture.claim(created.id, LEASE).await;
        assert!(fixture.complete(&run, "seen").await);
        let messages = fixture.store.messages(created.session_id.unwrap(), 0, 10).await.unwrap();
        let attachments: Vec<_> = messages.iter().map(|message| message.attachments.clone()).collect();
        assert_eq!(attachments, [vec![named("a")], vec![], vec![named("a"), named("b")]]);
        let history = fixture.store.history(created.session_id.unwrap(), run.job.id, 10).await.unwrap();
        assert_eq!(history.last().unwrap().attachments.len(), 2);
        assert_eq!(fixture.count("SELECT count(*) FROM jobs WHERE pending_attachments IS NOT NULL").await, 0);
    }

    async fn what_no_task_came_with_is_dropped_in_time(fixture: Fixture) {
        fixture.keep(TENANT, &[content("named", "YQ=="), content("unnamed", "YQ=="), content("other", "YQ==")]).await;
        let scheduled = NewJob { run_at: Some(now().plus(LEASE)), ..task(None, "look", OnBusy::default()) };
        fixture.submit(with_attachments(scheduled, vec![named("named")])).await.unwrap();
        let drop_sent_before = async |at, limit| fixture.store.drop_attachments(at, limit).await.unwrap();
        assert_eq!(drop_sent_before(now().minus(LEASE), 10).await, 0, "too young");
        let soon = now().plus(Duration::from_secs(1));
        assert_eq!((drop_sent_before(soon, 1).await, drop_sent_before(soon, 10).await, drop_sent_before(soon, 10).await), (1, 1, 0));
        let left = fixture.store.attachments(TENANT, &["named".to_owned(), "unnamed".to_owned()]).await.unwrap();
        assert_eq!(left, [content("named", "YQ==")]);
    }

    async fn what_is_sent_again_counts_as_young(fixture: Fixture) {
        fixture.keep(TENANT, &[content("a", "YQ==")]).await;
        fixture.store.keep_attachments(TENANT, vec![content("a", "YQ==")], now().plus(LEASE)).await.unwrap();
        assert_eq!(fixture.store.drop_attachments(now().plus(Duration::from_secs(1)), 10).await.unwrap(), 0);
    }

    async fn a_tenant_chooses_its_engine(fixture: Fixture) {
        let chosen = async |tenant| fixture.store.default_engine(tenant).await.unwrap();
        assert_eq!(chosen(TENANT).await, None);
        for engine in ["echo", "claude_api"] {
            fixture.store.choose_engine(TENANT, engine, now()).await.unwrap();
            assert_eq!(chosen(TENANT).await.as_deref(), Some(engine));
        }
        assert_eq!(chosen("other").await, None);
    }
}
