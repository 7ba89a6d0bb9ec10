//! A bridge to try things with: answers each prompt, after a moment, with the prompt itself, shown piece by piece.
//!
//! `cargo run -p errand-tests --bin example-bridge -- --listen 127.0.0.1:9100`

use std::{net::SocketAddr, time::Duration};

use clap::Parser;
use errand_tests::bridge::{Bridge, Plan, Prompt};
use serde_json::{Value, json};

/// Runs the example bridge.
#[derive(Parser)]
struct Arguments {
    /// Where it listens.
    #[arg(long, default_value = "127.0.0.1:9100")]
    listen: SocketAddr,
    /// How long it thinks before each word, in milliseconds.
    #[arg(long, default_value_t = 200)]
    pause_ms: u64,
    /// The instance's callbackSecret, if it has one.
    #[arg(long)]
    secret: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { listen, pause_ms, secret } = Arguments::parse();
    let bridge = Bridge::listen(listen, move |prompt, _| answer(prompt, Duration::from_millis(pause_ms))).await?;
    bridge.sign_with(secret.as_deref());
    println!("bridge at http://{}/task-async", bridge.address());
    tokio::signal::ctrl_c().await?;
    Ok(())
}

/// Word by word, and then as a whole.
fn answer(prompt: &Prompt, pause: Duration) -> Plan {
    let words: Vec<&str> = prompt.prompt.split_inclusive(' ').collect();
    let piece = |(index, word): (usize, &&str)| (pause, json!({"partial": word, "seq": index + 1}));
    let mut said: Vec<(Duration, Value)> = words.iter().enumerate().map(piece).collect();
    let usage = json!({"inputTokens": words.len(), "outputTokens": words.len(), "model": "echo"});
    said.push((pause, json!({"ok": true, "result": prompt.prompt, "usage": usage})));
    Plan::later(said)
}
