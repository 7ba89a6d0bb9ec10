//! The harness's own promises.

use errand_tests::{
    Client,
    fake_openai::{FakeOpenAi, Reply, split_inside},
    postgres::{Durability, Postgres},
    process,
    run::run,
};
use reqwest::Method;
use serde_json::json;
use sqlx::{Connection, PgConnection};

#[test]
fn each_test_gets_an_empty_database() {
    run(async {
        let url = Postgres::shared().await.create_database().await.expect("a database");
        let mut connection = PgConnection::connect(&url).await.expect("a connection");
        let tables: i64 =
            sqlx::query_scalar("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'")
                .fetch_one(&mut connection)
                .await
                .expect("a count");
        assert_eq!(tables, 0);
    });
}

#[test]
fn a_server_of_ones_own_ends_with_its_owner() {
    run(async {
        let postgres = Postgres::boot(Durability::Volatile).await.expect("a server");
        let url = postgres.url("postgres");
        PgConnection::connect(&url).await.expect("a connection").close().await.expect("closed");
        drop(postgres);
        assert!(PgConnection::connect(&url).await.is_err(), "nobody listens there any more");
    });
}

#[test]
fn the_fake_model_streams_its_script_and_records_what_it_was_asked() {
    run(async {
        let [head, tail] = split_inside("grüße", 3);
        let fake = FakeOpenAi::start([Reply::Stream(vec![head, tail]), Reply::error(503, "busy", "later")]).await;
        let client = Client::new(fake.base_url().trim_end_matches("/v1"), "unused");
        let ask = || client.anonymous(Method::POST, "/v1/chat/completions").json(&json!({"model": "m"}));
        let first = client.send(ask()).await;
        assert_eq!(first.status, 200);
        assert!(first.text.contains("grüße"), "{first:?}");
        assert_eq!(client.send(ask()).await.status, 503);
        assert!(client.send(ask()).await.text.contains("from the "));
        assert_eq!(fake.requests().len(), 3);
        assert_eq!(fake.requests()[0].body, json!({"model": "m"}));
    });
}

#[test]
fn a_process_is_found_by_its_environment_and_gone_once_it_is_killed() {
    let id = uuid::Uuid::new_v4().to_string();
    let mut child =
        std::process::Command::new("sleep").arg("60").env("ERRAND_TASK_ID", &id).spawn().expect("sleep starts");
    // Between fork and exec a child still has the environment of its parent.
    while process::of_task(&id).is_empty() {
        std::thread::yield_now();
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
    assert_eq!(process::of_task(&id), []);
}
