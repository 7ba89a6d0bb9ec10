//! The command line of gateways, boards, agents and questions, against a fleet and a fake gateway.

use std::process::Output;

use errand_tests::{
    both_modes,
    fake_gateway::{FakeGateway, Fault, Options},
    wait,
};
use serde_json::{Value, json};

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What it printed, if it ended well.
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}\n{}{}", output.status, out(output), err(output));
    out(output).trim_end().to_owned()
}

/// The words of a line, from 0.
fn words(text: &str, line: usize) -> Vec<&str> {
    text.lines().nth(line).unwrap_or_default().split_whitespace().collect()
}

both_modes! {
    async fn places_are_made_listed_shown_and_removed(setup: Setup) {
        let fake = FakeGateway::start().await;
        let errand = setup.section("outbound", "allow = [\"127.0.0.0/8\"]").start().await;
        let run = async |arguments: &[&str]| errand.run_cli(arguments).await;
        let token = errand.directory().join("token");
        std::fs::write(&token, Options::default().token.expect("it has one") + "\n").expect("written");
        let token = format!("@{}", token.display());

        let refused = run(&["gateways", "add", "Home", &fake.url(), "--token", "in-the-clear"]).await;
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(err(&refused).contains("not the token itself") && !err(&refused).contains("in-the-clear"), "{}", err(&refused));
        let added = run(&["gateways", "add", "Home", &fake.url(), "--token", &token]).await;
        let gateway = printed(&added);
        assert!(err(&added).contains("errand doctor"), "{}", err(&added));
        let list = printed(&run(&["gateways", "list"]).await);
        assert_eq!(words(&list, 0), ["ID", "NAME", "TOKEN", "URL"]);
        assert_eq!(words(&list, 1), [gateway.as_str(), "Home", "yes", fake.url().as_str()]);
        let shown = printed(&run(&["gateways", "show", &gateway]).await);
        assert_eq!(words(&shown, 0), ["id:", gateway.as_str()]);
        for line in ["has token: ", "workspace root: ", "main agent id: "] {
            assert!(shown.contains(line), "{line:?} is not in\n{shown}");
        }
        assert!(!shown.contains("fake-gateway-token"), "{shown}");

        let board = printed(&run(&["boards", "add", "Ops", "--gateway", &gateway]).await);
        let list = printed(&run(&["boards", "list", "--gateway", &gateway]).await);
        assert_eq!(words(&list, 0), ["ID", "SLUG", "PAUSED", "GATEWAY", "NAME"]);
        assert_eq!(words(&list, 1), [board.as_str(), "ops", "no", gateway.as_str(), "Ops"]);
        assert!(printed(&run(&["boards", "show", &board]).await).contains("slug:"));

        let lead = printed(&run(&["agents", "add", "Grace", "--gateway", &gateway, "--board", &board, "--lead"]).await);
        let bound = ["agents", "add", "Ada", "--gateway", &gateway, "--board", &board, "--session", "agent:mine:main"];
        let told = run(&bound).await;
        assert!(printed(&told).starts_with("errand_agent_") && err(&told).contains("not shown again"), "{}", err(&told));
        let list = printed(&run(&["agents", "list", "--board", &board]).await);
        assert_eq!(list.lines().count(), 3, "{list}");
        assert!(list.contains("lead") && list.contains("Ada") && !list.contains("errand_agent_"), "{list}");
        assert!(printed(&run(&["agents", "show", &lead]).await).contains(&format!("agent:lead-{board}:main")));
        let token = run(&["tokens", "agent", &lead]).await;
        assert!(printed(&token).starts_with("errand_agent_"), "{token:?}");

        let provisioned = printed(&run(&["agents", "provision", &lead]).await);
        errand.client().wait_for_completion(&provisioned).await;
        let doctor = run(&["doctor", "--data-dir", &errand.data_dir().display().to_string()]).await;
        let said = out(&doctor);
        assert!(said.contains(&format!("/Home: version fake answers at {}", fake.url())), "{said}");
        assert!(said.contains("– agents' replies: server.public_url is not set"), "{said}");

        let kept = run(&["boards", "remove", &board]).await;
        assert_eq!((kept.status.code(), out(&kept).as_str()), (Some(1), ""), "it has agents: {kept:?}");
        assert!(err(&kept).contains("agents"), "it says why: {}", err(&kept));
        let list: Value = serde_json::from_str(&printed(&run(&["agents", "list", "--board", &board, "--json"]).await)).expect("JSON");
        for agent in list["items"].as_array().expect("agents") {
            assert_eq!(printed(&run(&["agents", "remove", agent["id"].as_str().expect("an id")]).await), "Agent removed");
        }
        assert_eq!(printed(&run(&["boards", "remove", &board]).await), "Board removed");
        assert_eq!(printed(&run(&["gateways", "remove", &gateway]).await), "Gateway removed");
        let wrong = run(&["gateways", "show", "nonsense"]).await;
        assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
        errand.finish().await;
    }

    async fn what_is_said_reaches_agents_and_its_outcome_is_the_exit_status(setup: Setup) {
        let fake = FakeGateway::start().await;
        let errand = setup
            .section("outbound", "allow = [\"127.0.0.0/8\"]")
            .section("server", "public_url = \"https://errand.example.com\"")
            .section("gateways", "request_timeout_seconds = 2\nreconnect_max_ms = 100")
            .start()
            .await;
        let client = errand.client();
        let run = async |arguments: &[&str]| errand.run_cli(arguments).await;
        let gateway = json!({"name": "Home", "url": fake.url(), "token": Options::default().token});
        let gateway = client.post("/gateways", &gateway).await.body["id"].as_str().expect("an id").to_owned();
        let board = printed(&run(&["boards", "add", "Ops", "--gateway", &gateway]).await);
        printed(&run(&["agents", "add", "Grace", "--gateway", &gateway, "--board", &board, "--lead", "--session", "agent:main:grace"]).await);
        let grace = client.get(&format!("/agents?board_id={board}")).await.items()[0]["id"].as_str().expect("an id").to_owned();
        let heard = |text: &str| fake.said("agent:main:grace").iter().any(|(_, said)| said.contains(text));

        let nudged = run(&["submit", "nudge", "--board", &board, "--agent", &grace, "look here", "--follow"]).await;
        assert_eq!(printed(&nudged), "");
        assert_eq!(err(&nudged), "queued\nstarted\ncompleted\n");
        assert!(heard("look here"));
        let submitted = run(&["submit", "nudge", "--board", &board, "--agent", &grace, "and here"]).await;
        client.wait_for_completion(&printed(&submitted)).await;
        assert!(err(&submitted).starts_with("submitted; follow it: ") && heard("and here"), "{}", err(&submitted));

        let told = run(&["submit", "lead-message", "--board", &board, "--kind", "handoff", "yours", "--follow"]).await;
        printed(&told);
        assert!(heard("GATEWAY MAIN HANDOFF\n"));
        let broadcast = run(&["submit", "broadcast", "--gateway", &gateway, "how far?", "--follow"]).await;
        printed(&broadcast);
        assert!(err(&broadcast).ends_with("completed · 1 sent, 0 failed\n"), "{}", err(&broadcast));
        fake.fail_session("agent:main:grace", Some(Fault::Refuse(json!({"code": "INVALID_REQUEST", "message": "not today"}))));
        let refused = run(&["submit", "nudge", "--board", &board, "--agent", &grace, "hm", "--follow"]).await;
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(err(&refused).contains("failed: not today (GATEWAY_REFUSED)"), "{}", err(&refused));
        fake.fail_session("agent:main:grace", None);

        let asking = errand.cli(&["submit", "ask-user", "--board", &board, "--agent", &grace, "which one?", "--follow"]);
        let asking = tokio::task::spawn_blocking(move || { let mut asking = asking; asking.output() });
        let question = wait::until("a question is open", || async {
            let list = out(&run(&["questions", "list", "--state", "open"]).await);
            let row: Vec<_> = words(&list, 1).into_iter().map(str::to_owned).collect();
            row.first().cloned()
        })
        .await;
        let list = printed(&run(&["questions", "list"]).await);
        assert_eq!(words(&list, 0), ["ID", "STATE", "BOARD", "EXPIRES", "ANSWER", "QUESTION"]);
        assert!(list.contains("in 6d") && list.contains("which one?"), "{list}");
        assert!(printed(&run(&["questions", "show", &question]).await).contains("which one?"));
        wait::until("it is delivered", || async {
            let jobs = client.get("/jobs?kind=ask_user&state=awaiting_answer").await;
            (!jobs.items().is_empty()).then_some(())
        })
        .await;
        assert_eq!(printed(&run(&["questions", "answer", &question, "the blue one"]).await), "answered");
        let asked = wait::bounded("the asker", asking).await.expect("no panic").expect("it runs");
        assert_eq!(printed(&asked), "the blue one");
        assert!(err(&asked).contains("waits for the answer\n") && err(&asked).ends_with("completed\n"), "{}", err(&asked));
        assert_eq!(err(&asked).matches("queued").count(), 1, "what it waits for is said once: {}", err(&asked));
        let late = run(&["questions", "answer", &question, "the red one"]).await;
        assert!(late.status.code() == Some(1) && err(&late).contains("answered before"), "{late:?}");
        wait::until("the asker is told", || async { heard("\n\nthe blue one").then_some(()) }).await;
        wait::until("nothing is left", || async {
            client.get("/jobs?state=live").await.items().is_empty().then_some(())
        })
        .await;
        errand.finish().await;
    }
}
