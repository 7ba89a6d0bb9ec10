//! Redis is hurt, and the queue and bus on it fail in time and come back by themselves.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use errand_common::{
    adapter::redis::Redis,
    config::{self, Secret},
    domain::{JobId, Priority, Stream, Timestamp},
    port::{Bus, BusMessage, Popped, Queue, Ready, Topic, bus::Received},
};
use errand_tests::{
    redis::{self as servers, RedisCluster, RedisSentinel},
    run::run,
    wait::{bounded, until_within},
};

const DEFAULT: &str = "default";
const COMMAND_TIMEOUT: Duration = Duration::from_millis(500);

fn open(url: &str) -> Redis {
    let settings = config::Redis {
        url: Some(Secret::new(url.to_owned())),
        connect_timeout_ms: 1_000,
        command_timeout_ms: 500,
        reconnect_max_ms: 500,
        ping_interval_ms: 200,
        ..config::Redis::default()
    };
    Redis::open(&settings).expect("a valid URL").expect("a URL is set")
}

fn names() -> Vec<String> {
    vec![DEFAULT.to_owned()]
}

fn entry() -> Ready {
    entry_in(DEFAULT)
}

fn entry_in(queue: &str) -> Ready {
    let priority = Priority::default();
    Ready { id: JobId::new(), tenant: "t".to_owned(), queue: queue.to_owned(), priority, due_at: None }
}

async fn pop(queue: &dyn Queue) -> Result<Popped, errand_common::port::QueueError> {
    queue.pop(&names(), 100, Timestamp::default()).await
}

async fn push_until_it_works(queue: &dyn Queue, limit: Duration) -> JobId {
    let entry = entry();
    until_within(limit, "a push works again", || async { queue.push(std::slice::from_ref(&entry)).await.ok() }).await;
    entry.id
}

async fn refill(queue: &dyn Queue) {
    let refill = queue.begin_refill(DEFAULT).await.expect("reachable");
    assert!(queue.end_refill(&refill).await.expect("reachable"));
}

/// Asserts that a subscription made before a fault ends, and that a new one works within `limit`.
async fn assert_bus_recovers(
    bus: &dyn Bus,
    topic: Topic,
    mut before: errand_common::port::Subscription,
    limit: Duration,
) {
    let closed = bounded("the old subscription ends", before.next()).await;
    assert!(matches!(closed, Received::Closed), "{closed:?}");
    let mut after =
        until_within(limit, "a subscription works again", || async { bus.subscribe(topic).await.ok() }).await;
    let message = || BusMessage { topic, payload: Arc::from("again") };
    until_within(limit, "a message can be sent again", || async { bus.publish(vec![message()]).await.ok() }).await;
    let received = bounded("a message", after.next()).await;
    assert!(matches!(&received, Received::Message(text) if &**text == "again"), "{received:?}");
}

fn a_topic() -> Topic {
    Topic::Stream(Stream::Job(JobId::new()))
}

#[test]
fn opening_needs_no_server_and_one_that_comes_later_is_found() {
    run(async {
        let mut server = servers::Redis::boot().await.expect("a server");
        server.kill9();
        let redis = open(&server.url());
        let (queue, bus) = (redis.queue(), redis.bus());
        for _ in 0..20 {
            let began = Instant::now();
            pop(&queue).await.expect_err("nobody is there");
            bus.subscribe(a_topic()).await.expect_err("nobody is there");
            queue.wait(&names(), Duration::from_millis(10)).await;
            assert!(began.elapsed() < Duration::from_millis(400), "a refused connection is known at once");
        }
        server.start().await.expect("a server");
        let id = push_until_it_works(&queue, Duration::from_secs(5)).await;
        assert_eq!(pop(&queue).await.expect("reachable").ready, [id]);
    });
}

#[test]
fn a_stopped_server_costs_no_more_than_the_time_out_and_is_used_again_when_it_goes_on() {
    run(async {
        let server = servers::Redis::boot().await.expect("a server");
        let redis = open(&server.url());
        let (queue, bus, topic) = (redis.queue(), redis.bus(), a_topic());
        refill(&queue).await;
        let subscription = bus.subscribe(topic).await.expect("reachable");
        server.sigstop();
        let mut longest = Duration::ZERO;
        for _ in 0..10 {
            let began = Instant::now();
            pop(&queue).await.expect_err("it does not answer");
            longest = longest.max(began.elapsed());
        }
        let hundred = futures::future::join_all((0..100).map(|_| pop(&queue)));
        let began = Instant::now();
        assert!(hundred.await.iter().all(Result::is_err));
        longest = longest.max(began.elapsed());
        assert!(longest < COMMAND_TIMEOUT * 2, "{longest:?}");
        let began = Instant::now();
        queue.wait(&names(), Duration::from_millis(300)).await;
        assert!(began.elapsed() < Duration::from_secs(1), "a wait ends in time");
        // Nobody closed that connection: only the ping tells.
        bounded("the half-open subscription is found out", async {
            let mut subscription = subscription;
            while !matches!(subscription.next().await, Received::Closed) {}
        })
        .await;
        server.sigcont();
        let id = push_until_it_works(&queue, Duration::from_secs(5)).await;
        assert!(pop(&queue).await.expect("reachable").ready.contains(&id));
        let after = until_within(Duration::from_secs(5), "a subscription works again", || async {
            bus.subscribe(topic).await.ok()
        });
        drop(after.await);
        assert_eq!(queue.incomplete(&names()).await.expect("reachable"), Vec::<String>::new(), "nothing was lost");
    });
}

#[test]
fn a_restarted_server_is_used_again_and_known_to_be_empty() {
    run(async {
        let mut server = servers::Redis::boot().await.expect("a server");
        let redis = open(&server.url());
        let (queue, bus, topic) = (redis.queue(), redis.bus(), a_topic());
        refill(&queue).await;
        queue.push(&[entry()]).await.expect("reachable");
        let subscription = bus.subscribe(topic).await.expect("reachable");
        server.restart().await.expect("a server");
        assert_bus_recovers(&bus, topic, subscription, Duration::from_secs(5)).await;
        let id = push_until_it_works(&queue, Duration::from_secs(5)).await;
        let popped = pop(&queue).await.expect("reachable");
        assert_eq!((popped.ready, popped.incomplete), (vec![id], names()));
    });
}

#[test]
fn a_waiter_is_woken_by_a_push_after_a_restart() {
    run(async {
        let mut server = servers::Redis::boot().await.expect("a server");
        let queue = open(&server.url()).queue();
        queue.wait(&names(), Duration::from_secs(2)).await;
        server.restart().await.expect("a server");
        // As the worker does: pop, and wait if there was nothing. The loss itself ends one wait early.
        until_within(Duration::from_secs(10), "it listens again", || async {
            let popped = pop(&queue).await.ok()?;
            assert_eq!(popped.ready, []);
            let began = Instant::now();
            queue.wait(&names(), Duration::from_millis(200)).await;
            (began.elapsed() >= Duration::from_millis(200)).then_some(())
        })
        .await;
        pop(&queue).await.expect("reachable");
        queue.push(&[entry()]).await.expect("reachable");
        let began = Instant::now();
        queue.wait(&names(), Duration::from_secs(60)).await;
        assert!(began.elapsed() < Duration::from_secs(10));
    });
}

#[test]
fn content_and_marks_and_scripts_that_are_lost_are_missed_and_made_anew() {
    run(async {
        let server = servers::Redis::boot().await.expect("a server");
        let queue = open(&server.url()).queue();
        refill(&queue).await;
        queue.push(&[entry()]).await.expect("reachable");
        let under_way = queue.begin_refill(DEFAULT).await.expect("reachable");
        server.flushall().await.expect("flushed");
        assert!(!queue.end_refill(&under_way).await.expect("reachable"), "its token went with all else");
        let popped = pop(&queue).await.expect("reachable");
        assert_eq!((popped.ready, popped.incomplete), (vec![], names()));
        refill(&queue).await;
        server.ask(&["SCRIPT", "FLUSH"]).await.expect("flushed");
        let kept = entry();
        queue.push(std::slice::from_ref(&kept)).await.expect("the script is sent again");
        server.ask(&["SCRIPT", "FLUSH"]).await.expect("flushed");
        assert_eq!(pop(&queue).await.expect("the script is sent again").ready, [kept.id]);
        assert_eq!(queue.incomplete(&names()).await.expect("reachable"), Vec::<String>::new());
    });
}

#[test]
fn an_empty_queue_leaves_its_mark_only_and_a_silent_channel_is_left() {
    run(async {
        let server = servers::Redis::boot().await.expect("a server");
        let redis = open(&server.url());
        let (queue, bus) = (redis.queue(), redis.bus());
        let due: Vec<_> = (0..100).map(|number| Ready { tenant: format!("t{number}"), ..entry() }).collect();
        let later =
            due.iter().map(|_| Ready { due_at: Some(Timestamp::from_micros(-1)), ..entry() }).collect::<Vec<_>>();
        queue.push(&due).await.expect("reachable");
        queue.push(&later).await.expect("reachable");
        assert_eq!(pop(&queue).await.expect("reachable").ready.len(), 100);
        assert_eq!(server.ask(&["KEYS", "*"]).await.expect("keys"), "*1\r\n$23\r\n{errand:q:default}:mark\r\n");
        let mut subscriptions = Vec::new();
        for _ in 0..600 {
            subscriptions.push(bus.subscribe(a_topic()).await.expect("reachable"));
        }
        let channels = || async { server.ask(&["PUBSUB", "CHANNELS", "errand:bus:*"]).await.expect("channels") };
        assert!(channels().await.starts_with("*600\r\n"));
        subscriptions.truncate(1);
        until_within(Duration::from_secs(10), "all but one are left", || async {
            channels().await.starts_with("*1\r\n").then_some(())
        })
        .await;
    });
}

/// Microseconds that the server spends on one pop of a hundred ids, with so many waiting.
async fn cost_of_a_pop(backlog: usize) -> f64 {
    let server = servers::Redis::boot().await.expect("a server");
    let queue = open(&server.url()).queue();
    let tenants = |number: usize| Ready { tenant: format!("t{}", number % 5), ..entry() };
    let entries: Vec<_> = (0..backlog).map(tenants).collect();
    queue.push(&entries).await.expect("reachable");
    // Once for the script to be known.
    pop(&queue).await.expect("reachable");
    server.ask(&["CONFIG", "RESETSTAT"]).await.expect("reset");
    for _ in 0..5 {
        assert_eq!(pop(&queue).await.expect("reachable").ready.len(), 100);
    }
    let stats = server.ask(&["INFO", "commandstats"]).await.expect("stats");
    let line = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:")).expect("scripts ran");
    let cost = line.split(',').find_map(|field| field.strip_prefix("usec_per_call=")).expect("its cost");
    cost.parse().expect("a number")
}

#[test]
fn a_pop_costs_the_same_whatever_waits() {
    run(async {
        let few = cost_of_a_pop(1_000).await;
        let many = cost_of_a_pop(200_000).await;
        eprintln!("a pop of 100 ids takes the server {few} µs of 1,000 and {many} µs of 200,000");
        assert!(many < few * 4.0, "{few} µs of 1,000, {many} µs of 200,000");
    });
}

#[test]
fn who_is_asked_says_who_it_is() {
    run(async {
        let mut server = servers::Redis::boot().await.expect("a server");
        let redis = open(&server.url());
        let info = redis.inspect().await.expect("it answers");
        assert_eq!((info.mode, info.role.as_str()), ("standalone", "master"));
        assert!(info.version.contains('.'), "{info:?}");
        server.kill9();
        redis.inspect().await.expect_err("nobody answers");
        let cluster = RedisCluster::shared().await;
        let info = open(&cluster.url()).inspect().await.expect("it answers");
        assert_eq!((info.mode, info.role.as_str()), ("cluster", "master"));
    });
}

/// Twelve queues and twelve topics over all nodes of a cluster, and what the second node has of them.
struct Spread {
    queues: Vec<(String, bool)>,
    topics: Vec<(Topic, bool)>,
}

impl Spread {
    async fn over(cluster: &RedisCluster) -> Self {
        let (mut queues, mut topics) = (Vec::new(), Vec::new());
        for number in 0..12 {
            let (queue, topic) = (format!("q{number}"), a_topic());
            let is_second = |owner: usize| owner == 1;
            queues.push((queue.clone(), is_second(cluster.owner(&format!("{{errand:q:{queue}}}")).await)));
            topics.push((topic, is_second(cluster.owner(&format!("errand:bus:{topic}")).await)));
        }
        assert!(queues.iter().any(|(_, is_second)| *is_second), "the names are the same each time");
        Self { queues, topics }
    }

    /// Asserts that those of the second node fail in time, and the others work.
    async fn assert_only_the_second_fails(&self, queue: &dyn Queue, bus: &dyn Bus) {
        for (name, is_second) in &self.queues {
            let began = Instant::now();
            let popped = queue.pop(std::slice::from_ref(name), 10, Timestamp::default()).await;
            assert!(began.elapsed() < COMMAND_TIMEOUT * 2, "{:?}", began.elapsed());
            assert_eq!(popped.is_err(), *is_second, "{name}: {popped:?}");
        }
        for (topic, is_second) in &self.topics {
            let subscribed = bus.subscribe(*topic).await;
            assert_eq!(subscribed.is_err(), *is_second, "{topic}: {subscribed:?}");
        }
    }
}

#[test]
fn the_loss_of_one_node_of_a_cluster_costs_what_it_had_and_ends_with_it() {
    run(async {
        let mut cluster = RedisCluster::boot().await.expect("a cluster");
        let redis = open(&cluster.url());
        let (queue, bus) = (redis.queue(), redis.bus());
        let spread = Spread::over(&cluster).await;
        let mut subscriptions = Vec::new();
        for (topic, _) in &spread.topics {
            subscriptions.push(bus.subscribe(*topic).await.expect("reachable"));
        }
        cluster.nodes[1].kill9();
        spread.assert_only_the_second_fails(&queue, &bus).await;
        cluster.nodes[1].start().await.expect("a server");
        cluster.wait_until_whole().await.expect("whole");
        for (name, _) in &spread.queues {
            until_within(Duration::from_secs(10), "it answers again", || async {
                queue.pop(std::slice::from_ref(name), 10, Timestamp::default()).await.ok()
            })
            .await;
        }
        for ((topic, is_second), mut subscription) in spread.topics.into_iter().zip(subscriptions) {
            if is_second {
                assert_bus_recovers(&bus, topic, subscription, Duration::from_secs(10)).await;
            } else {
                bus.publish(vec![BusMessage { topic, payload: Arc::from("still") }]).await.expect("reachable");
                let received = bounded("a message", subscription.next()).await;
                assert!(matches!(&received, Received::Message(text) if &**text == "still"), "{received:?}");
            }
        }
    });
}

#[test]
fn a_cluster_that_was_away_as_a_whole_is_used_again() {
    run(async {
        let mut cluster = RedisCluster::boot().await.expect("a cluster");
        let redis = open(&cluster.url());
        let (queue, bus, topic) = (redis.queue(), redis.bus(), a_topic());
        refill(&queue).await;
        let subscription = bus.subscribe(topic).await.expect("reachable");
        cluster.nodes.iter_mut().for_each(servers::Redis::kill9);
        for _ in 0..10 {
            let began = Instant::now();
            pop(&queue).await.expect_err("nobody is there");
            assert!(began.elapsed() < COMMAND_TIMEOUT * 2, "{:?}", began.elapsed());
        }
        for node in &mut cluster.nodes {
            node.start().await.expect("a server");
        }
        cluster.wait_until_whole().await.expect("whole");
        let id = push_until_it_works(&queue, Duration::from_secs(10)).await;
        let popped = pop(&queue).await.expect("reachable");
        assert_eq!((popped.ready, popped.incomplete), (vec![id], names()));
        assert_bus_recovers(&bus, topic, subscription, Duration::from_secs(10)).await;
    });
}

#[test]
fn a_node_of_a_cluster_that_hangs_costs_what_it_had_and_no_newcomer() {
    run(async {
        let cluster = RedisCluster::boot().await.expect("a cluster");
        let redis = open(&cluster.url());
        let (queue, bus) = (redis.queue(), redis.bus());
        let spread = Spread::over(&cluster).await;
        for (name, _) in &spread.queues {
            queue.push(&[entry_in(name)]).await.expect("reachable");
        }
        cluster.nodes[1].sigstop();
        spread.assert_only_the_second_fails(&queue, &bus).await;
        let newcomer = open(&cluster.url());
        spread.assert_only_the_second_fails(&newcomer.queue(), &newcomer.bus()).await;
        cluster.nodes[1].sigcont();
        for (name, _) in &spread.queues {
            until_within(Duration::from_secs(10), "it answers again", || async {
                queue.pop(std::slice::from_ref(name), 10, Timestamp::default()).await.ok()
            })
            .await;
        }
    });
}

#[test]
fn a_slot_that_moves_is_followed() {
    run(async {
        let cluster = RedisCluster::boot().await.expect("a cluster");
        let redis = open(&cluster.url());
        let (queue, bus, topic) = (redis.queue(), redis.bus(), a_topic());
        queue.push(&[entry()]).await.expect("reachable");
        assert_eq!(pop(&queue).await.expect("reachable").ready.len(), 1);
        let subscription = bus.subscribe(topic).await.expect("reachable");
        let slots = [
            (cluster.slot("{errand:q:default}").await, "the queue"),
            (cluster.slot(&format!("errand:bus:{topic}")).await, "the channel"),
        ];
        for (slot, _) in slots {
            cluster.move_slot(slot).await.expect("moved");
        }
        let id = push_until_it_works(&queue, Duration::from_secs(5)).await;
        assert!(pop(&queue).await.expect("reachable").ready.contains(&id));
        assert_bus_recovers(&bus, topic, subscription, Duration::from_secs(5)).await;
    });
}

#[test]
fn a_primary_that_dies_is_replaced_within_ten_seconds() {
    run(async {
        let mut servers = RedisSentinel::boot().await.expect("sentinels");
        let redis = open(&servers.url());
        let (queue, bus, topic) = (redis.queue(), redis.bus(), a_topic());
        refill(&queue).await;
        let kept = entry();
        queue.push(std::slice::from_ref(&kept)).await.expect("reachable");
        let subscription = bus.subscribe(topic).await.expect("reachable");
        assert_eq!(redis.inspect().await.expect("it answers").mode, "sentinel");
        servers.wait_until_replicated().await.expect("replicated");
        servers.primary.kill9();
        let died = Instant::now();
        let id = push_until_it_works(&queue, Duration::from_secs(10)).await;
        eprintln!("a push works again {:?} after the primary died", died.elapsed());
        assert_bus_recovers(&bus, topic, subscription, Duration::from_secs(10)).await;
        let popped = pop(&queue).await.expect("reachable");
        assert_eq!((popped.ready, popped.incomplete), (vec![kept.id, id], vec![]), "the replica had it all");
    });
}

#[test]
fn a_primary_that_is_demoted_alive_is_left_for_the_new_one() {
    run(async {
        let servers = RedisSentinel::boot().await.expect("sentinels");
        let redis = open(&servers.url());
        let (queue, bus, topic) = (redis.queue(), redis.bus(), a_topic());
        refill(&queue).await;
        let subscription = bus.subscribe(topic).await.expect("reachable");
        servers.fail_over().await.expect("begun");
        assert_bus_recovers(&bus, topic, subscription, Duration::from_secs(20)).await;
        let id = push_until_it_works(&queue, Duration::from_secs(10)).await;
        assert_eq!(pop(&queue).await.expect("reachable").ready, [id]);
        let role = servers.replica.ask(&["ROLE"]).await.expect("it answers");
        assert!(role.contains("master"), "{role}");
    });
}
