//! The engines that are there without being configured. Cheap: one look at a local port, no paid call.

use std::time::Duration;

use errand_common::config::{EchoEngine, Engine, Engines, OpenAiCompatibleEngine};
use serde_json::Value;

/// Where local model servers listen by default.
const LOCAL: &str = "http://127.0.0.1:11434/v1";
const LOCAL_PATIENCE: Duration = Duration::from_millis(500);
const OPENAI: &str = "https://api.openai.com/v1";
const OPENAI_MODEL: &str = "gpt-4o-mini";

/// An engine that was looked for in vain.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Absent {
    pub(crate) name: &'static str,
    pub(crate) reason: String,
}

/// Adds what is there: `echo` always; others only if no engine is configured. The default is a real one if there is one.
pub(crate) async fn detect(engines: &mut Engines, variable: impl Fn(&str) -> Option<String>) -> Vec<Absent> {
    let configured = !engines.table.is_empty();
    engines.table.entry("echo".to_owned()).or_insert_with(|| Engine::Echo(EchoEngine::default()));
    if configured {
        return Vec::new();
    }
    let by_key = variable("OPENAI_API_KEY").map(|_| {
        let base_url = variable("OPENAI_BASE_URL").unwrap_or_else(|| OPENAI.to_owned());
        let model = variable("OPENAI_MODEL").unwrap_or_else(|| OPENAI_MODEL.to_owned());
        server(base_url, model, Some("OPENAI_API_KEY"))
    });
    let local = local_model(LOCAL).await.map(|model| server(LOCAL.to_owned(), model, None));
    let mut absent = Vec::new();
    match (by_key, local) {
        (None, Err(reason)) => {
            absent
                .push(Absent { name: "openai_compatible", reason: format!("OPENAI_API_KEY is not set, and {reason}") });
        }
        (Some(engine), Ok(second)) => {
            add(engines, "openai_compatible", engine);
            add(engines, "local", second);
        }
        (Some(engine), Err(_)) | (None, Ok(engine)) => add(engines, "openai_compatible", engine),
    }
    absent
}

fn add(engines: &mut Engines, name: &str, engine: Engine) {
    engines.table.insert(name.to_owned(), engine);
    engines.default.get_or_insert_with(|| name.to_owned());
}

fn server(base_url: String, model: String, api_key_env: Option<&str>) -> Engine {
    let api_key_env = api_key_env.map(str::to_owned);
    Engine::OpenaiCompatible(OpenAiCompatibleEngine { api_key_env, ..OpenAiCompatibleEngine::at(base_url, model) })
}

/// The first model of a server, or why there is none.
async fn local_model(base: &str) -> Result<String, String> {
    let place = base.trim_start_matches("http://").trim_end_matches("/v1");
    let silent = || format!("nothing answers on {place}");
    let client = reqwest::Client::builder().timeout(LOCAL_PATIENCE).no_proxy().build().map_err(|_| silent())?;
    let response = client.get(format!("{base}/models")).send().await.map_err(|_| silent())?;
    let models: Value = response.json().await.map_err(|_| format!("what answers on {place} is no model server"))?;
    let first = models.pointer("/data/0/id").and_then(Value::as_str);
    first.map(str::to_owned).ok_or_else(|| format!("the server on {place} has no model yet"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A server that gives one answer; its base URL.
    async fn answering(body: &'static str) -> String {
        // The client needs a TLS provider even where it speaks none.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("a caller");
            let mut request = [0; 1024];
            let _ = socket.read(&mut request).await;
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = socket.write_all(format!("{head}{body}").as_bytes()).await;
        });
        format!("http://{address}/v1")
    }

    #[tokio::test]
    async fn a_local_server_is_used_with_its_first_model() {
        let base = answering(r#"{"object":"list","data":[{"id":"qwen3"},{"id":"other"}]}"#).await;
        assert_eq!(local_model(&base).await, Ok("qwen3".to_owned()));
    }

    #[tokio::test]
    async fn what_is_missing_is_said() {
        let base = answering(r#"{"data":[]}"#).await;
        assert!(local_model(&base).await.expect_err("none").ends_with("has no model yet"));
        let base = answering("<html>").await;
        assert!(local_model(&base).await.expect_err("none").ends_with("is no model server"));
        // Port 1 is reserved: nothing listens there.
        assert_eq!(local_model("http://127.0.0.1:1/v1").await, Err("nothing answers on 127.0.0.1:1".to_owned()));
    }

    #[tokio::test]
    async fn engines_that_are_configured_are_left_as_they_are_beside_echo() {
        let mut engines = Engines::default();
        engines.table.insert("mine".to_owned(), server("http://h/v1".to_owned(), "m".to_owned(), None));
        let absent = detect(&mut engines, |_| Some("set".to_owned())).await;
        assert_eq!(absent, []);
        assert_eq!(engines.table.keys().collect::<Vec<_>>(), ["echo", "mine"]);
        assert_eq!(engines.default, None);
    }

    #[tokio::test]
    async fn a_key_makes_an_engine_the_default() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut engines = Engines::default();
        detect(&mut engines, |name| (name == "OPENAI_API_KEY").then(|| "sk-x".to_owned())).await;
        assert_eq!(engines.default.as_deref(), Some("openai_compatible"));
        assert!(!format!("{engines:?}").contains("sk-x"));
    }
}
