//! Instances and their tasks from the command line.

use errand_tests::both_modes;
use serde_json::Value;

use super::{World, prompt_echo};

both_modes! {
    async fn an_instance_is_used_from_the_command_line(setup: Setup) {
        let world = World::new(setup, prompt_echo).await;
        let run = async |arguments: &[&str]| {
            let output = world.errand.run_cli(arguments).await;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
            (output.status.code(), text(&output.stdout), text(&output.stderr))
        };
        let port = world.bridge.address().port().to_string();
        let (status, id, said) = run(&["instances", "add", "home", "127.0.0.1", &port, "--user", "ann"]).await;
        assert_eq!(status, Some(0), "{said}");
        let (_, listed, _) = run(&["instances", "list"]).await;
        assert!(listed.contains(&id) && listed.contains("home") && listed.contains("ann"), "{listed}");

        let (status, answer, said) = run(&["submit", "instance-task", "--instance", &id, "--follow", "hello"]).await;
        assert_eq!(status, Some(0), "{answer}\n{said}");
        assert!(answer.contains("HELLO"), "{answer}");
        let (_, task, _) = run(&["submit", "instance-task", "--instance", &id, "--json", "more"]).await;
        let task: Value = serde_json::from_str(&task).expect("JSON");
        world.client().wait_for_completion(task["taskId"].as_str().expect("an id")).await;

        let (status, now, said) = run(&["instances", "set", &id, "--status", "stopped"]).await;
        assert_eq!((status, now.as_str()), (Some(0), "stopped"), "{said}");
        let (status, _, said) = run(&["submit", "instance-task", "--instance", &id, "hello"]).await;
        assert!(status != Some(0) && said.contains("Instance is stopped"), "{said}");
        let (status, _, said) = run(&["instances", "set", &id, "--callback-secret", "in the clear, for all to see"]).await;
        assert!(status == Some(2) && said.contains("@FILE"), "{status:?} {said}");
        assert_eq!(run(&["instances", "remove", &id]).await.1, "Instance removed");
        let (status, _, said) = run(&["submit", "instance-task", "--instance", &id, "hello"]).await;
        assert!(status != Some(0) && said.contains("not found"), "{said}");
        world.finish().await;
    }
}
