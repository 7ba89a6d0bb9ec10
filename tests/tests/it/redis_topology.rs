//! A whole fleet on Redis under Sentinel and on Redis Cluster, while a server of it dies.

use std::time::Duration;

use errand_tests::{
    Client, Errand, Mode, Setup, Task,
    redis::{RedisCluster, RedisSentinel},
    run::run,
    sse::{Sse, assert_gap_free},
    wait,
};
use serde_json::json;

async fn fleet(url: String) -> Errand {
    Setup::new(env!("CARGO_BIN_EXE_errand-under-test"), Mode::Cluster).workers(2).on_redis(url).start().await
}

async fn submit(client: &Client, count: usize) -> Vec<Task> {
    let mut tasks = Vec::new();
    for number in 0..count {
        tasks.push(client.submit_task(&json!({"prompt": format!("task {number}"), "engineType": "echo"})).await);
    }
    tasks
}

/// Everything ends well and at its first attempt, and a stream that is watched has every number once.
async fn all_complete(client: &Client, tasks: &[Task]) {
    for task in tasks {
        let job = client.wait_for_completion(&task.id).await;
        assert_eq!(job["attempt"], 1, "{job}");
        let frames = Sse::of_job(client, &task.id).await.rest().await;
        assert_gap_free(&frames, 1);
    }
}

/// Work is told of by push again, not found by a poll.
async fn until_pushed_again(client: &Client) {
    wait::until("work starts as soon as it is there", || async {
        let asked = std::time::Instant::now();
        let task = submit(client, 1).await.remove(0);
        client.wait_for_completion(&task.id).await;
        (asked.elapsed() < Duration::from_millis(500)).then_some(())
    })
    .await;
}

#[test]
fn a_fleet_goes_on_when_the_sentinels_replace_a_primary_that_died() {
    run(async {
        let mut sentinel = RedisSentinel::boot().await.expect("Redis under Sentinel");
        let errand = fleet(sentinel.url()).await;
        let client = errand.client();
        let mut tasks = submit(client, 50).await;
        sentinel.primary.kill9();
        tasks.extend(submit(client, 50).await);
        all_complete(client, &tasks).await;
        until_pushed_again(client).await;
        errand.finish().await;
    });
}

#[test]
fn a_fleet_goes_on_when_a_node_of_a_cluster_dies_and_comes_back() {
    run(async {
        let mut cluster = RedisCluster::boot().await.expect("a Redis Cluster");
        let errand = fleet(cluster.url()).await;
        let client = errand.client();
        for node in 0..cluster.nodes.len() {
            let mut tasks = submit(client, 20).await;
            cluster.nodes[node].kill9();
            tasks.extend(submit(client, 20).await);
            all_complete(client, &tasks).await;
            cluster.nodes[node].start().await.expect("it starts");
        }
        until_pushed_again(client).await;
        errand.finish().await;
    });
}
