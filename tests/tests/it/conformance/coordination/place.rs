//! Gateways and boards; and that nobody meets another tenant's.

use std::sync::Arc;

use errand_common::{
    domain::{
        Stream,
        coordination::{AgentRole, AgentStatus, QuestionState},
        event::EventType,
    },
    port::store::coordination::{
        AgentChange, AgentFilter, AgentRefused, BoardChange, BoardFilter, BoardRefused, GatewayChange, MemoryFilter,
        QuestionFilter, Removed,
    },
};
use serde_json::json;

use super::{
    Fixture, TENANT, answer, ask, cancel,
    memory::{item, leave},
    new_agent, new_board, new_gateway, now, nudge,
};
use crate::conformance::{on_both, record};

on_both! {
    async fn a_gateway_comes_with_its_own_agent_and_goes_with_it(fixture: Fixture) {
        let new = new_gateway();
        let (id, main) = (new.id, new.main.id);
        let key = || Some(record("k", "f", json!({"gateway": id})));
        assert_eq!(fixture.store.create_gateway(new, key(), now()).await.unwrap(), None);
        let again = fixture.store.create_gateway(new_gateway(), key(), now()).await.unwrap().unwrap();
        assert_eq!(again.answer, json!({"gateway": id}));
        assert_eq!(fixture.store.gateways(TENANT, None, 10).await.unwrap().len(), 1, "the second was not made");
        let agent = fixture.store.main_agent(TENANT, id).await.unwrap().unwrap();
        assert_eq!((agent.id, agent.role, agent.status), (main, AgentRole::Main, AgentStatus::New));
        let other = fixture.gateway().await;
        let mains = fixture.store.main_agents(TENANT, &[id]).await.unwrap();
        assert_eq!(mains, [(id, main)], "of those that were asked for");
        assert_eq!(fixture.store.main_agents("another", &[id, other]).await.unwrap(), []);
        assert_eq!(fixture.store.main_agents(TENANT, &[id, other]).await.unwrap().len(), 2);
        assert_eq!(fixture.store.remove_agent(TENANT, main).await.unwrap(), Removed::InUse(1), "it goes with its gateway");

        let board = fixture.board(id, "ops").await;
        assert_eq!(fixture.store.remove_gateway(TENANT, id).await.unwrap(), Removed::InUse(1));
        assert_eq!(fixture.store.remove_board(TENANT, board).await.unwrap(), Removed::Done);
        assert_eq!(fixture.store.remove_gateway(TENANT, id).await.unwrap(), Removed::Done);
        assert_eq!(fixture.store.agent(TENANT, main).await.unwrap(), None);
        assert_eq!(fixture.store.remove_gateway(TENANT, id).await.unwrap(), Removed::Unknown);
    }

    async fn a_gateways_version_counts_how_it_is_reached(fixture: Fixture) {
        let id = fixture.gateway().await;
        let change = async |change| fixture.store.change_gateway(TENANT, id, change, now()).await.unwrap().unwrap();
        assert_eq!(fixture.store.keep_device(id, None, "first").await.unwrap().as_deref(), Some("first"));
        let renamed = change(GatewayChange { name: Some("far".to_owned()), ..GatewayChange::default() }).await;
        assert_eq!((renamed.version, renamed.device.as_deref()), (1, Some("first")));
        let plain = change(GatewayChange { disable_device_pairing: Some(true), ..GatewayChange::default() }).await;
        assert_eq!((plain.version, plain.device.as_deref()), (2, Some("first")));
        let resealed = change(GatewayChange { resealed: Some("anew".to_owned()), ..GatewayChange::default() }).await;
        assert_eq!((resealed.version, resealed.token.as_deref()), (2, Some("anew")));
        assert_eq!(resealed.device.as_deref(), Some("first"), "it is the same token");
        let moved = change(GatewayChange { url: Some("wss://x".to_owned()), ..GatewayChange::default() }).await;
        assert_eq!((moved.version, moved.device), (3, None), "it was paired with another");
        let open = change(GatewayChange { token: Some(None), ..GatewayChange::default() }).await;
        assert_eq!((open.version, open.token, open.name.as_str()), (4, None, "far"));
        assert_eq!(fixture.store.gateway(TENANT, id).await.unwrap().unwrap().version, 4);
    }

    async fn of_several_devices_made_at_once_one_counts(fixture: Fixture) {
        let id = fixture.gateway().await;
        let keeping: Vec<_> = (0..4)
            .map(|number| {
                let store = Arc::clone(&fixture.store);
                tokio::spawn(async move { store.keep_device(id, None, &number.to_string()).await.unwrap().unwrap() })
            })
            .collect();
        let mut kept = Vec::new();
        for one in keeping {
            kept.push(one.await.unwrap());
        }
        assert!(kept.iter().all(|device| *device == kept[0]), "{kept:?}");
        let paired = fixture.store.keep_device(id, Some(&kept[0]), "paired").await.unwrap();
        assert_eq!(paired.as_deref(), Some("paired"));
        let late = fixture.store.keep_device(id, Some(&kept[0]), "late").await.unwrap();
        assert_eq!(late.as_deref(), Some("paired"));
    }

    async fn a_boards_slug_is_its_own_within_the_tenant(fixture: Fixture) {
        let gateway = fixture.gateway().await;
        let first = fixture.board(gateway, "a").await;
        let second = fixture.board(gateway, "b").await;
        let taken = fixture.store.create_board(new_board(None, "a"), None, now()).await.unwrap();
        assert_eq!(taken, Err(BoardRefused::SlugTaken));
        let mut elsewhere = new_board(None, "a");
        elsewhere.tenant = "other".to_owned();
        fixture.store.create_board(elsewhere, None, now()).await.unwrap().unwrap();
        let slug = |slug: &str| BoardChange { slug: Some(slug.to_owned()), ..BoardChange::default() };
        let taken = fixture.store.change_board(TENANT, second, slug("a"), now()).await.unwrap();
        assert_eq!(taken, Err(BoardRefused::SlugTaken));
        assert_eq!(fixture.store.change_board(TENANT, second, slug("c"), now()).await.unwrap().unwrap().slug, "c");
        assert_eq!(fixture.store.change_board(TENANT, first, slug("a"), now()).await.unwrap().unwrap().slug, "a");
        let unknown = new_board(Some(new_gateway().id), "d");
        assert_eq!(fixture.store.create_board(unknown, None, now()).await.unwrap(), Err(BoardRefused::GatewayUnknown));
        let nowhere = BoardChange { gateway_id: Some(None), ..BoardChange::default() };
        assert_eq!(fixture.store.change_board(TENANT, first, nowhere, now()).await.unwrap().unwrap().gateway_id, None);
        let filter = BoardFilter { tenant: TENANT.to_owned(), gateway_id: Some(gateway), before: None, limit: 10 };
        let listed = fixture.store.boards(&filter).await.unwrap();
        assert_eq!(listed.iter().map(|board| board.id).collect::<Vec<_>>(), [second]);
    }

    async fn of_two_that_want_one_name_at_once_one_gets_it(fixture: Fixture) {
        let gateway = fixture.gateway().await;
        for round in 0..10 {
            let slug = format!("wanted-{round}");
            let boards = [fixture.board(gateway, &format!("a-{round}")).await, fixture.board(gateway, &format!("b-{round}")).await];
            let agents = [
                fixture.agent_of(gateway, boards[0], AgentRole::Worker).await,
                fixture.agent_of(gateway, boards[1], AgentRole::Worker).await,
            ];
            let rename = |board| {
                let change = BoardChange { slug: Some(slug.clone()), ..BoardChange::default() };
                fixture.store.change_board(TENANT, board, change, now())
            };
            let (one, other) = tokio::join!(rename(boards[0]), rename(boards[1]));
            let taken = [one.unwrap(), other.unwrap()].into_iter().filter(|changed| *changed == Err(BoardRefused::SlugTaken));
            assert_eq!(taken.count(), 1);
            let bind = |agent| {
                let change = AgentChange { session_key: Some(format!("agent:{slug}:main")), ..AgentChange::default() };
                fixture.store.change_agent(TENANT, agent, change, now())
            };
            let (one, other) = tokio::join!(bind(agents[0]), bind(agents[1]));
            let taken = [one.unwrap(), other.unwrap()].into_iter().filter(|changed| *changed == Err(AgentRefused::SessionTaken));
            assert_eq!(taken.count(), 1);
        }
    }

    async fn a_board_that_is_in_use_stays(fixture: Fixture) {
        let world = fixture.world().await;
        let (job, question) = fixture.asked(ask(&world)).await;
        assert_eq!(fixture.store.remove_board(TENANT, world.board).await.unwrap(), Removed::InUse(2));
        assert_eq!(fixture.store.remove_agent(TENANT, world.lead).await.unwrap(), Removed::Done);
        assert_eq!(fixture.store.remove_board(TENANT, world.board).await.unwrap(), Removed::InUse(1), "it asks");
        let (_, _) = fixture.store.cancel(cancel(job)).await.unwrap().unwrap();
        assert_eq!(fixture.question(question).await.state, QuestionState::Cancelled);
        leave(&fixture, item(&world, "hi", &[])).await;
        assert_eq!(fixture.store.remove_board(TENANT, world.board).await.unwrap(), Removed::Done);
        for (table, left) in [
            (fixture.count("SELECT count(*) FROM memories").await, 0),
            (fixture.count("SELECT count(*) FROM questions").await, 0),
            (fixture.count("SELECT count(*) FROM board_events").await, 0),
        ] {
            assert_eq!(table, left);
        }
        assert_eq!(fixture.store.stream(TENANT, Stream::Board(world.board)).await.unwrap(), None);
    }

    async fn nobody_meets_what_another_tenant_has(fixture: Fixture) {
        const OTHER: &str = "other";
        let world = fixture.world().await;
        let (_, question) = fixture.asked(ask(&world)).await;
        leave(&fixture, item(&world, "hi", &[])).await;
        let before = fixture.events(Stream::Board(world.board)).await;
        assert_eq!(before, [EventType::QuestionOpened, EventType::Memory]);
        let store = &fixture.store;
        assert_eq!(store.gateway(OTHER, world.gateway).await.unwrap(), None);
        assert!(store.gateways(OTHER, None, 10).await.unwrap().is_empty());
        let change = GatewayChange { name: Some("mine".to_owned()), ..GatewayChange::default() };
        assert_eq!(store.change_gateway(OTHER, world.gateway, change, now()).await.unwrap(), None);
        assert_eq!(store.remove_gateway(OTHER, world.gateway).await.unwrap(), Removed::Unknown);
        assert_eq!(store.board(OTHER, world.board).await.unwrap(), None);
        let filter = BoardFilter { tenant: OTHER.to_owned(), gateway_id: Some(world.gateway), before: None, limit: 10 };
        assert!(store.boards(&filter).await.unwrap().is_empty());
        let change = BoardChange { name: Some("mine".to_owned()), ..BoardChange::default() };
        assert_eq!(store.change_board(OTHER, world.board, change, now()).await.unwrap(), Err(BoardRefused::Unknown));
        assert_eq!(store.remove_board(OTHER, world.board).await.unwrap(), Removed::Unknown);
        assert_eq!(store.stream(OTHER, Stream::Board(world.board)).await.unwrap(), None);
        assert_eq!(store.agent(OTHER, world.lead).await.unwrap(), None);
        assert_eq!(store.main_agent(OTHER, world.gateway).await.unwrap(), None);
        assert_eq!(store.remove_agent(OTHER, world.lead).await.unwrap(), Removed::Unknown);
        let refused = store.change_agent(OTHER, world.lead, Default::default(), now()).await.unwrap();
        assert_eq!(refused, Err(AgentRefused::Unknown));
        let filter = AgentFilter {
            tenant: OTHER.to_owned(), board_id: Some(world.board), gateway_id: None, before: None, limit: 10,
        };
        assert!(store.agents(&filter).await.unwrap().is_empty());
        let mut mine = new_agent(world.gateway, None, AgentRole::Worker);
        mine.tenant = OTHER.to_owned();
        assert_eq!(store.create_agent(mine.clone(), None, now()).await.unwrap(), Err(AgentRefused::GatewayUnknown));
        mine.board_id = Some(world.board);
        let run = fixture.submit(nudge(&world, None)).await.unwrap().id;
        assert_eq!(store.ensure_lead(mine, run, now()).await.unwrap(), None);
        let mut mine = new_board(Some(world.gateway), "ops");
        mine.tenant = OTHER.to_owned();
        assert_eq!(store.create_board(mine, None, now()).await.unwrap(), Err(BoardRefused::GatewayUnknown));
        assert_eq!(store.question(OTHER, question).await.unwrap(), None);
        let filter = QuestionFilter {
            tenant: OTHER.to_owned(), board_id: Some(world.board), state: None, before: None, limit: 10,
        };
        assert!(store.questions(&filter).await.unwrap().is_empty());
        let mut theirs = answer(question, json!("x"), "them");
        theirs.tenant = OTHER.to_owned();
        assert!(store.answer(theirs).await.unwrap().is_none());
        let mut theirs = item(&world, "hi", &[]);
        theirs.tenant = OTHER.to_owned();
        assert_eq!(store.post_memory(theirs, now()).await.unwrap().0, errand_common::port::store::coordination::Posted::Unknown);
        let filter = MemoryFilter {
            tenant: OTHER.to_owned(), board_id: world.board, is_chat: None, since: None, offset: 0, limit: 10,
        };
        assert_eq!(store.memories(&filter).await.unwrap(), (vec![], 0));
        assert!(fixture.activities(OTHER).await.is_empty());
        assert_eq!(fixture.question(question).await.state, QuestionState::Open);
        assert_eq!(fixture.events(Stream::Board(world.board)).await, before, "nothing was written");
    }

    async fn a_board_gets_no_other_gateway_as_long_as_agents_of_it_run_in_one(fixture: Fixture) {
        let world = fixture.world().await;
        let other = fixture.gateway().await;
        let to = |gateway| BoardChange { gateway_id: Some(gateway), ..BoardChange::default() };
        let change = async |gateway| fixture.store.change_board(TENANT, world.board, to(gateway), now()).await.unwrap();
        assert_eq!(change(Some(other)).await.unwrap_err(), BoardRefused::HasAgents(1));
        assert_eq!(change(None).await.unwrap().gateway_id, None);
        assert_eq!(change(Some(other)).await.unwrap_err(), BoardRefused::HasAgents(1));
        fixture.store.remove_agent(TENANT, world.lead).await.unwrap();
        assert_eq!(change(Some(other)).await.unwrap().gateway_id, Some(other));
    }

    async fn a_token_of_a_gateway_that_moved_is_not_kept(fixture: Fixture) {
        let id = fixture.gateway().await;
        fixture.store.keep_device(id, None, "of the first place").await.unwrap();
        let moved = GatewayChange { url: Some("wss://elsewhere".to_owned()), ..GatewayChange::default() };
        fixture.store.change_gateway(TENANT, id, moved, now()).await.unwrap().unwrap();
        let late = fixture.store.keep_device(id, Some("of the first place"), "with its token").await.unwrap();
        assert_eq!(late, None);
        assert_eq!(fixture.store.gateway(TENANT, id).await.unwrap().unwrap().device, None);
    }
}
