//! Agents: their places, their tokens, and how they come to be in their gateway.

use std::{sync::Arc, time::Duration};

use errand_common::{
    domain::{
        FailureClass, JobId,
        coordination::{AgentRole, AgentStatus, agent::worker_session},
    },
    port::store::{
        AgentWritten, Claimed, Finish, NewJob, Outcome, Stale,
        coordination::{AgentChange, AgentFilter, AgentRefused, Provisioned},
    },
    wire::coordination::{PROVISION, ProvisionPayload, VERSION},
};
use serde_json::json;

use super::{Fixture, LEASE, TENANT, cancel, new_agent, new_gateway, now, nudge};
use crate::conformance::{failure, on_both, plain_job, record};

impl Fixture {
    async fn provisioning(&self, agent: errand_common::domain::AgentId) -> Claimed {
        let payload = ProvisionPayload { agent_id: agent, overwrite: false, if_needed: false };
        let job = NewJob {
            kind: PROVISION.to_owned(),
            payload: serde_json::to_value(payload).unwrap(),
            payload_version: VERSION,
            ..plain_job()
        };
        let id = self.submit(job).await.unwrap().id;
        self.claim(id, LEASE).await
    }

    async fn end_provisioning(&self, run: &Claimed, agent: errand_common::domain::AgentId, how: Provisioned) -> bool {
        let outcome = match &how {
            Provisioned::Whole { .. } => Outcome::Completed { result: json!({}), message: None },
            Provisioned::Failed { .. } => Outcome::Failed { failure: failure(FailureClass::Fatal) },
        };
        let written = AgentWritten::Provisioned { agent_id: agent, how };
        let entry = Finish { agent: Some(written), ..Finish::new(run.fence, outcome) };
        self.store.finish(vec![entry], now()).await.unwrap().0.remove(0).is_ok()
    }
}

on_both! {
    async fn places_and_sessions_are_taken_once(fixture: Fixture) {
        let world = fixture.world().await;
        let refused = async |new| fixture.store.create_agent(new, None, now()).await.unwrap().unwrap_err();
        let second = new_agent(world.gateway, Some(world.board), AgentRole::Lead);
        assert_eq!(refused(second).await, AgentRefused::RoleTaken);
        assert_eq!(refused(new_agent(world.gateway, None, AgentRole::Main)).await, AgentRefused::RoleTaken);
        let mut intruder = new_agent(world.gateway, Some(world.board), AgentRole::Worker);
        intruder.session_key = fixture.agent(world.lead).await.session_key;
        assert_eq!(refused(intruder).await, AgentRefused::SessionTaken);
        let elsewhere = fixture.gateway().await;
        let stranger = new_agent(elsewhere, Some(world.board), AgentRole::Worker);
        assert_eq!(refused(stranger).await, AgentRefused::BoardUnknown, "the board is another gateway's");
        let unknown = new_agent(new_gateway().id, None, AgentRole::Worker);
        assert_eq!(refused(unknown).await, AgentRefused::GatewayUnknown);

        let worker = new_agent(world.gateway, Some(world.board), AgentRole::Worker);
        let (id, key) = (worker.id, Some(record("k", "f", json!({"agent": worker.id}))));
        fixture.store.create_agent(worker.clone(), key.clone(), now()).await.unwrap().unwrap();
        let again = fixture.store.create_agent(worker, key, now()).await.unwrap().unwrap_err();
        assert!(matches!(again, AgentRefused::Replayed(answer) if answer.answer == json!({"agent": id})));
        let filter = AgentFilter {
            tenant: TENANT.to_owned(), board_id: Some(world.board), gateway_id: None, before: None, limit: 10,
        };
        let listed: Vec<_> = fixture.store.agents(&filter).await.unwrap().iter().map(|agent| agent.id).collect();
        assert_eq!(listed, [id, world.lead], "newest first");
    }

    async fn a_token_names_its_agent_until_it_has_another(fixture: Fixture) {
        let world = fixture.world().await;
        let of = |hash: String| { let store = Arc::clone(&fixture.store); async move { store.agent_by_token(&hash).await.unwrap() } };
        let old = format!("hash of {}", world.lead);
        assert_eq!(of(old.clone()).await.unwrap().id, world.lead);
        let change = AgentChange { token: Some(("new".to_owned(), "sealed new".to_owned())), ..AgentChange::default() };
        fixture.store.change_agent(TENANT, world.lead, change, now()).await.unwrap().unwrap();
        assert_eq!(of(old).await, None);
        assert_eq!(of("new".to_owned()).await.unwrap().id, world.lead);
    }

    async fn a_bound_agent_is_there_and_never_provisioned(fixture: Fixture) {
        let world = fixture.world().await;
        let taken = AgentChange { session_key: Some(fixture.agent(world.lead).await.session_key), ..AgentChange::default() };
        let worker = fixture.agent_of(world.gateway, world.board, AgentRole::Worker).await;
        assert!(fixture.agent(worker).await.needs_provisioning());
        let refused = fixture.store.change_agent(TENANT, worker, taken, now()).await.unwrap();
        assert_eq!(refused, Err(AgentRefused::SessionTaken));
        let bind = AgentChange { session_key: Some("agent:there:main".to_owned()), ..AgentChange::default() };
        let bound = fixture.store.change_agent(TENANT, worker, bind, now()).await.unwrap().unwrap();
        assert!(bound.bound && !bound.needs_provisioning());
        let run = fixture.provisioning(worker).await;
        assert_eq!(fixture.store.begin_provisioning(run.fence, worker, now()).await.unwrap(), Ok(None));
    }

    async fn however_many_ask_for_a_lead_one_is_made(fixture: Fixture) {
        let gateway = fixture.gateway().await;
        let board = fixture.board(gateway, "ops").await;
        let asking: Vec<_> = (0..6)
            .map(|_| {
                let store = Arc::clone(&fixture.store);
                let (new, job) = (new_agent(gateway, Some(board), AgentRole::Lead), JobId::new());
                tokio::spawn(async move { (job, store.ensure_lead(new, job, now()).await.unwrap().unwrap()) })
            })
            .collect();
        let mut leads = Vec::new();
        for one in asking {
            leads.push(one.await.unwrap());
        }
        let first = leads[0].1.agent.id;
        assert!(leads.iter().all(|(_, lead)| lead.agent.id == first));
        let makers: Vec<_> = leads.iter().filter(|(_, lead)| lead.created).map(|(job, _)| *job).collect();
        assert_eq!(makers.len(), 1);
        assert_eq!(fixture.count("SELECT count(*) FROM agents WHERE role = 'lead'").await, 1);
        let named = AgentChange { name: Some("Boss".to_owned()), ..AgentChange::default() };
        fixture.store.change_agent(TENANT, first, named, now()).await.unwrap().unwrap();
        let new = || new_agent(gateway, Some(board), AgentRole::Lead);
        let again = fixture.store.ensure_lead(new(), makers[0], now()).await.unwrap().unwrap();
        assert!(again.created, "a later attempt of the same job still knows that it made the lead");
        assert_eq!(again.agent.name, "Boss", "nobody renames it");
        assert!(!fixture.store.ensure_lead(new(), JobId::new(), now()).await.unwrap().unwrap().created);
        let elsewhere = fixture.gateway().await;
        let stranger = new_agent(elsewhere, Some(board), AgentRole::Lead);
        assert_eq!(fixture.store.ensure_lead(stranger, JobId::new(), now()).await.unwrap(), None);
    }

    async fn an_agent_is_provisioned_under_the_fence_of_a_job(fixture: Fixture) {
        let world = fixture.world().await;
        let run = fixture.provisioning(world.lead).await;
        let begin = async |run: &Claimed| fixture.store.begin_provisioning(run.fence, world.lead, now()).await.unwrap();
        let (agent, token) = begin(&run).await.unwrap().unwrap();
        assert_eq!((agent.status, agent.generation, token.as_deref()), (AgentStatus::Provisioning, 1, Some("sealed")));
        assert_eq!(begin(&run).await.unwrap().unwrap().0.generation, 1, "a later attempt goes on");
        let whole = Provisioned::Whole { soul_hash: Some("h".to_owned()) };
        assert!(fixture.end_provisioning(&run, world.lead, whole.clone()).await);
        assert_eq!(begin(&run).await, Err(Stale));
        let agent = fixture.agent(world.lead).await;
        assert_eq!((agent.status, agent.soul_hash.as_deref()), (AgentStatus::Online, Some("h")));
        assert_eq!(fixture.count("SELECT count(*) FROM agents WHERE token_sealed IS NOT NULL AND role = 'lead'").await, 0);

        let second = fixture.provisioning(world.lead).await;
        let (agent, token) = begin(&second).await.unwrap().unwrap();
        assert_eq!((agent.status, agent.generation, token), (AgentStatus::Updating, 2, None));
        let failed = Provisioned::Failed { error: "no room".to_owned() };
        assert!(fixture.end_provisioning(&second, world.lead, failed).await);
        let agent = fixture.agent(world.lead).await;
        assert_eq!((agent.status, agent.provision_error.as_deref()), (AgentStatus::Failed, Some("no room")));
        assert!(agent.needs_provisioning());

        // Another token makes what the run under way brings worthless.
        let third = fixture.provisioning(world.lead).await;
        begin(&third).await.unwrap().unwrap();
        let change = AgentChange { token: Some(("t2".to_owned(), "sealed 2".to_owned())), ..AgentChange::default() };
        fixture.store.change_agent(TENANT, world.lead, change, now()).await.unwrap().unwrap();
        assert!(fixture.end_provisioning(&third, world.lead, whole).await);
        let agent = fixture.agent(world.lead).await;
        assert!(agent.status == AgentStatus::Updating && agent.needs_provisioning());
        let fourth = fixture.provisioning(world.lead).await;
        assert_eq!(begin(&fourth).await.unwrap().unwrap().1.as_deref(), Some("sealed 2"));
    }

    async fn a_provisioning_that_ends_without_a_word_has_failed(fixture: Fixture) {
        let world = fixture.world().await;
        let run = fixture.provisioning(world.lead).await;
        fixture.store.begin_provisioning(run.fence, world.lead, now()).await.unwrap().unwrap().unwrap();
        let (_, _) = fixture.store.cancel(cancel(run.job.id)).await.unwrap().unwrap();
        let agent = fixture.agent(world.lead).await;
        assert_eq!((agent.status, agent.provision_error.as_deref()), (AgentStatus::Failed, Some("no")));
    }

    async fn a_soul_is_kept_with_the_end_of_the_run_that_wrote_it(fixture: Fixture) {
        let world = fixture.world().await;
        let job = fixture.submit(nudge(&world, None)).await.unwrap().id;
        let run = fixture.claim(job, LEASE).await;
        let (content, hash) = ("be kind".to_owned(), "h".to_owned());
        let entry = Finish {
            agent: Some(AgentWritten::Soul { agent_id: world.lead, content, hash }),
            ..Finish::new(run.fence, Outcome::Completed { result: json!({"ok": true}), message: None })
        };
        assert_eq!(fixture.store.finish(vec![entry.clone()], now()).await.unwrap().0, [Ok(())]);
        let agent = fixture.agent(world.lead).await;
        assert_eq!((agent.soul.as_deref(), agent.soul_hash.as_deref()), (Some("be kind"), Some("h")));
        let AgentWritten::Soul { agent_id, .. } = entry.agent.clone().unwrap() else { unreachable!("it is one") };
        let late = AgentWritten::Soul { agent_id, content: "late".to_owned(), hash: "l".to_owned() };
        let late = Finish { agent: Some(late), ..entry };
        assert_eq!(fixture.store.finish(vec![late], now()).await.unwrap().0, [Err(Stale)]);
        assert_eq!(fixture.agent(world.lead).await.soul.as_deref(), Some("be kind"));
    }

    async fn an_agent_is_seen_at_most_every_half_minute_but_for_its_heartbeats(fixture: Fixture) {
        let world = fixture.world().await;
        let start = now();
        let at = |seconds| start.plus(Duration::from_secs(seconds));
        let seen = async |seconds, heartbeat| {
            fixture.store.agent_seen(world.lead, heartbeat, at(seconds)).await.unwrap();
            fixture.agent(world.lead).await.last_seen_at
        };
        assert_eq!(seen(0, false).await, Some(at(0)));
        assert_eq!(seen(30, false).await, Some(at(0)));
        assert_eq!(seen(31, false).await, Some(at(31)));
        assert_eq!(seen(32, true).await, Some(at(32)));
        assert_eq!(seen(20, true).await, Some(at(32)), "it does not go back");
        let heartbeats = fixture.audit().await;
        assert_eq!(heartbeats, vec![("agent.heartbeat".to_owned(), "Heartbeat received from the lead.".to_owned()); 2]);
        assert_ne!(worker_session(world.lead), fixture.agent(world.lead).await.session_key);
    }

    async fn one_run_at_a_time_writes_an_agents_files(fixture: Fixture) {
        let world = fixture.world().await;
        let run = async || {
            let id = fixture.submit(nudge(&world, None)).await.unwrap().id;
            fixture.claim(id, LEASE).await
        };
        let take = async |run: &Claimed| fixture.store.take_files(run.fence, world.lead, now()).await.unwrap();
        let (first, second) = (run().await, run().await);
        assert_eq!((take(&first).await, take(&first).await), (Ok(true), Ok(true)), "the same run may ask again");
        assert_eq!(take(&second).await, Ok(false));
        let later = Outcome::Retry { failure: failure(FailureClass::Transient), run_at: now() };
        assert!(fixture.finish(&first, later).await);
        assert_eq!(take(&second).await, Ok(true), "the first has let go");
        assert_eq!(take(&first).await, Err(Stale));
        drop(fixture.store.promote(&[first.job.id], now()).await.unwrap());
        let again = fixture.claim(first.job.id, LEASE).await;
        assert_eq!(take(&again).await, Ok(false));
        assert!(fixture.complete(&second, "ok").await);
        assert_eq!(take(&again).await, Ok(true));
        let other = fixture.provisioning(world.lead).await;
        assert_eq!(take(&other).await, Ok(false), "a provisioning waits for it, too");
    }
}
