//! What a transcription server says, and what the client is told of it.

use std::time::Duration;

use axum::http::StatusCode;
use futures::StreamExt;
use reqwest::{Response, header::RETRY_AFTER};
use serde::Deserialize;
use serde_json::Value;

use crate::{limit, problem::Problem};

/// Most of an answer that is read, in bytes: hours of speech.
const LONGEST: usize = 1024 * 1024;
/// Most of the server's own words that the client is told.
const WORDS: usize = 300;

#[derive(Deserialize)]
struct Answer {
    text: String,
}

/// The text, or why there is none.
pub(super) async fn read(response: Response) -> Result<String, Problem> {
    let (status, retry_after) = (response.status().as_u16(), retry_after(&response));
    let body = body(response).await?;
    if !(200..300).contains(&status) {
        return Err(refusal(status, retry_after, &body));
    }
    let answer: Answer = serde_json::from_slice(&body).map_err(|_| {
        failed(StatusCode::BAD_GATEWAY, "The transcription server answered with what is no transcript", false)
    })?;
    // No text that is kept may hold a NUL.
    Ok(answer.text.replace('\0', "").trim().to_owned())
}

async fn body(response: Response) -> Result<Vec<u8>, Problem> {
    let (mut body, mut stream) = (Vec::new(), response.bytes_stream());
    while let Some(piece) = stream.next().await {
        body.extend_from_slice(&piece.map_err(|error| unreachable(&error))?);
        if body.len() > LONGEST {
            let detail = "The transcription server's answer is larger than any transcript";
            return Err(failed(StatusCode::BAD_GATEWAY, detail, false));
        }
    }
    Ok(body)
}

fn retry_after(response: &Response) -> Option<u64> {
    response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

fn failed(status: StatusCode, detail: impl Into<String>, retryable: bool) -> Problem {
    let mut problem = Problem::new(status, "transcription_failed", detail.into());
    problem.retryable = retryable;
    problem
}

/// A status that says no. It is told by number and code, never by the server's wording.
fn refusal(status: u16, retry_after: Option<u64>, body: &[u8]) -> Problem {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &said["error"];
    let words = error["message"].as_str().or_else(|| error.as_str()).unwrap_or_default();
    let words = &words[..words.floor_char_boundary(WORDS)];
    tracing::warn!(status, code = error["code"].as_str(), "the transcription server refused");
    let wait = retry_after.unwrap_or(limit::RETRY_AFTER_SECONDS);
    match status {
        429 if error["code"] == "insufficient_quota" => {
            failed(StatusCode::BAD_GATEWAY, "The transcription server's quota is used up", false)
        }
        429 => {
            let detail = "The transcription server takes no more requests for now";
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "transcription_rate_limited", detail).retry_after(wait)
        }
        503 => {
            let detail = "The transcription server is overloaded or away";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "transcription_unavailable", detail).retry_after(wait)
        }
        413 => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "audio_too_large",
            "The audio is larger than the transcription server takes",
        ),
        400 | 415 | 422 => {
            let detail = format!("the transcription server can't take this audio: {words}");
            Problem::field("form:audio", detail).coded("audio_unreadable")
        }
        401 | 403 => failed(
            StatusCode::BAD_GATEWAY,
            "The transcription server refuses our key: the operator must correct transcription.api_key_env",
            false,
        ),
        404 => failed(
            StatusCode::BAD_GATEWAY,
            "The transcription server knows no such place or model: the operator must correct transcription.base_url or model",
            false,
        ),
        status => failed(
            StatusCode::BAD_GATEWAY,
            format!("The transcription server failed with status {status}"),
            status >= 500,
        ),
    }
}

/// No answer.
pub(super) fn unreachable(error: &reqwest::Error) -> Problem {
    tracing::warn!(%error, "the transcription server can't be asked");
    let detail = if error.is_timeout() {
        "The transcription server did not answer in time"
    } else if error.is_connect() {
        "The transcription server can't be reached"
    } else {
        "The connection to the transcription server broke"
    };
    failed(StatusCode::BAD_GATEWAY, detail, true)
}

/// No answer in this time.
pub(super) fn silent(within: Duration) -> Problem {
    let detail = format!("The transcription server did not answer within {} s", within.as_secs());
    failed(StatusCode::BAD_GATEWAY, detail, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_tells_whether_it_helps_to_come_again() {
        let quota = br#"{"error":{"message":"pay","code":"insufficient_quota"}}"#;
        for (status, body, wanted, code, retryable) in [
            (429, &b""[..], 429, "transcription_rate_limited", true),
            (429, &quota[..], 502, "transcription_failed", false),
            (503, b"", 503, "transcription_unavailable", true),
            (500, b"", 502, "transcription_failed", true),
            (401, b"", 502, "transcription_failed", false),
            (413, b"", 413, "audio_too_large", false),
            (400, b"not json", 400, "audio_unreadable", false),
            (302, b"", 502, "transcription_failed", false),
        ] {
            let problem = refusal(status, None, body);
            let told = (problem.status.as_u16(), problem.code, problem.retryable);
            assert_eq!(told, (wanted, code, retryable), "{status}");
        }
    }

    #[test]
    fn the_servers_words_are_cut_to_a_length_that_an_answer_can_bear() {
        let body = format!(r#"{{"error":"{}"}}"#, "ß".repeat(10_000));
        let problem = refusal(400, None, body.as_bytes());
        assert!(problem.detail.len() < 2 * WORDS, "{}", problem.detail.len());
    }
}
