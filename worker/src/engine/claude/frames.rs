//! What the program says: one JSON object a line, taken as it is. What we don't know or need is [`Frame::Other`].

use serde_json::Value;

/// One line of the program's.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Frame {
    /// A turn begins; from here on requests are made that cost.
    Init,
    /// A request to the model failed and will be made again.
    Retry(Retry),
    /// A piece of an answer under way.
    Piece {
        /// The call of the sub-agent that answers; `None`: the conversation itself.
        parent: Option<String>,
        /// What.
        piece: Piece,
    },
    /// A block of an answer, whole.
    Block {
        /// As in a piece.
        parent: Option<String>,
        /// What.
        block: Block,
    },
    /// What tools answered.
    ToolResults(Vec<ToolResult>),
    /// The turn is over.
    Result(Box<Outcome>),
    /// It asks us, and waits for the answer under this id.
    Request {
        /// Of the request.
        id: String,
        /// What.
        request: Request,
    },
    /// It asks that no more.
    Withdrawn {
        /// Of the request.
        id: String,
    },
    /// It does not do what we asked for.
    Refused {
        /// Of our request.
        id: String,
        /// Why.
        error: String,
    },
    /// Anything else.
    Other,
}

/// Part of an answer.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Piece {
    /// A new answer begins: one that had not finished is void.
    Start(Tokens),
    /// More text.
    Text(String),
    /// More reasoning.
    Thinking(String),
    /// What the answer has cost by now.
    Spent(Tokens),
    /// It was given up: what it said so far is void.
    Abandoned,
}

/// A whole block of an answer.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Block {
    Text(String),
    Thinking(String),
    ToolUse {
        id: String,
        name: String,
        input: Value,
    },
    /// The program's own words about an error, by the error's name.
    Error(String),
}

/// Token counts of one answer; those that were not told are `None`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Tokens {
    pub(super) input: Option<u64>,
    pub(super) cache_read: Option<u64>,
    pub(super) cache_write: Option<u64>,
    pub(super) output: Option<u64>,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Retry {
    pub(super) attempt: u64,
    pub(super) most: u64,
    pub(super) delay_ms: u64,
    pub(super) status: Option<u64>,
    pub(super) error: String,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct ToolResult {
    pub(super) id: String,
    pub(super) content: Value,
    pub(super) is_error: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Request {
    /// May this tool be used?
    Tool { call_id: String, tool: String, input: Value },
    /// A tool is about to be used, whether that needs asking or not.
    Hook { tool: String },
    /// Something that we don't know.
    Unknown { subtype: String },
}

/// How a turn ended.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Outcome {
    pub(super) is_error: bool,
    pub(super) subtype: String,
    /// The answer, or the error in words.
    pub(super) text: String,
    pub(super) terminal_reason: String,
    pub(super) stop_reason: String,
    pub(super) api_error_type: String,
    pub(super) api_error_status: Option<u64>,
    pub(super) cost_usd: Option<f64>,
    /// Of the main conversation's turn.
    pub(super) tokens: Tokens,
    /// Of the whole process, sub-agents and abandoned answers included.
    pub(super) models: Vec<ModelUsage>,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct ModelUsage {
    pub(super) model: String,
    pub(super) tokens: Tokens,
    pub(super) cost_usd: f64,
    /// The program does not know the model and guesses.
    pub(super) cost_guessed: bool,
}

/// Reads one line.
pub(super) fn parse(line: &str) -> Vec<Frame> {
    let Ok(frame) = serde_json::from_str::<Value>(line) else { return Vec::new() };
    match text(&frame["type"]).as_str() {
        "system" => vec![system(&frame)],
        "stream_event" => vec![stream(&frame)],
        "assistant" => assistant(&frame),
        "user" => vec![Frame::ToolResults(tool_results(&frame))],
        "result" => vec![Frame::Result(Box::new(outcome(&frame)))],
        "control_request" => {
            vec![Frame::Request { id: text(&frame["request_id"]), request: request(&frame["request"]) }]
        }
        "control_cancel_request" => vec![Frame::Withdrawn { id: text(&frame["request_id"]) }],
        "control_response" if frame["response"]["subtype"] == "error" => {
            let response = &frame["response"];
            vec![Frame::Refused { id: text(&response["request_id"]), error: text(&response["error"]) }]
        }
        _ => vec![Frame::Other],
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn parent(frame: &Value) -> Option<String> {
    frame["parent_tool_use_id"].as_str().map(str::to_owned)
}

fn system(frame: &Value) -> Frame {
    match frame["subtype"].as_str() {
        Some("init") => Frame::Init,
        Some("api_retry") => Frame::Retry(Retry {
            attempt: frame["attempt"].as_u64().unwrap_or(0),
            most: frame["max_retries"].as_u64().unwrap_or(0),
            delay_ms: frame["retry_delay_ms"].as_f64().map_or(0, whole),
            status: frame["error_status"].as_u64(),
            error: text(&frame["error"]),
        }),
        _ => Frame::Other,
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a pause in milliseconds, clamped")]
const fn whole(number: f64) -> u64 {
    number.clamp(0.0, 1e12) as u64
}

fn stream(frame: &Value) -> Frame {
    let event = &frame["event"];
    // Newer versions say which answer they give up; older ones only begin another.
    let abandoned = [frame, event].iter().any(|at| at["abandoned_blocks"].is_object());
    let piece = match event["type"].as_str() {
        Some("message_start") => Piece::Start(tokens(&event["message"]["usage"])),
        Some("message_delta") => Piece::Spent(tokens(&event["usage"])),
        Some("message_stop") if abandoned => Piece::Abandoned,
        Some("content_block_delta") => match event["delta"]["type"].as_str() {
            Some("text_delta") => Piece::Text(text(&event["delta"]["text"])),
            Some("thinking_delta") => Piece::Thinking(text(&event["delta"]["thinking"])),
            _ => return Frame::Other,
        },
        _ => return Frame::Other,
    };
    Frame::Piece { parent: parent(frame), piece }
}

fn assistant(frame: &Value) -> Vec<Frame> {
    let message = &frame["message"];
    if message["model"] == "<synthetic>" || frame["is_api_error_message"] == true {
        let error = ["api_error_type", "error"].iter().find_map(|name| frame[*name].as_str()).unwrap_or_default();
        return vec![Frame::Block { parent: parent(frame), block: Block::Error(error.to_owned()) }];
    }
    let blocks = message["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    let block = |block: &Value| {
        let block = match block["type"].as_str()? {
            "text" => Block::Text(text(&block["text"])),
            "thinking" => Block::Thinking(text(&block["thinking"])),
            "tool_use" => {
                Block::ToolUse { id: text(&block["id"]), name: text(&block["name"]), input: block["input"].clone() }
            }
            _ => return None,
        };
        Some(Frame::Block { parent: parent(frame), block })
    };
    blocks.iter().filter_map(block).collect()
}

fn tool_results(frame: &Value) -> Vec<ToolResult> {
    let blocks = frame["message"]["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    let result = |block: &Value| ToolResult {
        id: text(&block["tool_use_id"]),
        content: block["content"].clone(),
        is_error: block["is_error"] == true,
    };
    blocks.iter().filter(|block| block["type"] == "tool_result").map(result).collect()
}

fn request(request: &Value) -> Request {
    match request["subtype"].as_str() {
        Some("can_use_tool") => Request::Tool {
            call_id: text(&request["tool_use_id"]),
            tool: text(&request["tool_name"]),
            input: request["input"].clone(),
        },
        Some("hook_callback") => Request::Hook { tool: text(&request["input"]["tool_name"]) },
        subtype => Request::Unknown { subtype: subtype.unwrap_or_default().to_owned() },
    }
}

/// As the API counts.
fn tokens(usage: &Value) -> Tokens {
    Tokens {
        input: usage["input_tokens"].as_u64(),
        cache_read: usage["cache_read_input_tokens"].as_u64(),
        cache_write: usage["cache_creation_input_tokens"].as_u64(),
        output: usage["output_tokens"].as_u64(),
    }
}

fn outcome(frame: &Value) -> Outcome {
    let errors: Vec<&str> = frame["errors"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let words = frame["result"].as_str().map_or_else(|| errors.join("; "), str::to_owned);
    let model = |(name, usage): (&String, &Value)| ModelUsage {
        model: name.clone(),
        tokens: Tokens {
            input: usage["inputTokens"].as_u64(),
            cache_read: usage["cacheReadInputTokens"].as_u64(),
            cache_write: usage["cacheCreationInputTokens"].as_u64(),
            output: usage["outputTokens"].as_u64(),
        },
        cost_usd: usage["costUSD"].as_f64().unwrap_or(0.0),
        cost_guessed: usage["costBasis"] == "unknown",
    };
    Outcome {
        is_error: frame["is_error"] != false,
        subtype: text(&frame["subtype"]),
        text: words,
        terminal_reason: text(&frame["terminal_reason"]),
        stop_reason: text(&frame["stop_reason"]),
        api_error_type: text(&frame["api_error_type"]),
        api_error_status: frame["api_error_status"].as_u64(),
        cost_usd: frame["total_cost_usd"].as_f64(),
        tokens: tokens(&frame["usage"]),
        models: frame["modelUsage"].as_object().into_iter().flatten().map(model).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_or_no_json_is_passed_over() {
        assert_eq!(parse("not json"), []);
        for line in [r#"{"type":"novelty"}"#, r#"{"type":"system","subtype":"novelty"}"#, "[]", "7", "{}"] {
            assert_eq!(parse(line), [Frame::Other], "{line}");
        }
        let odd = r#"{"type":"assistant","message":{"content":[{"type":"novelty"},{"type":"text","text":"hi"}]}}"#;
        assert_eq!(parse(odd), [Frame::Block { parent: None, block: Block::Text("hi".into()) }]);
    }

    #[test]
    fn the_programs_own_error_text_is_no_answer() {
        let line = r#"{"type":"assistant","message":{"model":"<synthetic>","content":[{"type":"text","text":"API Error"}]},"error":"rate_limit"}"#;
        assert_eq!(parse(line), [Frame::Block { parent: None, block: Block::Error("rate_limit".into()) }]);
    }

    #[test]
    fn a_result_without_a_verdict_is_an_error() {
        let Some(Frame::Result(outcome)) = parse(r#"{"type":"result","errors":["a","b"]}"#).pop() else {
            panic!("a result")
        };
        assert!(outcome.is_error);
        assert_eq!(outcome.text, "a; b");
    }

    #[test]
    fn an_abandoned_answer_is_marked_on_its_end() {
        let line =
            r#"{"type":"stream_event","event":{"type":"message_stop"},"abandoned_blocks":{"api_message_id":"a"}}"#;
        assert_eq!(parse(line), [Frame::Piece { parent: None, piece: Piece::Abandoned }]);
        assert_eq!(parse(r#"{"type":"stream_event","event":{"type":"message_stop"}}"#), [Frame::Other]);
    }
}
