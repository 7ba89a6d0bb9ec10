//! What we say to the program: lines of JSON on its standard input.

use errand_common::domain::{AttachmentRef, Decision, FailureClass, Message, Role};
use serde_json::{Value, json};

use super::transcript::Beginning;
use crate::engine::{Turn, TurnFailure, code};

/// Our names for our requests, by which it answers.
pub(super) const INITIALIZE: &str = "initialize";
const INTERRUPT: &str = "interrupt";

/// What a turn that was interrupted is told when it goes on.
const GO_ON: &str = "You were interrupted. Go on with what you were last asked, from where you were. If you had asked to use a \
                     tool and were not answered, use it again with the same input.";

/// Must come first: the system prompt, which stays out of the list of processes, and the wish to be told of each tool.
pub(super) fn initialize(system_prompt: Option<&str>) -> Value {
    let mut request = json!({
        "subtype": "initialize",
        "hooks": { "PreToolUse": [{ "matcher": null, "hookCallbackIds": ["before_tool"] }] },
    });
    if let Some(prompt) = system_prompt {
        request["systemPrompt"] = json!([prompt]);
    }
    control(INITIALIZE, &request)
}

/// Ends the turn in good order.
pub(super) fn interrupt() -> Value {
    control(INTERRUPT, &json!({ "subtype": "interrupt" }))
}

fn control(id: &str, request: &Value) -> Value {
    json!({ "type": "control_request", "request_id": id, "request": request })
}

/// The prompt, with what came with it and what the program has not heard of the conversation.
///
/// # Errors
/// An attachment that the program can't take.
pub(super) fn prompt(turn: &Turn, beginning: &Beginning) -> Result<Value, TurnFailure> {
    let mut content = Vec::new();
    if !beginning.unknown.is_empty() {
        content.push(json!({ "type": "text", "text": told_before(&beginning.unknown) }));
    }
    if beginning.interrupted_after.is_some() {
        content.push(json!({ "type": "text", "text": GO_ON }));
    } else {
        for attachment in &turn.attachments {
            content.push(attached(turn, attachment)?);
        }
        content.push(json!({ "type": "text", "text": turn.prompt }));
    }
    Ok(json!({
        "type": "user",
        "message": { "role": "user", "content": content },
        "parent_tool_use_id": null,
        "session_id": "",
    }))
}

fn told_before(messages: &[Message]) -> String {
    let mut text = "What was said before in this conversation:\n".to_owned();
    for message in messages {
        let who = match message.role {
            Role::Assistant => "Assistant",
            _ => "User",
        };
        text += &format!("\n{who}: {}\n", message.content);
        for attachment in &message.attachments {
            let name = attachment.file_name.as_deref().unwrap_or("without a name");
            text += &format!("({who} attached a file, {name}, {}; it is not shown again.)\n", attachment.media_type);
        }
    }
    text + "\nWhat follows is new.\n"
}

fn attached(turn: &Turn, attachment: &AttachmentRef) -> Result<Value, TurnFailure> {
    let kind = match attachment.media_type.as_str() {
        "image/png" | "image/jpeg" | "image/gif" | "image/webp" => "image",
        "application/pdf" => "document",
        other => {
            let message = format!("this engine takes images (PNG, JPEG, GIF, WebP) and PDF documents, and no {other}");
            return Err(TurnFailure::new(FailureClass::Invalid, code::INVALID_REQUEST, message));
        }
    };
    let Some(content) = turn.contents.get(&attachment.hash) else {
        let message = format!("the content of an attachment ({}) is not there any more", attachment.hash);
        return Err(TurnFailure::new(FailureClass::Invalid, code::INVALID_REQUEST, message));
    };
    let source = json!({ "type": "base64", "media_type": attachment.media_type, "data": content.base64 });
    Ok(json!({ "type": kind, "source": source }))
}

/// Answers a question about a tool.
pub(super) fn decided(request_id: &str, call_id: &str, input: &Value, decision: &Decision) -> Value {
    let response = match decision {
        Decision::Allow => json!({ "behavior": "allow", "updatedInput": input, "toolUseID": call_id }),
        Decision::Deny { message } => json!({ "behavior": "deny", "message": message, "toolUseID": call_id }),
    };
    answer(request_id, &response)
}

/// Lets a tool through that was allowed by name; to all others the program's own rules apply.
pub(super) fn before_tool(request_id: &str, allowed: bool) -> Value {
    let response = if allowed {
        json!({ "hookSpecificOutput": {
            "hookEventName": "PreToolUse",
            "permissionDecision": "allow",
            "permissionDecisionReason": "allowed by the task",
        } })
    } else {
        json!({})
    };
    answer(request_id, &response)
}

fn answer(request_id: &str, response: &Value) -> Value {
    json!({ "type": "control_response", "response": { "subtype": "success", "request_id": request_id, "response": response } })
}

/// It asked for something that we don't do.
pub(super) fn unsupported(request_id: &str, subtype: &str) -> Value {
    let error = format!("{subtype:?} is not supported here");
    json!({ "type": "control_response", "response": { "subtype": "error", "request_id": request_id, "error": error } })
}

#[cfg(test)]
mod tests {
    use errand_common::domain::AttachmentContent;

    use super::*;
    use crate::engine::trial;

    fn with_attachment(media_type: &str) -> Turn {
        let mut turn = trial::turn("what is it?");
        turn.attachments =
            vec![AttachmentRef { hash: "abc".into(), media_type: media_type.into(), file_name: None, size: 3 }];
        let content = AttachmentContent { hash: "abc".into(), base64: "AAEC".into(), size: 3 };
        turn.contents.insert("abc".into(), content);
        turn
    }

    #[test]
    fn attachments_come_before_the_prompt_in_their_own_form() {
        for (media_type, kind) in [("image/png", "image"), ("application/pdf", "document")] {
            let turn = with_attachment(media_type);
            let frame = prompt(&turn, &Beginning::anew(&turn)).expect("a frame");
            let content = &frame["message"]["content"];
            assert_eq!(content[0]["type"], kind);
            assert_eq!(content[0]["source"], json!({"type": "base64", "media_type": media_type, "data": "AAEC"}));
            assert_eq!(content[1]["text"], "what is it?");
        }
        let turn = with_attachment("video/mp4");
        let refused = prompt(&turn, &Beginning::anew(&turn)).expect_err("no video");
        assert_eq!(refused.class, FailureClass::Invalid);
        let gone = Turn { contents: std::collections::BTreeMap::new(), ..with_attachment("image/png") };
        prompt(&gone, &Beginning::anew(&gone)).expect_err("no content");
    }
}
