//! The system prompt of tasks that bring none.

use errand_tests::{
    both_modes,
    fake_openai::FakeOpenAi,
    identity::{IdentityProvider, SigningKey, claims},
};
use serde_json::{Value, json};

const TEMPLATE: &str = r#"system_prompt = """You serve {{ user_email or "a service" }} of {{ tenant }} in {{ session_id }} on {{ engine }}, {{ date }}.""""#;

fn system(body: &Value) -> Option<&str> {
    body["messages"][0]["content"].as_str().filter(|_| body["messages"][0]["role"] == "system")
}

both_modes! {
    async fn a_template_tells_the_engine_whom_it_serves_where_the_task_says_nothing(setup: Setup) {
        let model = FakeOpenAi::start([]).await;
        let (provider, key) = (IdentityProvider::start().await, SigningKey::ec("e1"));
        provider.publish(&[&key]);
        let errand = setup
            .section("agent", TEMPLATE)
            .section("auth", &provider.settings())
            .engine("model", &model.engine())
            .default_engine("model")
            .start()
            .await;
        let service = errand.client();
        let user = service.with_key(&key.sign(&claims("ann")));
        let plain = service.submit_task(&json!({"prompt": "a"})).await;
        service.wait_for_completion(&plain.id).await;
        let ours = user.submit_task(&json!({"prompt": "b", "systemPrompt": "  "})).await;
        user.wait_for_completion(&ours.id).await;
        let own = service.submit_task(&json!({"prompt": "c", "systemPrompt": "Be brief."})).await;
        service.wait_for_completion(&own.id).await;

        let told: Vec<String> = model.requests().iter().map(|r| system(&r.body).unwrap_or_default().to_owned()).collect();
        let date = chrono::Utc::now().format("%Y-%m-").to_string();
        assert!(told[0].starts_with("You serve a service of "), "{told:?}");
        assert!(told[0].contains(&format!("in {} on model, {date}", plain.session_id)), "{told:?}");
        assert!(told[1].starts_with("You serve ann@example.com of "), "{told:?}");
        assert_eq!(told[2], "Be brief.");
        let session = service.get(&format!("/agent/sessions/{}", plain.session_id)).await;
        assert_eq!(session.body["systemPrompt"], Value::Null, "clients never see the template's words");
        errand.finish().await;
    }
}
