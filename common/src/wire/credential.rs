//! API keys and agents' tokens: their form, and what is kept of them.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::RngExt;
use sha2::{Digest, Sha256};

/// Every key starts with it.
pub const KEY_PREFIX: &str = "errand_";

/// Every agent's token starts with it.
pub const AGENT_PREFIX: &str = "errand_agent_";

/// Characters of the random part that are kept in clear, to find a key by.
const INDEXED_CHARS: usize = 8;

/// A new key: 256 random bits.
#[must_use]
pub fn generate_key() -> String {
    let bytes: [u8; 32] = rand::rng().random();
    format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// A new token for an agent: 256 random bits.
#[must_use]
pub fn generate_agent_token() -> String {
    let bytes: [u8; 32] = rand::rng().random();
    format!("{AGENT_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// Whether the text has the form of an agent's token: the prefix and 43 of `[A-Za-z0-9_-]`.
#[must_use]
pub fn is_agent_token(text: &str) -> bool {
    text.len() == AGENT_PREFIX.len() + 43 && text.starts_with(AGENT_PREFIX) && is_key(text)
}

/// Whether the text has the form of a key: the prefix and 32 or more of `[A-Za-z0-9_-]`.
#[must_use]
pub fn is_key(text: &str) -> bool {
    text.strip_prefix(KEY_PREFIX).is_some_and(|rest| {
        rest.len() >= 32 && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    })
}

/// The part of a key that is kept in clear.
#[must_use]
pub fn indexed_prefix(key: &str) -> &str {
    key.get(..KEY_PREFIX.len() + INDEXED_CHARS).unwrap_or(key)
}

/// What is kept of a key or a token: SHA-256 in hex. It has 256 random bits, so no slow hash is needed.
#[must_use]
pub fn hash_key(key: &str) -> String {
    Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_has_the_form_of_a_key() {
        let key = generate_key();
        assert!(is_key(&key), "{key}");
        assert_eq!(indexed_prefix(&key).len(), 15);
        assert_ne!(hash_key(&key), hash_key(&generate_key()));
    }

    #[test]
    fn an_agents_token_is_told_from_other_keys() {
        let token = generate_agent_token();
        assert!(is_agent_token(&token), "{token}");
        assert!(
            !is_agent_token(&generate_key()) && !is_agent_token(&token[1..]) && !is_agent_token(&format!("{token}x"))
        );
    }

    #[test]
    fn other_texts_are_not_keys() {
        for text in [
            "",
            "errand_",
            "errand_short",
            "sk-0123456789012345678901234567890123456789",
            "errand_0123456789012345678901234567890/",
        ] {
            assert!(!is_key(text), "{text}");
        }
    }
}
