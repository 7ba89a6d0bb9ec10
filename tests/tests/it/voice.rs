//! Speech: into text, and into the prompt of a task.

use errand_tests::{
    Answer, Client, both_modes,
    client::task_of,
    fake_openai::{FakeOpenAi, Gate, Reply, Step},
    fake_transcription::{FakeTranscription, Field, Hearing, with_form},
    sse::Sse,
    wait,
};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

const MEMO: Option<(&str, &str)> = Some(("memo.ogg", "audio/ogg"));

fn request(client: &Client, path: &str, fields: &[Field<'_>]) -> RequestBuilder {
    with_form(client.request(Method::POST, path), fields)
}

async fn say(client: &Client, session: &str) -> Answer {
    let path = format!("/agent/sessions/{session}/voice-message");
    client.send(request(client, &path, &[("audio", MEMO, b"some sounds")])).await
}

both_modes! {
    async fn what_is_said_becomes_text_wherever_the_language_stands(setup: Setup) {
        let server = FakeTranscription::start([Hearing::Text("  guten Tag \n"), Hearing::Text(""), Hearing::Text("again")]).await;
        let errand = setup.section("transcription", &server.settings()).start().await;
        let client = errand.client();
        let audio = vec![7_u8; 300_000];
        let fields = [("audio", MEMO, audio.as_slice()), ("language", None, b"de-AT".as_slice())];
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let answer = client.send(request(client, "/agent/transcribe", &fields).header("traceparent", trace)).await;
        assert_eq!((answer.status, &answer.body), (200, &json!({"text": "guten Tag"})), "{answer:?}");
        let silence = client.send(request(client, "/agent/transcribe", &[("audio", None, b"x")])).await;
        assert_eq!((silence.status, &silence.body), (200, &json!({"text": ""})), "{silence:?}");

        let forms = server.forms();
        assert_eq!(forms[0].traceparent, trace, "the client's trace goes on");
        assert!(forms[0].audio == audio, "the audio arrives whole");
        assert_eq!((forms[0].file_name.as_str(), forms[0].media_type.as_str()), ("audio.ogg", "audio/ogg"));
        let said = |field: &str| forms[0].fields.get(field).map(String::as_str);
        assert_eq!((said("model"), said("language"), said("response_format")), (Some("fake-whisper"), Some("de"), Some("json")));
        assert_eq!(forms[1].fields.get("language"), None, "the server is to find out");
        errand.finish().await;
    }

    async fn a_key_is_asked_once_and_one_that_is_being_worked_on_is_told_to_come_again(setup: Setup) {
        let gate = Gate::new();
        let server = FakeTranscription::start([Hearing::Gated(gate.clone(), "once")]).await;
        let errand = setup.section("transcription", &server.settings()).start().await;
        let client = errand.client();
        let keyed = |audio: &'static [u8]| {
            request(client, "/agent/transcribe", &[("audio", MEMO, audio)]).header("idempotency-key", "k1")
        };
        let first = tokio::spawn(Client::try_send(keyed(b"sounds")));
        wait::until("the server is asked", || async { (!server.forms().is_empty()).then_some(()) }).await;
        let second = client.send(keyed(b"sounds")).await;
        assert_eq!((second.status, &second.body["code"]), (409, &json!("idempotency_in_flight")), "{second:?}");
        assert!(!second.header("retry-after").is_empty());
        gate.open();
        let first = first.await.expect("no panic").expect("an answer");
        assert_eq!((first.status, &first.body["text"]), (200, &json!("once")), "{first:?}");
        let again = client.send(keyed(b"sounds")).await;
        assert_eq!((again.body["text"].as_str(), again.header("idempotency-replayed")), (Some("once"), "true"));
        assert_eq!(client.send(keyed(b"other sounds")).await.status, 422);
        assert_eq!(server.forms().len(), 1, "it was asked once");
        errand.finish().await;
    }

    async fn a_voice_message_opens_a_conversation_and_interrupts_what_runs_in_it(setup: Setup) {
        let gate = Gate::new();
        let model = FakeOpenAi::start([
            Reply::text(&["first"]),
            Reply::Stream(vec![Step::Text("half ".into()), Step::Gate(gate.clone()), Step::Text("done".into()), Step::Done]),
            Reply::text(&["third"]),
        ])
        .await;
        let server = FakeTranscription::start([Hearing::Text("what is new"), Hearing::Text("stop that")]).await;
        let errand = setup
            .section("transcription", &server.settings())
            .engine("model", &model.engine())
            .start()
            .await;
        let client = errand.client();
        let opened = client.post("/agent/tasks", &json!({"prompt": "a", "engineType": "model", "systemPrompt": "Be brief."})).await;
        let opened = task_of(&opened);
        client.wait_for_completion(&opened.id).await;
        let long = client.submit_task(&json!({"prompt": "b", "sessionId": opened.session_id, "engineType": "model"})).await;
        client.wait_for_text(&long.id, "half").await;
        let spoken = say(client, &opened.session_id).await;
        assert_eq!((spoken.status, &spoken.body["transcript"]), (202, &json!("what is new")), "{spoken:?}");
        let spoken = task_of(&spoken);
        assert_eq!(spoken.session_id, opened.session_id);
        let job = client.wait_for_completion(&spoken.id).await;
        let payload = &job["payload"];
        assert_eq!(
            (&payload["engineType"], &payload["systemPrompt"], &payload["maxTurns"], &payload["allowedTools"]),
            (&json!("model"), &json!("Be brief."), &json!(10), &json!([]))
        );
        let cut = client.wait_for_end(&long.id).await;
        assert_eq!((&cut["state"], &cut["failure"]["code"]), (&json!("cancelled"), &json!("VOICE_INJECT")), "{cut:#}");
        let of_long = client.events(&long.id).await;
        let cancelled = of_long.iter().find(|frame| frame.kind() == "cancelled").expect("an event");
        assert_eq!(cancelled.data["message"], "Interrupted by voice message");
        let of_spoken = client.events(&spoken.id).await;
        let info = of_spoken.iter().find(|frame| frame.kind() == "task_info").expect("watchers learn of the new task");
        assert_eq!(info.data["taskId"], spoken.id);
        gate.open();

        let fresh = say(client, "new").await;
        assert_eq!(fresh.body["transcript"], "stop that", "{fresh:?}");
        let fresh = task_of(&fresh);
        assert_ne!(fresh.session_id, opened.session_id);
        client.wait_for_completion(&fresh.id).await;
        let session = client.get(&format!("/agent/sessions/{}", fresh.session_id)).await;
        assert_eq!(session.body["metadata"]["title"], "", "{session:?}");
        errand.finish().await;
    }

    async fn a_voice_message_to_a_conversation_of_nobodys_opens_a_new_one(setup: Setup) {
        const STRANGER: &str = "errand_the-key-of-another-tenant-0123456789";
        let server = FakeTranscription::start([Hearing::Text("one"), Hearing::Text("two"), Hearing::Text("three")]).await;
        let errand = setup
            .section("auth", &format!("bootstrap_key = {STRANGER:?}"))
            .section("transcription", &format!("{}\nlanguage = \"zh\"", server.settings()))
            .start()
            .await;
        let (client, stranger) = (errand.client(), errand.client().with_key(STRANGER));
        let ours = client.submit_task(&json!({"prompt": "ours"})).await;
        client.wait_for_completion(&ours.id).await;
        let unknown = uuid::Uuid::now_v7().to_string();
        let first = task_of(&say(client, &unknown).await);
        assert!(first.session_id != unknown && first.session_id != ours.session_id);
        client.wait_for_completion(&first.id).await;
        let foreign = task_of(&say(&stranger, &ours.session_id).await);
        assert_ne!(foreign.session_id, ours.session_id, "another tenant's is as good as unknown");
        stranger.wait_for_completion(&foreign.id).await;
        client.delete(&format!("/agent/sessions/{}", ours.session_id)).await;
        let closed = task_of(&say(client, &ours.session_id).await);
        assert_ne!(closed.session_id, ours.session_id, "a closed one takes no more");
        client.wait_for_completion(&closed.id).await;
        assert_eq!(client.messages(&ours.session_id).await.len(), 2, "nothing was said into it");
        assert!(server.forms().iter().all(|form| form.fields["language"] == "zh"), "as the settings say");
        errand.finish().await;
    }

    async fn what_can_not_be_heard_makes_no_task(setup: Setup) {
        let server = FakeTranscription::start([
            Hearing::Text(" \n "),
            Hearing::Status(429, "rate_limit_exceeded"),
            Hearing::Status(401, "invalid_api_key"),
            Hearing::Status(400, "invalid_file"),
            Hearing::Status(500, "oops"),
        ])
        .await;
        let settings = format!("{}\nlimit_mib = 1", server.settings());
        let errand = setup.section("transcription", &settings).start().await;
        let client = errand.client();
        let path = "/agent/sessions/new/voice-message";
        let told = |answer: &Answer| (answer.status, answer.body["code"].as_str().unwrap_or_default().to_owned());
        let empty = say(client, "new").await;
        assert_eq!(told(&empty), (400, "empty_transcript".into()));
        assert_eq!(empty.body["detail"], "Could not transcribe audio — empty result");
        for (status, code) in [
            (429, "transcription_rate_limited"),
            (502, "transcription_failed"),
            (400, "audio_unreadable"),
            (502, "transcription_failed"),
        ] {
            assert_eq!(told(&say(client, "new").await), (status, code.to_owned()));
        }
        let asked = server.forms().len();
        for path in [path, "/agent/transcribe"] {
            for fields in [&[("language", None, &b"en"[..])][..], &[("audio", MEMO, b"")]] {
                let none = client.send(request(client, path, fields)).await;
                assert_eq!((none.status, &none.body["detail"]), (400, &json!("audio file is required")), "{none:?}");
            }
        }
        let large = vec![0_u8; (1 << 20) + 1];
        let large = client.send(request(client, path, &[("audio", MEMO, &large)])).await;
        assert_eq!(told(&large), (413, "audio_too_large".into()));
        let language = client.send(request(client, path, &[("language", None, b"klingon!"), ("audio", MEMO, b"x")])).await;
        assert_eq!((language.status, language.pointers()), (400, vec!["form:language"]));
        assert_eq!(say(client, "no-uuid").await.status, 400);
        assert_eq!(client.post(path, &json!({})).await.status, 415);
        assert_eq!(server.forms().len(), asked, "none of these was a whole form to the server");
        assert!(client.get("/jobs").await.items().is_empty(), "no task was made");
        errand.finish().await;
    }

    async fn without_a_server_voice_is_refused_by_the_setting_that_lacks(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        for path in ["/agent/transcribe", "/agent/sessions/new/voice-message"] {
            let answer = client.send(request(client, path, &[("audio", MEMO, b"x")])).await;
            assert_eq!((answer.status, &answer.body["code"]), (503, &json!("transcription_unavailable")));
            assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains("transcription.base_url")));
        }
        errand.finish().await;
    }

    async fn voice_mode_shows_the_session_what_is_spoken_and_the_job_all(setup: Setup) {
        let thinking = || Reply::Stream(vec![
            Step::Reasoning("hm ".into()), Step::Reasoning("hm".into()), Step::Text("spoken".into()),
            Step::Finish("stop"), Step::Usage(3, 4), Step::Done,
        ]);
        let model = FakeOpenAi::start([thinking(), thinking()]).await;
        let errand = setup.engine("model", &model.engine()).default_engine("model").start().await;
        let client = errand.client();
        let quiet = client.submit_task(&json!({"prompt": "a", "voiceMode": true})).await;
        client.wait_for_completion(&quiet.id).await;
        let of_job: Vec<String> = client.events(&quiet.id).await.iter().map(|frame| frame.kind().to_owned()).collect();
        assert!(of_job.iter().any(|kind| kind == "thinking"), "{of_job:?}");
        let loud = client.submit_task(&json!({"prompt": "b", "sessionId": quiet.session_id})).await;
        client.wait_for_completion(&loud.id).await;

        let mut stream = Sse::open(client, &format!("/agent/sessions/{}/events?after=0", quiet.session_id), &[]).await;
        let (mut last, mut thought, mut ended) = (0, Vec::new(), 0);
        while ended < 2 {
            let frame = stream.next().await.expect("the stream goes on");
            let (kind, seq) = (frame.kind().to_owned(), frame.data["seq"].as_i64().expect("a number"));
            let before = frame.data["prev"].as_i64().unwrap_or(seq - 1);
            assert_eq!(before, last, "nothing looks like a loss: {:?}", frame.data);
            last = seq;
            if kind == "thinking" {
                thought.push(frame.data["job_id"].clone());
            }
            ended += usize::from(kind == "completed");
        }
        assert!(!thought.is_empty() && thought.iter().all(|job: &Value| *job == loud.id), "{thought:?}");
        errand.finish().await;
    }
}
