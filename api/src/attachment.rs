//! Images and documents that come with a prompt: read strictly, bounded, named by the hash of their content.

use std::fmt::Write as _;

use axum::http::StatusCode;
use base64::{Engine, engine::general_purpose::STANDARD};
use errand_common::domain::{AttachmentContent, AttachmentRef};
use serde::{Deserialize, Deserializer, de::Error as _};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::{
    limit,
    problem::{Faults, Problem},
    state::App,
};

/// Base64 that is decoded at once, in characters: whole groups of four.
pub(crate) const PIECE: usize = 64 * 1024;
const TEXT: &str = "text/plain";

/// An image or document.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attachment {
    /// The content in standard Base64 with padding, without white space; not empty.
    #[serde(rename = "base64Data")]
    #[schema(value_type = String, format = Byte)]
    base64_data: Content,
    /// Its type, one of `server.attachment_types`: by default `image/jpeg`, `image/png`, `image/gif`, `image/webp`,
    /// `application/pdf` and `text/plain`, which must be UTF-8. Parameters are ignored.
    #[schema(example = "image/png")]
    media_type: String,
    /// Its name: at most 255 characters.
    file_name: Option<String>,
}

/// A content whose Base64 was checked and whose hash is known. That happens while the body is read, off the threads that
/// serve others where the body is large.
#[derive(Clone, Debug)]
struct Content {
    kept: AttachmentContent,
    is_utf8: bool,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let base64 = String::deserialize(deserializer)?;
        read(base64).map_err(D::Error::custom)
    }
}

/// Hashes a content piece by piece, so that it is never there as a whole in a second form.
fn read(base64: String) -> Result<Content, &'static str> {
    const WANTED: &str = "must be standard Base64 with padding (RFC 4648 section 4), without white space";
    if base64.is_empty() {
        return Err("must not be empty");
    }
    let (mut hash, mut size) = (Sha256::new(), 0_u64);
    // A character may lie across two pieces: its beginning stays in the buffer.
    let (mut is_utf8, mut begun) = (true, 0);
    let mut buffer = Vec::with_capacity(PIECE);
    let mut pieces = base64.as_bytes().chunks(PIECE).peekable();
    while let Some(piece) = pieces.next() {
        STANDARD.decode_vec(piece, &mut buffer).map_err(|_| WANTED)?;
        // Padding may end the last piece only.
        let decoded = &buffer[begun..];
        if pieces.peek().is_some() && decoded.len() != PIECE / 4 * 3 {
            return Err(WANTED);
        }
        hash.update(decoded);
        size += decoded.len() as u64;
        let done = match std::str::from_utf8(&buffer) {
            Err(error) if is_utf8 && error.error_len().is_none() => error.valid_up_to(),
            judged => {
                is_utf8 &= judged.is_ok();
                buffer.len()
            }
        };
        buffer.drain(..done);
        begun = buffer.len();
    }
    let mut hex = String::with_capacity(64);
    for byte in hash.finalize() {
        let _ = write!(hex, "{byte:02x}");
    }
    Ok(Content { kept: AttachmentContent { hash: hex, base64, size }, is_utf8: is_utf8 && begun == 0 })
}

impl Attachment {
    /// What messages name it by, and what is kept.
    pub(crate) fn split(self) -> (AttachmentRef, AttachmentContent) {
        let content = self.base64_data.kept;
        let reference = AttachmentRef {
            hash: content.hash.clone(),
            media_type: essence(&self.media_type),
            file_name: self.file_name,
            size: content.size,
        };
        (reference, content)
    }
}

/// Without parameters, in lower case.
fn essence(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Finds every fault of a task's attachments; `at` is where they lie. What is too large altogether is refused by itself.
pub(crate) fn check(app: &App, attachments: &[Attachment], at: &str, faults: &mut Faults) -> Result<(), Problem> {
    let server = &app.config.server;
    faults.check(attachments.len() <= limit::ATTACHMENTS, at, || format!("may hold {} at most", limit::ATTACHMENTS));
    for (index, attachment) in attachments.iter().enumerate().take(limit::ATTACHMENTS) {
        let media_type = essence(&attachment.media_type);
        faults.check(server.attachment_types.contains(&media_type), &format!("{at}/{index}/mediaType"), || {
            format!("must be one of {}", server.attachment_types.join(", "))
        });
        faults.check(media_type != TEXT || attachment.base64_data.is_utf8, &format!("{at}/{index}/base64Data"), || {
            "must be UTF-8 in Base64, as its media type is text/plain".to_owned()
        });
        let name = attachment.file_name.as_deref();
        faults.check(name.is_none_or(is_file_name), &format!("{at}/{index}/fileName"), || {
            format!("must be 1 to {} characters, none of them a control character", limit::FILE_NAME_CHARS)
        });
    }
    let sum: u64 = attachments.iter().map(|attachment| attachment.base64_data.kept.size).sum();
    let most = u64::from(server.attachment_limit_mib) * 1024 * 1024;
    if sum > most {
        let detail = format!("The attachments are {sum} bytes together; {most} are allowed");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "attachments_too_large", detail)
            .with(at, format!("may take {most} bytes at most, decoded")));
    }
    Ok(())
}

fn is_file_name(name: &str) -> bool {
    (1..=limit::FILE_NAME_CHARS).contains(&name.chars().count()) && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Content {
        read(STANDARD.encode(bytes)).expect("good Base64")
    }

    #[test]
    fn a_content_is_named_by_its_hash_however_many_pieces_it_takes() {
        for length in [1, 2, 3, PIECE / 4 * 3 - 1, PIECE / 4 * 3, PIECE / 4 * 3 + 1, 3 * PIECE] {
            let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            let content = of(&bytes).kept;
            let wanted: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!((content.hash, content.size), (wanted, length as u64));
        }
    }

    #[test]
    fn base64_that_means_the_same_in_two_forms_is_refused() {
        for text in ["", "QQ", "QQ=", "QR==", "Q Q==", "QQ==\n", "_-8=", "QQ==QQ=="] {
            assert!(read(text.to_owned()).is_err(), "{text:?}");
        }
        let padded_inside = [STANDARD.encode(vec![7; PIECE / 4 * 3 - 1]), "QQ==".to_owned()].concat();
        assert!(read(padded_inside).is_err(), "padding at the end of a piece that is not the last");
        assert_eq!(of(b"A").kept.size, 1);
    }

    #[test]
    fn text_is_told_from_what_is_none_across_pieces() {
        // Three bytes a character, so that pieces begin at each place within one.
        for ahead in 0..3 {
            let text = ["x".repeat(ahead), "漢".repeat(PIECE)].concat();
            assert!(of(text.as_bytes()).is_utf8, "{ahead}");
            assert!(!of(&text.as_bytes()[..text.len() - 1]).is_utf8, "its last character is cut off");
        }
        assert!(!of(&[b'a', 0xff, b'b']).is_utf8);
    }

    #[test]
    fn a_media_type_is_told_without_its_parameters() {
        assert_eq!(essence("Text/Plain; charset=utf-8"), "text/plain");
    }
}
