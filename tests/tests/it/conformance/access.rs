//! Keys and workers.

use std::time::Duration;

use errand_common::{
    domain::ApiKeyId,
    port::store::{NewApiKey, Scope},
    wire::credential,
};
use errand_tests::wait;
use serde_json::json;

use super::{Fixture, TENANT, now, on_both, record};

fn new_key(secret: &str) -> NewApiKey {
    NewApiKey {
        id: ApiKeyId::new(),
        tenant: TENANT.to_owned(),
        name: "ci".to_owned(),
        prefix: credential::indexed_prefix(secret).to_owned(),
        hash: credential::hash_key(secret),
        scopes: vec![Scope::JobsRead, Scope::Admin],
    }
}

on_both! {
    async fn a_key_is_found_by_its_prefix_until_it_is_revoked(fixture: Fixture) {
        let secret = credential::generate_key();
        let key = new_key(&secret);
        assert!(fixture.store.create_key(key.clone(), None, now()).await.unwrap().is_none());
        let found = fixture.store.keys_by_prefix(credential::indexed_prefix(&secret)).await.unwrap();
        assert_eq!((found[0].hash.as_str(), &found[0].scopes), (key.hash.as_str(), &key.scopes));
        assert!(!fixture.store.revoke_key("other", key.id, now()).await.unwrap());
        assert!(fixture.store.revoke_key(TENANT, key.id, now()).await.unwrap());
        assert!(fixture.store.keys_by_prefix(&key.prefix).await.unwrap().is_empty());
        assert!(fixture.store.keys(TENANT).await.unwrap()[0].revoked_at.is_some());
    }

    async fn a_key_under_an_idempotency_key_is_made_once(fixture: Fixture) {
        let first = new_key(&credential::generate_key());
        let answer = json!({"id": first.id});
        assert!(fixture.store.create_key(first, Some(record("k", "f", answer.clone())), now()).await.unwrap().is_none());
        let second = new_key(&credential::generate_key());
        let replayed = fixture.store.create_key(second, Some(record("k", "f", json!({}))), now()).await.unwrap().unwrap();
        assert_eq!(replayed.answer, answer);
        assert_eq!(fixture.store.keys(TENANT).await.unwrap().len(), 1);
    }

    async fn the_same_secret_can_be_stored_at_each_start(fixture: Fixture) {
        let secret = credential::generate_key();
        for _ in 0..2 {
            fixture.store.create_key(new_key(&secret), None, now()).await.unwrap();
        }
        assert_eq!(fixture.store.keys(TENANT).await.unwrap().len(), 1);
    }

    async fn workers_live_until_they_lapse_or_say_good_bye(fixture: Fixture) {
        let (stays, leaves) = (fixture.worker().await, fixture.worker().await);
        assert_eq!(fixture.store.live_workers().await.unwrap().len(), 2);
        fixture.store.release_worker(leaves).await.unwrap();
        let live = fixture.store.live_workers().await.unwrap();
        assert_eq!(live.iter().map(|worker| worker.id).collect::<Vec<_>>(), [stays]);
        fixture.store.register_worker(&live[0], Duration::from_millis(1)).await.unwrap();
        wait::until("it lapses", || async { fixture.store.live_workers().await.unwrap().is_empty().then_some(()) }).await;
    }
}
