//! The request as it is sent.

use errand_common::{
    config::{ClaudeApiEngine, PromptCache, Thinking, ThinkingDisplay},
    domain::Role,
};
use serde_json::{Value, json};

use crate::engine::{
    Turn,
    parts::{Part, conversation},
    server::Round,
};

/// The request that follows these rounds.
pub(super) fn request(config: &ClaudeApiEngine, turn: &Turn, rounds: &[Round]) -> Value {
    let mut messages: Vec<Value> = conversation(turn)
        .iter()
        .map(|saying| {
            let role = match saying.role {
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            json!({ "role": role, "content": saying.parts.iter().map(block).collect::<Vec<_>>() })
        })
        .collect();
    for round in rounds {
        // Unchanged: thinking is signed.
        messages.push(json!({ "role": "assistant", "content": round.said }));
        let results: Vec<Value> = round.uses.iter().filter_map(|one| {
            let result = one.result.as_ref()?;
            Some(json!({
                "type": "tool_result", "tool_use_id": one.server_id(), "content": result.content, "is_error": result.is_error,
            }))
        }).collect();
        if !results.is_empty() {
            messages.push(json!({ "role": "user", "content": results }));
        }
    }
    let mut request = json!({
        "model": config.model,
        "max_tokens": config.max_tokens,
        "stream": true,
        "messages": messages,
    });
    if let Some(system) = turn.system_prompt.as_deref().filter(|text| !text.trim().is_empty()) {
        request["system"] = json!([{ "type": "text", "text": system }]);
    }
    if !config.tools.is_empty() {
        let tools = config
            .tools
            .iter()
            .map(|tool| json!({ "name": tool.name, "description": tool.description, "input_schema": tool.schema }));
        request["tools"] = tools.collect();
    }
    if let Some(thinking) = thinking(config) {
        request["thinking"] = thinking;
    }
    mark(&mut request, config.cache);
    request
}

fn block(part: &Part<'_>) -> Value {
    match part {
        Part::Text(text) => json!({ "type": "text", "text": text }),
        Part::Image { media_type, data } => {
            json!({ "type": "image", "source": { "type": "base64", "media_type": media_type, "data": data } })
        }
        Part::Document { name, media_type, data } => json!({
            "type": "document", "title": name,
            "source": { "type": "base64", "media_type": media_type, "data": data },
        }),
    }
}

fn thinking(config: &ClaudeApiEngine) -> Option<Value> {
    let mut thinking = match config.thinking {
        Thinking::Default => return None,
        Thinking::Disabled => return Some(json!({ "type": "disabled" })),
        Thinking::Adaptive => json!({ "type": "adaptive" }),
        Thinking::Enabled => json!({ "type": "enabled", "budget_tokens": config.thinking_budget_tokens }),
    };
    match config.thinking_display {
        Some(ThinkingDisplay::Summarized) => thinking["display"] = json!("summarized"),
        Some(ThinkingDisplay::Omitted) => thinking["display"] = json!("omitted"),
        None => {}
    }
    Some(thinking)
}

/// Marks how far the server may keep the beginning: the system prompt, the tools, and the last of the user's messages, so that
/// the next request finds all up to there.
fn mark(request: &mut Value, cache: PromptCache) {
    let mark = match cache {
        PromptCache::Off => return,
        PromptCache::FiveMinutes => json!({ "type": "ephemeral" }),
        PromptCache::OneHour => json!({ "type": "ephemeral", "ttl": "1h" }),
    };
    for part in ["system", "tools"] {
        if let Some(last) = request.get_mut(part).and_then(Value::as_array_mut).and_then(|blocks| blocks.last_mut()) {
            last["cache_control"] = mark.clone();
        }
    }
    let messages = request.get_mut("messages").and_then(Value::as_array_mut).into_iter().flatten();
    let last = messages.rev().find(|message| message["role"] == "user");
    if let Some(block) = last.and_then(|message| message["content"].as_array_mut()).and_then(|blocks| blocks.last_mut())
    {
        block["cache_control"] = mark;
    }
}
