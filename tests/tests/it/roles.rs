//! The roles of a cluster: who serves what, who refuses what, and who waits for whom.

use std::time::{Duration, Instant};

use errand_tests::{
    Client, Errand, cluster_only, postgres::Postgres, process, program, program::Programs, socket::Socket, sse::Sse,
    wait,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use tokio::net::{TcpListener, TcpStream};

fn out(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a command of the test's Errand on another database.
async fn on_database(errand: &Errand, url: &str, arguments: &[&str]) -> std::process::Output {
    let mut command = errand.cli(arguments);
    command.env("ERRAND_DATABASE_URL", url);
    let run = tokio::process::Command::from(command).kill_on_drop(true).output();
    wait::bounded(format!("errand {arguments:?}"), run).await.expect("it starts")
}

async fn count(url: &str, sql: &'static str) -> i64 {
    let mut connection = PgConnection::connect(url).await.expect("a connection");
    sqlx::query_scalar(sql).fetch_one(&mut connection).await.expect("a count")
}

cluster_only! {
    async fn a_role_says_what_it_lacks_and_ends(setup: Setup) {
        let errand = setup.start().await;
        for role in ["api", "worker"] {
            let refused = on_database(&errand, "sqlite:///tmp/errand.db", &[role]).await;
            assert_eq!(refused.status.code(), Some(2), "{}", err(&refused));
            assert!(err(&refused).contains("errand dev"), "{}", err(&refused));
            let mut command = errand.cli(&[role]);
            command.env_remove("ERRAND_REDIS_URL");
            let refused = tokio::process::Command::from(command).kill_on_drop(true).output();
            let refused = wait::bounded("its refusal", refused).await.expect("it starts");
            assert_eq!(refused.status.code(), Some(2), "{}", err(&refused));
            assert!(err(&refused).contains("ERRAND_REDIS_URL"), "{}", err(&refused));
            let empty = Postgres::shared().await.create_database().await.expect("a database");
            let refused = on_database(&errand, &empty, &[role]).await;
            assert_eq!(refused.status.code(), Some(1), "{}", err(&refused));
            assert!(err(&refused).contains("errand migrate"), "{}", err(&refused));
            let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'";
            assert_eq!(count(&empty, tables).await, 0, "it changed nothing");
        }
        errand.finish().await;
    }

    async fn a_schema_that_is_ahead_is_taken_as_it_is(setup: Setup) {
        let mut errand = setup.start().await;
        errand.sigterm().await;
        let url = errand.setup().database_url().expect("a cluster has one").to_owned();
        let mut connection = PgConnection::connect(&url).await.expect("a connection");
        let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                     VALUES (9999, 'of the future', true, '', 0)";
        connection.execute(newer).await.expect("inserted");
        let migrated = on_database(&errand, &url, &["migrate"]).await;
        assert!(migrated.status.success() && out(&migrated).contains("9999"), "{}{}", out(&migrated), err(&migrated));
        errand.restart().await;
        let task = errand.client().submit_task(&json!({"prompt": "beside the new ones"})).await;
        errand.client().wait_for_completion(&task.id).await;
        errand.finish().await;
    }

    async fn two_migrations_at_once_wait_for_each_other(setup: Setup) {
        let errand = setup.start().await;
        let empty = Postgres::shared().await.create_database().await.expect("a database");
        let migrate = || on_database(&errand, &empty, &["migrate"]);
        let (one, other, third) = tokio::join!(migrate(), migrate(), migrate());
        for output in [one, other, third] {
            assert!(output.status.success(), "{}{}", out(&output), err(&output));
        }
        let url = errand.setup().database_url().expect("a cluster has one");
        let applied = "SELECT count(*) FROM _sqlx_migrations";
        assert_eq!(count(&empty, applied).await, count(url, applied).await);
        errand.finish().await;
    }

    async fn after_a_restore_no_position_is_known(setup: Setup) {
        let mut errand = setup.start().await;
        let task = errand.client().submit_task(&json!({"prompt": "one two"})).await;
        let before = errand.client().wait_for_completion(&task.id).await["stream"]["epoch"].clone();
        let before = before.as_str().expect("an epoch").to_owned();
        errand.sigterm().await;
        let restored = errand.run_cli(&["migrate", "--restored", "--json"]).await;
        assert!(restored.status.success(), "{}", err(&restored));
        let report: Value = serde_json::from_str(&out(&restored)).expect("JSON");
        errand.restart().await;
        let after = errand.client().job(&task.id).await["stream"]["epoch"].clone();
        assert_eq!(after, report["restored"]["epoch"]);
        assert_ne!(after, before);
        let frames = Sse::of_job_after(errand.client(), &task.id, &format!("{before}:1")).await.rest().await;
        assert_eq!(frames[0].kind(), "snapshot", "{frames:#?}");
        let next = errand.client().submit_task(&json!({"prompt": "and on"})).await;
        errand.client().wait_for_completion(&next.id).await;
        errand.finish().await;
    }

    async fn each_api_serves_its_parts_and_names_the_part_that_it_lacks(setup: Setup) {
        let errand = setup.apis_serving(&["rest,console", "relay"]).start().await;
        let (rest, relay) = (errand.client(), errand.client_of(1));
        let task = rest.submit_task(&json!({"prompt": "one two"})).await;
        let frames = Sse::of_job(&relay, &task.id).await.rest().await;
        assert_eq!(frames.last().expect("frames").kind(), "end");
        let mut socket = Socket::open(&relay).await;
        socket.send(&json!({"type": "subscribe", "id": 1, "stream": format!("job:{}", task.id)})).await;
        socket.take_until("end").await;

        let events = format!("/jobs/{}/events", task.id);
        for (client, path, part) in
            [(rest, events.as_str(), "relay"), (rest, "/stream", "relay"), (&relay, "/jobs", "rest")]
        {
            let answer = client.get(path).await;
            assert_eq!((answer.status, &answer.body["code"]), (404, &json!("served_elsewhere")), "{path}: {answer:?}");
            assert!(answer.text.contains(part), "{answer:?}");
        }
        assert_eq!(rest.get_root("/").await.expect("an answer").status, 200);
        assert_eq!(relay.get_root("/").await.expect("an answer").body["code"], "served_elsewhere");
        for path in ["/livez", "/readyz", "/metrics", "/openapi.json"] {
            assert_eq!(relay.get_root(path).await.expect("an answer").status, 200, "{path}");
        }
        errand.finish().await;
    }

    async fn a_task_runs_where_its_queue_is_taken_from_and_is_seen_everywhere(setup: Setup) {
        let errand = setup
            .engine("aside", "type = \"echo\"\nqueue = \"aside\"\nword_delay_ms = 0")
            .apis(2)
            .workers_taking_from(&["default", "aside"])
            .start()
            .await;
        let other = errand.client_of(1);
        for (engine, queue) in [("echo", "default"), ("aside", "aside")] {
            let task = errand.client().submit_task(&json!({"prompt": "where am I", "engineType": engine})).await;
            let frames = Sse::of_job(&other, &task.id).await.rest().await;
            assert_eq!(frames.last().expect("frames").kind(), "end");
            let worker = other.job(&task.id).await["worker_id"].clone();
            let workers = other.get("/workers").await;
            let ran = workers.items().iter().find(|entry| entry["id"] == worker);
            assert_eq!(ran.expect("a worker that lives")["queues"], json!([queue]), "{workers:?}");
        }
        errand.finish().await;
    }

    async fn what_a_killed_worker_ran_is_finished_by_the_other(setup: Setup) {
        let programs = Programs::new();
        let mut errand = setup
            .section("worker", "lease_seconds = 3")
            .engine("gated", &programs.gated_engine("gated", "a", "b"))
            .workers(2)
            .start()
            .await;
        let task = errand.client().submit_task(&json!({"prompt": "x", "engineType": "gated"})).await;
        errand.client().wait_for_text(&task.id, "a").await;
        let guard = process::of_task(&task.id);
        let holder = (0..2).find(|number| is_ancestor(errand.worker_pid(*number), &guard)).expect("one of them runs it");
        errand.kill9_worker(holder);
        let killed = Instant::now();
        process::assert_gone(&task.id, killed, Duration::from_secs(2)).await;
        programs.open_gate("gated");
        assert_eq!(errand.client().wait_for_completion(&task.id).await["attempt"], 2);
        errand.finish().await;
    }

    async fn a_stopping_api_tells_its_watchers_when_to_come_again(setup: Setup) {
        let programs = Programs::new();
        let mut errand = setup
            .section("relay", "reconnect_spread_ms = 900")
            .engine("gated", &programs.gated_engine("gated", "a", "b"))
            .start()
            .await;
        let task = errand.client().submit_task(&json!({"prompt": "x", "engineType": "gated"})).await;
        let mut stream = Sse::of_job(errand.client(), &task.id).await;
        stream.take_until(|frame| frame.kind() == "text").await;
        let mut sockets = Vec::new();
        for _ in 0..4 {
            let mut socket = Socket::open(errand.client()).await;
            socket.send(&json!({"type": "ping"})).await;
            socket.take_until("pong").await;
            sockets.push(socket);
        }
        errand.signal_api(0, Signal::TERM);
        let mut told = Vec::new();
        for mut socket in sockets {
            assert_eq!(socket.close_code().await, 4000);
            let (_, hint) = socket.close_reason().split_once("retry_after_ms=").expect("a hint");
            told.push(hint.parse::<u64>().expect("a number"));
        }
        stream.rest().await;
        told.push(stream.retry().expect("event streams are told too"));
        assert!(told.iter().all(|after| *after <= 900), "{told:?}");
        assert!(told.iter().any(|after| *after != told[0]), "not all at once: {told:?}");
        assert!(errand.wait_for_api_exit(0).await.success());
        errand.restart().await;
        programs.open_gate("gated");
        errand.client().wait_for_completion(&task.id).await;
        errand.finish().await;
    }

    async fn a_second_signal_stops_a_worker_at_once(setup: Setup) {
        let programs = Programs::new();
        let mut errand = setup
            .section("worker", "drain_seconds = 600\nlease_seconds = 3")
            .engine("hang", &programs.engine("hang", program::HANGING))
            .start()
            .await;
        let task = errand.client().submit_task(&json!({"prompt": "x", "engineType": "hang"})).await;
        wait::until("its program runs", || async { (!process::of_task(&task.id).is_empty()).then_some(()) }).await;
        errand.signal_worker(0, Signal::TERM);
        let worker = errand.worker_client(0);
        wait::until("it drains", || async {
            let ready = worker.get_root("/readyz").await.expect("it still answers");
            assert_eq!(worker.get_root("/livez").await.expect("it still answers").status, 200);
            (ready.body["code"] == "shutting_down").then_some(())
        })
        .await;
        errand.signal_worker(0, Signal::TERM);
        assert_eq!(errand.wait_for_worker_exit(0).await.code(), Some(130));
        process::assert_gone(&task.id, Instant::now(), Duration::from_secs(2)).await;
        assert_eq!(errand.client().delete(&format!("/agent/tasks/{}", task.id)).await.status, 200);
        errand.finish().await;
    }

    async fn a_role_that_starts_before_its_database_lives_and_waits_for_it(setup: Setup) {
        let errand = setup.start().await;
        // The database's place, where nobody listens yet.
        let place = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = place.local_addr().expect("an address");
        drop(place);
        let (before, database) = errand.setup().database_url().and_then(|url| url.rsplit_once('/')).expect("a URL");
        let server = before.rsplit_once('@').expect("a host").1.to_owned();
        let url = format!("postgres://errand@{address}/{database}");
        let mut roles = Vec::new();
        for role in ["api", "worker"] {
            let mut command = errand.cli(&[role]);
            let port = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
            let listen = if role == "api" { "ERRAND_LISTEN" } else { "ERRAND_METRICS__LISTEN" };
            command.env("ERRAND_DATABASE_URL", &url).env(listen, port.to_string());
            let log = std::fs::File::create(errand.directory().join(format!("early-{role}"))).expect("a log");
            let child = tokio::process::Command::from(command).stderr(log).kill_on_drop(true).spawn();
            roles.push((role, Client::new(&format!("http://{port}"), errand.client().key()), child.expect("it starts")));
        }
        for (role, client, _) in &roles {
            wait::until(format!("the {role} lives"), || async {
                client.get_root("/livez").await.filter(|answer| answer.status == 200).map(drop)
            })
            .await;
            let ready = client.get_root("/readyz").await.expect("an answer");
            assert_eq!((ready.status, &ready.body["code"]), (503, &json!("starting")), "{role}: {ready:?}");
        }
        let early = roles[0].1.post("/agent/tasks", &json!({"prompt": "too early"})).await;
        assert_eq!((early.status, early.header("retry-after")), (503, "1"), "{early:?}");

        let place = TcpListener::bind(address).await.expect("the same port");
        let forwarding = tokio::spawn(forward(place, server));
        for (role, client, _) in &roles {
            wait::until(format!("the {role} is ready"), || async {
                client.get_root("/readyz").await.filter(|answer| answer.status == 200).map(drop)
            })
            .await;
            let log = std::fs::read_to_string(errand.directory().join(format!("early-{role}"))).expect("a log");
            assert_eq!(log.matches("trying until it can").count(), 1, "said once:\n{log}");
        }
        drop(roles);
        forwarding.abort();
        errand.finish().await;
    }

    async fn an_api_starts_and_takes_work_in_while_redis_is_away(setup: Setup) {
        // Port 9 discards: nothing listens there.
        let errand = setup.on_redis("redis://127.0.0.1:9".to_owned()).start().await;
        let task = errand.client().submit_task(&json!({"prompt": "x"})).await;
        assert_eq!(errand.client().delete(&format!("/agent/tasks/{}", task.id)).await.status, 200);
        errand.finish().await;
    }
}

/// Whether one of these processes descends from `pid`.
fn is_ancestor(pid: u32, processes: &[process::Process]) -> bool {
    processes.iter().any(|process| {
        let mut at = process.pid.to_string();
        while at != "1" && at != "0" {
            if at == pid.to_string() {
                return true;
            }
            // The fields after the name, which stands in parentheses: state, parent.
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{at}/stat")) else { return false };
            let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
            parent.unwrap_or("0").clone_into(&mut at);
        }
        false
    })
}

/// Passes connections on.
async fn forward(from: TcpListener, to: String) {
    loop {
        let Ok((mut near, _)) = from.accept().await else { return };
        let to = to.clone();
        tokio::spawn(async move {
            if let Ok(mut far) = TcpStream::connect(&to).await {
                // Its end is the end of the test.
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}
