//! Text as it comes out of programs and servers, made fit to be kept.

/// Decodes UTF-8 that arrives in pieces: a piece never ends within a character. What is not UTF-8, and U+0000, which
/// databases refuse, become U+FFFD.
#[derive(Debug, Default)]
pub(super) struct Utf8Decoder {
    /// The beginning of a character whose rest has not come.
    partial: Vec<u8>,
}

impl Utf8Decoder {
    /// The text that is complete with `bytes`.
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        self.partial.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.partial.len());
        let mut rest = self.partial.as_slice();
        while !rest.is_empty() {
            let error = match str::from_utf8(rest) {
                Ok(whole) => {
                    text.push_str(whole);
                    rest = &[];
                    break;
                }
                Err(error) => error,
            };
            let (valid, after) = rest.split_at(error.valid_up_to());
            text.push_str(&String::from_utf8_lossy(valid));
            let Some(invalid) = error.error_len() else {
                rest = after;
                break;
            };
            text.push(char::REPLACEMENT_CHARACTER);
            rest = after.get(invalid..).unwrap_or_default();
        }
        self.partial = rest.to_vec();
        without_nul(text)
    }

    /// What is left when no more bytes come.
    pub(super) fn finish(self) -> String {
        without_nul(String::from_utf8_lossy(&self.partial).into_owned())
    }
}

/// The text with U+FFFD for each U+0000.
pub(super) fn without_nul(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{FFFD}") } else { text }
}

/// The first `limit` bytes, rounded down to whole characters, with a mark if something was cut off.
pub(super) fn excerpt(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(limit)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(pieces: &[&[u8]]) -> Vec<String> {
        let mut decoder = Utf8Decoder::default();
        let mut texts: Vec<String> = pieces.iter().map(|piece| decoder.push(piece)).collect();
        texts.push(decoder.finish());
        texts
    }

    #[test]
    fn a_character_is_never_split() {
        assert_eq!(decode(&[b"a\xe4\xbd", b"\xa0b"]), ["a", "\u{4f60}b", ""]);
    }

    #[test]
    fn what_is_not_utf8_is_replaced() {
        assert_eq!(decode(&[b"a\xffb\x00c", b"\xe4\xbd"]), ["a\u{FFFD}b\u{FFFD}c", "", "\u{FFFD}"]);
    }

    #[test]
    fn an_excerpt_ends_with_a_whole_character() {
        assert_eq!(excerpt("\u{4f60}\u{597d}", 4), "\u{4f60}…");
        assert_eq!(excerpt("short", 5), "short");
    }

    proptest! {
        #[test]
        fn pieces_decode_like_the_whole(bytes in proptest::collection::vec(1_u8.., 0..200), size in 1_usize..9) {
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            prop_assert_eq!(decode(&pieces).concat(), String::from_utf8_lossy(&bytes));
        }
    }
}
