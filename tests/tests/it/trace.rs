//! Traces: one from a client's span to the last delivery, whoever did the work; and nothing in it that nobody may read.

use std::time::{Duration, Instant};

use errand_common::domain::{JobId, TraceContext};
use errand_tests::{
    Answer, Client, Mode, Setup, both_modes,
    bridge::{Plan, Prompt, done},
    cluster_only,
    collector::{Collector, Span},
    destination::{Destination, Reply},
    fake_messages::{self, FakeMessages},
    fake_openai::{self, FakeOpenAi},
    program::{self, Programs},
    wait,
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use reqwest::Method;
use serde_json::{Value, json};

use crate::bridge::{World, reaching};

/// A client's own span.
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const STATE: &str = "vendor=of-the-client";
/// What the collector asks for.
const COLLECTOR_KEY: &str = "key-of-the-collector-5150";

/// Spans go to this collector, soon.
fn exporting(setup: Setup, collector: &Collector, more: &str) -> Setup {
    let lines = format!(
        "otlp_endpoint = {:?}\notlp_headers = \"x-collector-key={COLLECTOR_KEY}\"\nexport_interval_ms = 20\n{more}",
        collector.url()
    );
    setup.section("telemetry", &lines)
}

async fn post_traced(client: &Client, path: &str, body: &Value) -> Answer {
    let request = client.request(Method::POST, path).header("traceparent", PARENT).header("tracestate", STATE);
    client.send(request.json(body)).await
}

fn job_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.body["job_id"].as_str().or(answer.body["taskId"].as_str()).expect("an id").to_owned()
}

/// The runs of a job that the collector was told of, by their claims.
fn runs(collector: &Collector, job: &str) -> Vec<Span> {
    let is_run = |span: &Span| span.name.starts_with("run ") && span.attribute("errand.job.id") == job;
    let mut runs: Vec<_> = collector.spans().into_iter().filter(is_run).collect();
    runs.sort_by_key(|span| span.attribute("errand.job.claim").parse::<i64>().expect("a number"));
    runs
}

/// The name of a span as a header has it.
fn header(span: &Span) -> String {
    format!("00-{}-{}-01", span.trace_id, span.span_id)
}

fn refused_once(prompt: &Prompt, before: usize) -> Plan {
    let busy = vec![("retry-after".to_owned(), "3".to_owned())];
    match before {
        0 => Plan { headers: busy, ..Plan::refuses(503) },
        _ => Plan::later([(Duration::from_millis(200), done(&prompt.prompt.to_uppercase()))]),
    }
}

cluster_only! {
    async fn one_trace_from_submission_over_two_workers_to_callback_and_delivery(setup: Setup) {
        const SECRET: &str = "xylophone-of-the-prompt";
        let collector = Collector::start().await;
        let receiver = Destination::ruled(|_| Reply::ok()).await;
        let mut world = World::new(exporting(setup, &collector, "").apis(2), refused_once).await;
        world.bridge.call_back_to(world.errand.client_of(1).base());
        let hook = json!({"url": receiver.url("/hook"), "events": ["job.completed"], "format": "cloudevents"});
        let hook = world.client().post("/webhooks", &hook).await;
        let path = format!("/agent/instances/{}/tasks", world.instance);
        let id = job_of(&post_traced(world.client(), &path, &json!({"prompt": SECRET})).await);

        // The first attempt is over, and told of, when its worker dies; another does the second.
        collector.span("the first run", |span| span.name == "run instance_task").await;
        world.errand.kill9_worker(0);
        world.errand.restart_workers().await;
        world.client().wait_for_completion(&id).await;
        collector.span("the delivery", |span| span.name == "run webhook").await;
        collector.span("the callback", |span| span.name == "callback").await;

        let request = collector.span("the request", |span| span.name == "POST /api/v1/agent/instances/{id}/tasks").await;
        assert_eq!((request.trace_id.as_str(), request.parent.as_str()), (TRACE, "00f067aa0ba902b7"));
        assert_eq!((request.kind, request.attribute("http.response.status_code")), (SpanKind::Server, "202"));
        assert_eq!((request.state.as_str(), request.resource["service.name"].as_str()), (STATE, "errand"));
        let submit = collector.span("the submission", |span| span.name == "submit instance_task").await;
        assert_eq!((&submit.parent, submit.kind), (&request.span_id, SpanKind::Producer));

        let runs = runs(&collector, &id);
        let (first, last) = (&runs[0], &runs[runs.len() - 1]);
        assert!(first.failed && first.attribute("errand.job.outcome") == "retrying", "{first:?}");
        assert_eq!(last.attribute("errand.job.outcome"), "awaiting_callback");
        assert_eq!((first.attribute("errand.job.attempt"), last.attribute("errand.job.attempt")), ("1", "2"));
        assert_ne!(first.attribute("errand.worker.id"), last.attribute("errand.worker.id"));
        assert!(runs.iter().all(|run| run.trace_id == TRACE && run.parent == submit.span_id), "{runs:#?}");
        assert!(first.links.is_empty());
        for pair in runs.windows(2) {
            assert_eq!(pair[1].links, [(TRACE.to_owned(), pair[0].span_id.clone())], "each is linked to the one before");
        }

        // The bridge was told the same trace each time, by the span of the call, and the same bytes.
        let port = world.bridge.address().port().to_string();
        let calls: Vec<_> = collector.trace(TRACE).into_iter().filter(|span| span.attribute("server.port") == port).collect();
        let told: Vec<_> = calls.iter().map(|call| (header(call), STATE.to_owned())).collect();
        assert_eq!(world.bridge.traces(), told);
        assert_eq!((calls[0].kind, calls[0].parent.as_str()), (SpanKind::Client, first.span_id.as_str()));
        let statuses: Vec<_> = calls.iter().map(|call| call.attribute("http.response.status_code")).collect();
        assert_eq!(statuses, ["503", "202"]);
        let came = world.bridge.came();
        assert_eq!(came[0].1, came[1].1);

        let callback = collector.span("the callback", |span| span.name == "callback").await;
        let route = "POST /api/v1/agent/instances/openclaw-app-callback";
        let heard = collector.span("the bridge's request", |span| span.name == route).await;
        assert_eq!((callback.trace_id.as_str(), callback.attribute("errand.callback.received")), (TRACE, "accepted"));
        assert_eq!(callback.links, [(heard.trace_id, heard.span_id)]);

        let delivery = collector.span("the delivery", |span| span.name == "run webhook").await;
        let call = collector.span("its call", |span| span.parent == delivery.span_id).await;
        let got = wait::until("the delivery came", || async { receiver.calls().into_iter().next() }).await;
        assert_eq!((delivery.trace_id.as_str(), got.header("traceparent")), (TRACE, header(&call).as_str()));
        assert_eq!(got.body["traceparent"], header(&submit), "the same in every attempt");
        assert_eq!(got.body["tracestate"], STATE);

        let (token, secret) = (came[0].0.callback_url.split("token=").nth(1), hook.body["secret"].as_str());
        for secret in [Some(SECRET), token, secret, Some(world.client().key()), Some(COLLECTOR_KEY)] {
            let secret = secret.expect("there is one").as_bytes();
            let holds = |body: &[u8]| body.windows(secret.len()).any(|part| part == secret);
            assert!(!collector.bytes().iter().any(|body| holds(body)), "{}", String::from_utf8_lossy(secret));
        }
        assert!(collector.headers().iter().all(|headers| headers["x-collector-key"] == COLLECTOR_KEY));
        world.finish().await;
    }

    async fn a_run_whose_worker_died_is_told_of_by_the_sweep_and_linked_to(setup: Setup) {
        let collector = Collector::start().await;
        let rule = |prompt: &Prompt, before| match before {
            0 => Plan { hangs_up: true, ..Plan::silent() },
            _ => refused_once(prompt, before),
        };
        let mut world = World::new(exporting(setup, &collector, ""), rule).await;
        let task = world.ask("survive").await;
        let prompt = world.taken(&task).await;
        world.errand.kill9_worker(0);
        world.errand.restart_workers().await;
        let lost = collector.span("the lost run", |span| span.attribute("errand.job.outcome") == "lease_lost").await;
        assert_eq!((lost.attribute("errand.job.id"), lost.attribute("errand.job.claim")), (task.id.as_str(), "1"));
        assert!(lost.failed, "{lost:?}");
        assert_eq!(world.bridge.call_back(&prompt, done("at last")).await.expect("an answer").0, 200);
        world.client().wait_for_completion(&task.id).await;
        let next = |span: &Span| span.attribute("errand.job.claim") == "2" && span.attribute("errand.job.id") == task.id;
        let next = collector.span("the run after it", next).await;
        assert_eq!(next.links, [(lost.trace_id.clone(), lost.span_id.clone())]);
        assert_eq!((next.trace_id, next.parent), (lost.trace_id, lost.parent));
        world.finish().await;
    }
}

both_modes! {
    async fn without_a_collector_traces_are_handed_on_all_the_same(setup: Setup) {
        let programs = Programs::new();
        let destination = Destination::ruled(|_| Reply::ok()).await;
        let reveal = programs.engine("reveal", program::REVEALER);
        let setup = reaching(setup).engine("reveal", &reveal);
        let errand = setup.variable("ERRAND_LOG", "debug").variable("ERRAND_LOG_FORMAT", "json").start().await;
        let client = errand.client();
        let call = |name: &str| json!({"kind": "http", "payload": {"method": "POST", "url": destination.url(name)}});
        let of_run = |job: &str, context: TraceContext| context.run(job.parse().expect("an id"), 1).traceparent();
        let heard = |name: &str| {
            let calls = destination.calls();
            calls.into_iter().find(|call| call.target == name).unwrap_or_else(|| panic!("{name} was not called"))
        };

        let traced = job_of(&post_traced(client, "/jobs", &call("/traced")).await);
        client.wait_for_completion(&traced).await;
        let parent = TraceContext::parse(PARENT, Some(STATE)).expect("valid");
        assert_eq!(heard("/traced").header("traceparent"), of_run(&traced, parent.clone()));
        assert_eq!(heard("/traced").header("tracestate"), STATE);

        let alone = job_of(&client.post("/jobs", &call("/alone")).await);
        client.wait_for_completion(&alone).await;
        let id: JobId = alone.parse().expect("an id");
        assert_eq!(heard("/alone").header("traceparent"), of_run(&alone, TraceContext::of_job(id)));
        assert!(heard("/alone").header("traceparent").contains(&alone.replace('-', "")), "the trace has the job's id");

        let mut own = call("/own");
        own["payload"]["headers"] = json!({"traceparent": "00-of-the-job"});
        let own = job_of(&post_traced(client, "/jobs", &own).await);
        client.wait_for_completion(&own).await;
        assert_eq!(heard("/own").header("traceparent"), "00-of-the-job", "the client's own header wins");

        let wrong = client.request(Method::POST, "/jobs").header("traceparent", PARENT.to_uppercase());
        let wrong = job_of(&client.send(wrong.json(&call("/wrong"))).await);
        client.wait_for_completion(&wrong).await;
        assert!(heard("/wrong").header("traceparent").contains(&wrong.replace('-', "")), "a bad one counts as absent");

        let body = json!({"prompt": "who am I?", "engineType": "reveal"});
        let task = job_of(&post_traced(client, "/agent/tasks", &body).await);
        let job = client.wait_for_completion(&task).await;
        let seen = job["result"]["summary"].as_str().expect("text");
        let line = format!("TRACEPARENT={}", of_run(&task, parent));
        assert!(seen.lines().any(|seen| seen == line), "{line} in\n{seen}");
        assert!(seen.lines().any(|line| line == format!("TRACESTATE={STATE}")), "{seen}");

        // What a job makes belongs to its trace; and lines of the log say which that is.
        let group = json!({"kind": "group", "payload": {"jobs": [call("/child")]}});
        let group = job_of(&post_traced(client, "/jobs", &group).await);
        client.wait_for_completion(&group).await;
        assert!(heard("/child").header("traceparent").contains(TRACE));
        let log = errand.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let of_trace: Vec<_> = lines.filter(|line| line["trace_id"] == TRACE).collect();
        assert!(of_trace.iter().any(|line| line["message"] == "answered"), "of the request");
        assert!(of_trace.iter().any(|line| line["job_id"] == traced && line["span_id"].is_string()), "of the run");
        errand.finish().await;
    }

    async fn a_question_to_a_model_is_a_span_of_its_run_and_carries_the_trace(setup: Setup) {
        const ANSWER: &str = "an-answer-of-the-model";
        let collector = Collector::start().await;
        let openai = FakeOpenAi::start([fake_openai::Reply::text(&[ANSWER])]).await;
        let claude = FakeMessages::start([fake_messages::Reply::text(&[ANSWER])]).await;
        let setup = exporting(setup, &collector, "").engine("openai", &openai.engine()).engine("claude", &claude.engine());
        let errand = setup.variable("MODEL_KEY", "sk-secret-of-the-test").start().await;
        for (engine, provider) in [("openai", "openai"), ("claude", "anthropic")] {
            let body = json!({"prompt": "a-secret-question", "engineType": engine});
            let task = job_of(&post_traced(errand.client(), "/agent/tasks", &body).await);
            errand.client().wait_for_completion(&task).await;
            let asked = collector.span("the question", |span| span.attribute("gen_ai.provider.name") == provider).await;
            let run = collector.span("the run", |span| span.attribute("errand.job.id") == task && span.name == "run task").await;
            assert_eq!((&asked.trace_id, &asked.parent, asked.kind), (&run.trace_id, &run.span_id, SpanKind::Client));
            assert!(asked.name.starts_with("chat ") && !asked.failed, "{asked:?}");
            assert!(asked.attribute("gen_ai.usage.output_tokens").parse::<u32>().is_ok(), "{asked:?}");
            let headers = match engine {
                "openai" => openai.requests()[0].headers.clone(),
                _ => claude.requests()[0].headers.clone(),
            };
            assert_eq!(headers["traceparent"], header(&asked));
            assert_eq!(headers["tracestate"], STATE);
        }
        let bytes = collector.bytes().concat();
        for secret in [ANSWER, "a-secret-question", "sk-secret-of-the-test"] {
            assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret}");
        }
        errand.finish().await;
    }

    async fn a_collector_that_takes_nothing_harms_nobody(setup: Setup) {
        let collector = Collector::start().await;
        let setup = exporting(setup, &collector, "export_timeout_seconds = 2\nflush_seconds = 1");
        let processes = if setup.mode() == Mode::Cluster { 2 } else { 1 };
        let mut errand = setup.start().await;
        collector.refuse(503);
        for _ in 0..20 {
            let task = errand.client().submit_task(&json!({"prompt": "hello"})).await;
            errand.client().wait_for_completion(&task.id).await;
        }
        wait::until("it was tried more than once", || async { (collector.bytes().len() > 3).then_some(()) }).await;
        let complaints = || errand.log().matches("spans can't be sent to the collector").count();
        wait::until("each process has said so", || async { (complaints() == processes).then_some(()) }).await;
        assert!(collector.spans().is_empty());
        collector.take();
        let later = errand.client().submit_task(&json!({"prompt": "later"})).await;
        let of_later = |span: &Span| span.name == "run task" && span.attribute("errand.job.id") == later.id;
        collector.span("what is done from now on", of_later).await;
        assert_eq!(complaints(), processes, "once a minute");

        collector.hang();
        let task = errand.client().submit_task(&json!({"prompt": "hello"})).await;
        errand.client().wait_for_completion(&task.id).await;
        let asked = Instant::now();
        assert!(errand.sigterm().await.success());
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        errand.finish().await;
    }

    async fn what_is_not_sampled_is_not_exported_and_says_so_to_others(setup: Setup) {
        let collector = Collector::start().await;
        let destination = Destination::ruled(|_| Reply::ok()).await;
        let errand = reaching(exporting(setup, &collector, "sample_ratio = 0.0")).start().await;
        let client = errand.client();
        let body = json!({"kind": "http", "payload": {"method": "GET", "url": destination.url("/")}});
        let id = job_of(&client.post("/jobs", &body).await);
        client.wait_for_completion(&id).await;
        let told = destination.calls()[0].header("traceparent").to_owned();
        assert!(told.starts_with("00-") && told.ends_with("-00"), "{told}");
        // A client that records its trace has ours in it.
        let traced = job_of(&post_traced(client, "/jobs", &body).await);
        client.wait_for_completion(&traced).await;
        collector.span("the client's job", |span| span.name == "run http").await;
        assert!(collector.spans().iter().all(|span| span.trace_id == TRACE), "{:#?}", collector.spans());
        errand.finish().await;
    }
}
