//! Images and documents that come with a prompt.

use serde::{Deserialize, Serialize};

/// An attachment as messages and payloads name it: by the hash of its content.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentRef {
    /// SHA-256 of the content, in hex.
    pub hash: String,
    /// Its media type, in lower case and without parameters: `image/png`.
    pub media_type: String,
    /// Its name, if it came with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_name: Option<String>,
    /// Bytes of its content.
    pub size: u64,
}

/// Whether this is a media type as [`AttachmentRef::media_type`] has them: two tokens, in lower case, without parameters.
#[must_use]
pub fn is_media_type(text: &str) -> bool {
    let is_token = |part: &str| {
        let named = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'+' | b'-');
        (1..=64).contains(&part.len()) && part.bytes().all(named)
    };
    text.split_once('/').is_some_and(|(family, name)| is_token(family) && is_token(name))
}

/// A content, kept once a tenant however often it is sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttachmentContent {
    /// SHA-256 of the content, in hex.
    pub hash: String,
    /// The content in standard Base64 with padding: as it came, and as engines want it.
    pub base64: String,
    /// Bytes of the content itself.
    pub size: u64,
}
