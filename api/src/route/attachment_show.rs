//! `GET /agent/sessions/{id}/attachments/{hash}`

use std::convert::Infallible;

use axum::{
    body::Body,
    extract::{FromRequestParts, Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use errand_common::domain::{AttachmentRef, SessionId};
use futures::stream;

use super::session_show::session_of;
use crate::{
    attachment::PIECE,
    auth::{Permit, Read},
    problem::Problem,
    state::AppState,
};

/// The session and the hash of the path.
#[derive(Debug)]
pub(crate) struct Place {
    session: SessionId,
    hash: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Place {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let malformed = |part: &str, wanted: &str| Problem::field(format!("path:{part}"), format!("must be {wanted}"));
        let Path((session, hash)) = Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(|_| malformed("hash", "the hash of an attachment"))?;
        let session = session.parse().map_err(|_| malformed("id", "a UUID"))?;
        let is_hash = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'));
        if is_hash { Ok(Self { session, hash }) } else { Err(malformed("hash", "64 digits of hex in lower case")) }
    }
}

/// The content of an attachment of a conversation's messages, as it was sent.
#[utoipa::path(
    get, path = "/api/v1/agent/sessions/{id}/attachments/{hash}", tag = "sessions",
    params(
        ("id" = uuid::Uuid, Path),
        ("hash" = String, Path, description = "SHA-256 of the content in hex, as a message names it"),
    ),
    responses(
        (status = 200, description = "The content, under its own media type; to be saved, never shown as a page", content_type = "application/octet-stream", body = String),
        (status = 304, description = "`If-None-Match` names it"),
    )
)]
pub(crate) async fn show_attachment(
    State(app): AppState,
    caller: Permit<Read>,
    Place { session, hash }: Place,
    asked: HeaderMap,
) -> Result<Response, Problem> {
    session_of(&app, &caller, session).await?;
    let missing = || Problem::not_found("attachment");
    let reference = app.backend.store.session_attachment(session, &hash).await?.ok_or_else(missing)?;
    let headers = headers(&reference);
    if asked.get(header::IF_NONE_MATCH).is_some_and(|theirs| *theirs == headers[header::ETAG]) {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let mut contents = app.backend.store.attachments(&caller.tenant, std::slice::from_ref(&hash)).await?;
    let content = contents.pop().ok_or_else(missing)?;
    let mut response = (headers, Body::from_stream(decoded(content.base64))).into_response();
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(content.size));
    Ok(response)
}

/// Nothing of it may run in a browser, whatever it holds.
fn headers(reference: &AttachmentRef) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut set = |name, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    };
    set(header::CONTENT_TYPE, reference.media_type.clone());
    set(header::CONTENT_DISPOSITION, disposition(reference.file_name.as_deref()));
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned());
    set(header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'".to_owned());
    set(header::CACHE_CONTROL, "private, max-age=31536000, immutable".to_owned());
    set(header::ETAG, format!("\"{}\"", reference.hash));
    headers
}

/// As RFC 6266 says: the name in percent-encoded UTF-8, so that none can break out of the header.
fn disposition(file_name: Option<&str>) -> String {
    let Some(name) = file_name else { return "attachment".to_owned() };
    let mut text = "attachment; filename*=UTF-8''".to_owned();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => text.push(char::from(byte)),
            _ => text += &format!("%{byte:02X}"),
        }
    }
    text
}

/// Decodes piece by piece, as the client reads.
fn decoded(base64: String) -> impl futures::Stream<Item = Result<Vec<u8>, Infallible>> {
    stream::unfold((base64, 0), |(base64, from)| async move {
        let piece = base64.as_bytes().get(from..)?;
        let piece = &piece[..piece.len().min(PIECE)];
        // What is kept was decoded once when it came.
        let bytes = STANDARD.decode(piece).ok().filter(|bytes| !bytes.is_empty())?;
        let next = from + piece.len();
        Some((Ok(bytes), (base64, next)))
    })
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    #[test]
    fn a_name_can_not_break_out_of_its_header() {
        assert_eq!(disposition(None), "attachment");
        let sly = disposition(Some("a\"; filename=x.html\r\nü.png"));
        assert_eq!(sly, "attachment; filename*=UTF-8''a%22%3B%20filename%3Dx.html%0D%0A%C3%BC.png");
    }

    #[tokio::test]
    async fn a_content_comes_back_as_it_was_sent() {
        for length in [1, PIECE / 4 * 3, PIECE] {
            let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            let pieces: Vec<_> = decoded(STANDARD.encode(&bytes)).collect().await;
            let whole: Vec<u8> = pieces.into_iter().flat_map(|Ok(piece)| piece).collect();
            assert_eq!(whole, bytes);
        }
    }
}
