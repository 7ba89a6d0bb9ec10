//! What was spent, summed.

use errand_tests::{
    both_modes,
    fake_openai::FakeOpenAi,
    identity::{IdentityProvider, SigningKey, claims},
};
use serde_json::json;

both_modes! {
    async fn what_tasks_spend_is_summed_by_what_is_asked_and_users_see_theirs(setup: Setup) {
        let model = FakeOpenAi::start([]).await;
        let (provider, key) = (IdentityProvider::start().await, SigningKey::ec("e1"));
        provider.publish(&[&key]);
        let errand = setup
            .section("auth", &provider.settings())
            .engine("model", &model.engine())
            .default_engine("model")
            .start()
            .await;
        let service = errand.client();
        let ann = service.with_key(&key.sign(&claims("ann")));
        // Tenants of tokens and of the harness's key are one, or a user's sums would not be among them.
        let nothing = service.get("/agent/usage").await;
        assert_eq!((&nothing.body["items"], &nothing.body["total"]["records"]), (&json!([]), &json!(0)), "{nothing:?}");
        for client in [service, &ann, service] {
            let task = client.submit_task(&json!({"prompt": "a"})).await;
            client.wait_for_completion(&task.id).await;
        }
        // The fake says 11 tokens in and 7 out for each.
        let all = service.get("/agent/usage?group_by=user,engine").await.body;
        assert_eq!((&all["total"]["inputTokens"], &all["total"]["totalTokens"]), (&json!(33), &json!(54)), "{all:#}");
        assert_eq!((&all["total"]["unpriced"], &all["total"]["unknown"]), (&json!(3), &json!(0)), "{all:#}");
        assert_eq!(all["groupBy"], json!(["user", "engine"]));
        let groups: Vec<_> = all["items"].as_array().expect("items").iter()
            .map(|item| (item["user"].clone(), item["engine"].clone(), item["records"].clone())).collect();
        assert_eq!(groups, [(json!(""), json!("model"), json!(2)), (json!("ann"), json!("model"), json!(1))]);
        let hers = ann.get("/agent/usage").await.body;
        assert_eq!(hers["total"]["inputTokens"], 11, "{hers:#}");

        let today = chrono::Utc::now().format("%Y-%m-%d").to_string();
        let day = service.get(&format!("/agent/usage?from={today}&to={today}&group_by=day")).await.body;
        assert!(day["items"].as_array().is_some_and(|items| !items.is_empty() && items[0]["day"] == today.as_str()), "{day:#}");
        let future = service.get("/agent/usage?from=2999-01-01").await.body;
        assert_eq!(future["total"]["records"], 0);
        for (query, pointer) in [
            ("from=yesterday", "query:from"),
            ("group_by=colour", "query:group_by"),
            ("group_by=day,day", "query:group_by"),
            ("from=2026-11-21T00:00:00Z&to=2026-11-20T00:00:00Z", "query:to"),
        ] {
            let refused = service.get(&format!("/agent/usage?{query}")).await;
            assert_eq!((refused.status, refused.pointers()), (400, vec![pointer]), "{query}");
        }
        errand.finish().await;
    }
}
