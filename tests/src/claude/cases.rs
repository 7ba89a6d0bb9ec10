//! What both engines promise, each with the program doing what it does.
//!
//! Assertions say what must hold; every case ends with none of its processes alive.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use errand_common::{
    domain::{
        AttachmentContent, AttachmentRef, Decision, EventType, FailureClass, JobId, Message, MessageId, Role,
        Timestamp, ToolCall,
    },
    port::store::EngineState,
};
use errand_worker::engine::{Availability, Link, Passage, Remaining, Turn, TurnFailure, code, trial::TrialLink};
use serde_json::{Value, json};

use super::{
    model::{TOKENS, prompt, said},
    world::{Kind, Run, World, allowing, denying, run, turn},
};

/// A command that asks, and leaves a trace.
fn bash(world: &World) -> Value {
    let file = world.path("ran");
    json!({ "name": "Bash", "input": { "command": format!("echo again >> {}", file.display()), "description": "mark" } })
}

/// How often that command ran.
fn ran(world: &World) -> usize {
    fs::read_to_string(world.path("ran")).map_or(0, |text| text.lines().count())
}

/// The next turn of a session, with what the last run left.
fn next(turn: &Turn, prompt: &str, link: &TrialLink) -> Turn {
    let state = link.remembered().checkpoints.last().cloned();
    Turn { job_id: JobId::new(), prompt: prompt.to_owned(), state, ..turn.clone() }
}

/// It is there, and says so.
pub async fn it_is_available(world: &World, kind: Kind) {
    let engine = world.engine(kind, "a");
    assert_eq!(engine.availability().await, Availability::Available);
    assert_eq!(engine.capabilities().approvals, kind == Kind::Sdk);
}

/// Text and reasoning are streamed; text is what the model said; the run's costs are known.
pub async fn text_and_thinking_are_streamed_and_paid(world: &World, kind: Kind) {
    let link = allowing();
    let script = json!([{ "thinking": "hm", "text": ["Hel", "lo ", "you"] }]);
    let turn = Turn { system_prompt: Some("Be brief.".into()), ..turn(&prompt("say hello", &script)) };
    let ended = run(&world.engine(kind, "a"), &turn, &link).await;
    assert_eq!(ended.text(), "Hello you");
    assert_eq!(ended.viewed(), "Hello you");
    assert!(ended.of(EventType::Text).len() > 1, "{:#?}", ended.events);
    assert_eq!(ended.of(EventType::Thinking)[0].data["content"], "hm");
    let usage = ended.usage.expect("usage");
    assert!(!usage.incomplete);
    assert_eq!((usage.usage.input_tokens, usage.usage.output_tokens), TOKENS);
    assert!(usage.usage.cost_nano_usd.is_some_and(|cost| cost > 0), "{usage:?}");
    assert_eq!(usage.usage.model.as_deref(), Some("claude-opus-5-5"));
    let remembered = link.remembered();
    assert!(remembered.kept[0].content.is_empty(), "the session's id is kept before anything is done under it");
    assert_eq!(remembered.kept[0].engine_session, remembered.checkpoints[0].engine_session);
    assert!(world.model.last()["system"].to_string().contains("Be brief."));
    assert!(!world.model.last().to_string().contains("of-the-test"), "the key is no matter of the model's");
}

/// A tool that is allowed runs; where nobody is asked it is refused, and the turn goes on.
pub async fn a_tool_waits_for_approval(world: &World, kind: Kind) {
    let link = allowing();
    let script = json!([{ "text": ["Let me see."], "tool": bash(world) }, { "text": ["Done."] }]);
    let ended = run(&world.engine(kind, "a"), &turn(&prompt("use it", &script)), &link).await;
    assert_eq!(ended.text(), "Let me see.\n\nDone.");
    assert_eq!(ended.viewed(), ended.text());
    let used = ended.of(EventType::ToolUse);
    assert_eq!((&used[0].data["toolName"], used.len()), (&json!("Bash"), 1));
    let result = &ended.of(EventType::ToolResult)[0].data;
    assert_eq!(result["toolUseId"], used[0].data["toolUseId"]);
    let asked = link.remembered().asked;
    if kind == Kind::Sdk {
        assert_eq!(asked[0].tool, "Bash");
        assert_eq!(json!(asked[0].id), used[0].data["toolUseId"]);
        assert_eq!(asked[0].input["command"], bash(world)["input"]["command"]);
        assert_eq!((asked.len(), ran(world)), (1, 1));
    } else {
        assert_eq!((asked.len(), ran(world)), (0, 0));
    }
    assert_eq!(result["isError"], json!(kind == Kind::Cli));
    assert_eq!(link.remembered().turns, 1, "another turn was asked for");
    assert_eq!(ended.usage.expect("usage").usage.input_tokens, 2 * TOKENS.0);
}

/// A tool that is denied does not run; the model is told why, and the turn goes on.
pub async fn a_denied_tool_does_not_run(world: &World, kind: Kind) {
    let link = denying();
    let script = json!([{ "tool": bash(world) }, { "text": ["Then not."] }]);
    let ended = run(&world.engine(kind, "a"), &turn(&prompt("use it", &script)), &link).await;
    assert_eq!(ended.text(), "Then not.");
    assert_eq!(ran(world), 0);
    assert_eq!(ended.of(EventType::ToolResult)[0].data["isError"], json!(true));
    if kind == Kind::Sdk {
        assert!(world.model.last()["messages"].to_string().contains("not today"));
    }
}

/// A tool that the task allows by name is not asked about.
pub async fn an_allowed_tool_runs_unasked(world: &World, kind: Kind) {
    let link = denying();
    let script = json!([{ "tool": bash(world) }, { "text": ["Done."] }]);
    let turn = Turn { allowed_tools: vec!["Read".into(), "Bash".into()], ..turn(&prompt("use it", &script)) };
    let ended = run(&world.engine(kind, "a"), &turn, &link).await;
    assert_eq!((ended.text(), ran(world), link.remembered().asked.len()), ("Done.", 1, 0));
}

/// A harmless tool is not asked about, as the program judges.
pub async fn a_harmless_tool_runs_unasked(world: &World, kind: Kind) {
    let link = denying();
    let tool = json!({ "name": "Bash", "input": { "command": "echo harmless", "description": "say" } });
    let script = json!([{ "tool": tool }, { "text": ["Done."] }]);
    let ended = run(&world.engine(kind, "a"), &turn(&prompt("use it", &script)), &link).await;
    assert_eq!((ended.text(), link.remembered().asked.len()), ("Done.", 0));
    assert_eq!(ended.of(EventType::ToolResult)[0].data["output"], "harmless");
}

/// A run that is stopped while the model speaks ends soon; the next one knows what was said.
pub async fn an_interrupted_answer_is_remembered(world: &World, kind: Kind) {
    let engine = world.engine(kind, "a");
    let link = allowing();
    let first = turn(&prompt("a long story", &json!([{ "text": ["Once upon"], "stall": true }])));
    let mut going = Run::start(Arc::clone(&engine), first.clone(), Arc::<TrialLink>::clone(&link));
    going.until(EventType::Text).await;
    let started = Instant::now();
    going.stop();
    let ended = going.ended().await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    ended.failure();
    let usage = ended.usage.expect("usage");
    assert!(usage.incomplete && usage.usage.input_tokens > 0, "nobody knows what the rest would have cost: {usage:?}");
    let second = next(&first, &prompt("go on", &json!([{ "text": ["a time"] }])), &link);
    let ended = run(&engine, &second, &link).await;
    assert_eq!(ended.text(), "a time");
    let heard = world.model.last();
    assert!(heard["messages"].to_string().contains("a long story"), "{heard}");
    assert_eq!(said(&heard, "Once upon"), 1, "{heard}");
}

/// A run that is stopped while a tool works takes the tool along, in whatever session.
pub async fn an_interrupted_tool_is_gone(world: &World, kind: Kind) {
    let tool = json!({ "name": "Bash", "input": { "command": "tail -f /dev/null", "description": "wait" } });
    let turn = Turn { allowed_tools: vec!["Bash".into()], ..turn(&prompt("wait", &json!([{ "tool": tool }]))) };
    let going = Run::start(world.engine(kind, "a"), turn, allowing());
    working(&going).await;
    going.stop();
    going.ended().await.failure();
}

/// Waits until the tool works.
async fn working(run: &Run) {
    crate::wait::until("the tool works", || async {
        run.processes().iter().any(|process| process.command.starts_with("tail -f /dev/null")).then_some(())
    })
    .await;
}

/// Another worker goes on with the conversation, under another system prompt; its costs are its own.
pub async fn another_worker_goes_on(world: &World, kind: Kind) {
    let link = allowing();
    let script = json!([{ "text": ["I shall remember."] }]);
    let first = Turn { system_prompt: Some("FIRST".into()), ..turn(&prompt("the word is plum", &script)) };
    run(&world.engine(kind, "a"), &first, &link).await.text();
    let mut second = next(&first, &prompt("which word?", &json!([{ "text": ["plum"] }])), &link);
    second.system_prompt = Some("SECOND".into());
    let ended = run(&world.engine(kind, "b"), &second, &link).await;
    assert_eq!(ended.text(), "plum");
    let request = world.model.last();
    assert!(request["messages"].to_string().contains("the word is plum"), "{request}");
    assert_eq!(said(&request, "I shall remember."), 1, "{request}");
    let system = request["system"].to_string();
    assert!(system.contains("SECOND") && !system.contains("FIRST"), "{system}");
    let usage = ended.usage.expect("usage").usage;
    assert_eq!((usage.input_tokens, usage.output_tokens), TOKENS, "of this run alone");
    let sessions: Vec<_> = link.remembered().checkpoints.iter().map(|state| state.engine_session.clone()).collect();
    assert_eq!(sessions[0], sessions[1]);
    assert_eq!(link.remembered().kept.len(), 1, "a session that goes on needs no new name");
}

/// Whoever decides lets the run go, and decides later.
struct Parking(TrialLink);

#[async_trait]
impl Link for Parking {
    async fn approve(&self, calls: Vec<ToolCall>) -> Result<Vec<Decision>, TurnFailure> {
        self.0.approve(calls).await?;
        Err(TurnFailure::new(FailureClass::Cancelled, "PARKED", "waits without a process"))
    }
    async fn withdraw(&self, call_ids: Vec<String>) {
        self.0.withdraw(call_ids).await;
    }
    async fn keep_state(&self, state: EngineState) -> Result<(), TurnFailure> {
        self.0.keep_state(state).await
    }
    fn checkpoint(&self, state: EngineState) {
        self.0.checkpoint(state);
    }
    async fn next_turn(&self) -> Result<(), TurnFailure> {
        self.0.next_turn().await
    }
    async fn enter(&self, destination: &str) -> Result<Box<dyn Passage>, TurnFailure> {
        self.0.enter(destination).await
    }
}

/// A run that lets its process go while a question waits goes on elsewhere: the tool runs once.
pub async fn a_parked_run_goes_on_elsewhere(world: &World, kind: Kind) {
    if kind == Kind::Cli {
        return; // it never asks
    }
    let parked = Arc::new(Parking(TrialLink::allowing()));
    // Asked again, the model asks again.
    let step = json!({ "text": ["Let me see."], "tool": bash(world) });
    let mut first = turn(&prompt("use it", &json!([step, { "tool": bash(world) }, { "text": ["Done."] }])));
    first.attempt = 1;
    let link: Arc<dyn Link> = Arc::<Parking>::clone(&parked);
    let ended = Run::start(world.engine(kind, "a"), first.clone(), link).ended().await;
    assert_eq!(ended.failure().code, "PARKED");
    assert_eq!(ran(world), 0);
    let asked = parked.0.remembered().asked;
    let link = allowing();
    let again = Turn { state: parked.0.remembered().checkpoints.last().cloned(), ..first };
    assert!(again.state.as_ref().is_some_and(|state| !state.content.is_empty()), "{:?}", again.state);
    let ended = run(&world.engine(kind, "b"), &again, &link).await;
    assert_eq!(ended.text(), "Let me see.\n\nDone.");
    assert_eq!(ended.viewed(), ended.text());
    assert_eq!(ran(world), 1);
    assert_eq!(link.remembered().asked[0].fingerprint(), asked[0].fingerprint(), "the decision is found again");
}

/// A server that is overloaded is asked again, and viewers are told.
pub async fn an_overloaded_server_is_asked_again(world: &World, kind: Kind) {
    let script = json!([{ "status": 529 }, { "text": ["At last."] }]);
    let ended = run(&world.engine(kind, "a"), &turn(&prompt("hello", &script)), &allowing()).await;
    assert_eq!(ended.text(), "At last.");
    let progress = ended.of(EventType::Progress);
    assert_eq!(progress[0].data["status"], json!(529), "{:#?}", ended.events);
}

/// What an abandoned stream had said is retracted; text is what the model said in the end.
pub async fn an_abandoned_stream_is_retracted(world: &World, kind: Kind) {
    let cut = json!({ "text": ["Partial ", "answer "], "cut": true });
    let script = json!([cut, cut, cut, { "text": ["Hello."] }, { "text": ["Hello."] }, { "text": ["Hello."] }]);
    let ended = run(&world.engine(kind, "a"), &turn(&prompt("hello", &script)), &allowing()).await;
    assert_eq!(ended.text(), "Hello.");
    assert_eq!(ended.viewed(), "Hello.");
    assert!(!ended.of(EventType::TextRetracted).is_empty(), "{:#?}", ended.events);
    assert!(
        ended.events.iter().any(|event| event.data["content"].as_str().is_some_and(|text| text.starts_with("Partial")))
    );
}

/// Errors of the server have their classes.
pub async fn errors_have_their_classes(world: &World, kind: Kind) {
    for (entry, class, code) in [
        (json!({ "status": 401 }), FailureClass::Auth, code::ENGINE_AUTH),
        (json!({ "status": 400 }), FailureClass::Invalid, code::INVALID_REQUEST),
        (json!({ "status": 429, "retry_after": 120 }), FailureClass::RateLimited, code::RATE_LIMITED),
        (json!({ "status": 529 }), FailureClass::Transient, code::EXECUTION_ERROR),
    ] {
        let script = Value::Array(vec![entry.clone(); 8]);
        let link = allowing();
        let ended = run(&world.engine(kind, "a"), &turn(&prompt("hello", &script)), &link).await;
        assert_eq!((ended.failure().class, ended.failure().code), (class, code), "{entry}: {}", ended.failure());
        assert!(ended.viewed().is_empty(), "{:#?}", ended.events);
        assert_eq!(link.remembered().checkpoints, [], "the next run begins where this one began");
        assert!(!ended.usage.is_some_and(|usage| usage.incomplete), "it is known what was spent");
    }
}

/// A turn that takes more rounds than it may fails.
pub async fn rounds_are_bounded(world: &World, kind: Kind) {
    let tool = json!({ "name": "Bash", "input": { "command": "echo again", "description": "say" } });
    let script = Value::Array(vec![json!({ "tool": tool }); 6]);
    let turn = Turn { max_turns: 2, ..turn(&prompt("again", &script)) };
    let ended = run(&world.engine(kind, "a"), &turn, &allowing()).await;
    assert_eq!((ended.failure().class, ended.failure().code), (FailureClass::Fatal, code::MAX_TURNS));
}

/// A turn that spends more than budgets leave for it fails; an answer that was under way is paid.
pub async fn a_budget_ends_the_turn(world: &World, kind: Kind) {
    let tool = json!({ "name": "Bash", "input": { "command": "echo again", "description": "say" } });
    let script = Value::Array(vec![json!({ "tool": tool }); 6]);
    // One answer costs 0.0002 dollars, two cost more than this.
    let remaining = Remaining { cost_nano_usd: Some(300_000), tokens: None };
    let ended =
        run(&world.engine(kind, "a"), &Turn { remaining, ..turn(&prompt("again", &script)) }, &allowing()).await;
    assert_eq!((ended.failure().class, ended.failure().code), (FailureClass::Fatal, code::BUDGET_EXCEEDED));
    assert_eq!(ended.usage.expect("usage").usage.cost_nano_usd, Some(400_000));
    assert_eq!(world.model.requests().len(), 2);
}

/// Where the program's own state is lost, the session's messages are told.
pub async fn history_is_told_where_there_is_no_state(world: &World, kind: Kind) {
    let mut second = turn(&prompt("which word?", &json!([{ "text": ["plum"] }])));
    let said = |role, content: &str, ordinal| Message {
        id: MessageId::new(),
        session_id: second.session_id.expect("a session"),
        job_id: Some(JobId::new()),
        role,
        content: content.to_owned(),
        attachments: Vec::new(),
        ordinal,
        created_at: Timestamp::from_micros(0),
    };
    second.history = vec![said(Role::User, "the word is plum", 1), said(Role::Assistant, "I shall remember.", 2)];
    let ended = run(&world.engine(kind, "a"), &second, &allowing()).await;
    assert_eq!(ended.text(), "plum");
    let heard = world.model.last()["messages"].to_string();
    assert!(heard.contains("User: the word is plum") && heard.contains("Assistant: I shall remember."), "{heard}");
}

/// Images reach the model.
pub async fn images_arrive(world: &World, kind: Kind) {
    // One white pixel.
    const PNG: &str =
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8/5+hHgAHggJ/PchI7wAAAABJRU5ErkJggg==";
    let mut turn = turn(&prompt("what is it?", &json!([{ "text": ["A pixel."] }])));
    turn.attachments =
        vec![AttachmentRef { hash: "h".into(), media_type: "image/png".into(), file_name: None, size: 70 }];
    turn.contents.insert("h".into(), AttachmentContent { hash: "h".into(), base64: PNG.into(), size: 70 });
    let ended = run(&world.engine(kind, "a"), &turn, &allowing()).await;
    assert_eq!(ended.text(), "A pixel.");
    let heard = world.model.last()["messages"].to_string();
    assert!(heard.contains("\"image\"") && heard.contains("image/png"), "{heard}");
}

/// A program that is killed leaves nothing behind; its run counts as crashed, and its costs as unknown.
pub async fn a_killed_program_leaves_nothing(world: &World, kind: Kind) {
    let tool = json!({ "name": "Bash", "input": { "command": "tail -f /dev/null", "description": "wait" } });
    let turn = Turn { allowed_tools: vec!["Bash".into()], ..turn(&prompt("wait", &json!([{ "tool": tool }]))) };
    let going = Run::start(world.engine(kind, "a"), turn, allowing());
    working(&going).await;
    let program = going
        .processes()
        .into_iter()
        .find(|process| process.command.contains("--output-format") && !process.command.starts_with("errand"));
    let pid = rustix::process::Pid::from_raw(program.expect("the program").pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it lives");
    let ended = going.ended().await;
    assert_eq!(ended.failure().class, FailureClass::Crash, "{}", ended.failure());
    assert!(ended.usage.is_some_and(|usage| usage.incomplete));
}

/// Makes a test of each case with each engine: `$make` gives a world.
#[macro_export]
macro_rules! claude_cases {
    ($make:path) => {
        $crate::claude_cases! { $make:
            it_is_available, text_and_thinking_are_streamed_and_paid, a_tool_waits_for_approval, a_denied_tool_does_not_run,
            an_allowed_tool_runs_unasked, a_harmless_tool_runs_unasked, an_interrupted_answer_is_remembered,
            an_interrupted_tool_is_gone, another_worker_goes_on, a_parked_run_goes_on_elsewhere,
            an_overloaded_server_is_asked_again, an_abandoned_stream_is_retracted, errors_have_their_classes,
            rounds_are_bounded, a_budget_ends_the_turn, history_is_told_where_there_is_no_state, images_arrive, a_killed_program_leaves_nothing,
        }
    };
    ($make:path: $($case:ident),+ $(,)?) => {
        $(mod $case {
            #[test]
            fn cli() {
                $crate::run::run(async {
                    if let Some(world) = $make().await {
                        $crate::claude::cases::$case(&world, $crate::claude::world::Kind::Cli).await;
                    }
                });
            }

            #[test]
            fn sdk() {
                $crate::run::run(async {
                    if let Some(world) = $make().await {
                        $crate::claude::cases::$case(&world, $crate::claude::world::Kind::Sdk).await;
                    }
                });
            }
        })+
    };
}
