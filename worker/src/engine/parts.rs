//! A message's parts, as models take them: text, images, documents.

use std::{collections::BTreeMap, fmt::Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use errand_common::domain::{AttachmentContent, AttachmentRef, Role};

use super::Turn;

/// Images that models take.
const IMAGES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];

/// A part of a message. Data is in standard Base64.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Part<'a> {
    /// Words.
    Text(String),
    /// A picture.
    Image { media_type: &'a str, data: &'a str },
    /// A PDF.
    Document { name: &'a str, media_type: &'a str, data: &'a str },
}

/// Who said what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Saying<'a> {
    pub(super) role: Role,
    /// At least one.
    pub(super) parts: Vec<Part<'a>>,
}

/// The conversation up to the turn's prompt, which is the last. It begins with a user's message, and none is empty: servers
/// insist on both.
pub(super) fn conversation(turn: &Turn) -> Vec<Saying<'_>> {
    let history = turn.history.iter().map(|message| Saying {
        role: message.role,
        parts: parts(&message.content, &message.attachments, &turn.contents),
    });
    let prompt = Saying { role: Role::User, parts: parts(&turn.prompt, &turn.attachments, &turn.contents) };
    let spoken = history.chain([prompt]).filter(|saying| !saying.parts.is_empty());
    spoken.skip_while(|saying| saying.role == Role::Assistant).collect()
}

/// Attachments come before the words about them.
fn parts<'a>(
    text: &str,
    attachments: &'a [AttachmentRef],
    contents: &'a BTreeMap<String, AttachmentContent>,
) -> Vec<Part<'a>> {
    let attached = attachments.iter().map(|attachment| part(attachment, contents));
    let words = (!text.trim().is_empty()).then(|| Part::Text(text.to_owned()));
    attached.chain(words).collect()
}

/// What can't be shown is named, so that the model knows of it.
fn part<'a>(attachment: &'a AttachmentRef, contents: &'a BTreeMap<String, AttachmentContent>) -> Part<'a> {
    let name = attachment.file_name.as_deref().unwrap_or("unnamed");
    let media_type = attachment.media_type.as_str();
    let absent = |why: &str| Part::Text(format!("[attachment {name:?} ({media_type}): {why}]"));
    let Some(content) = contents.get(&attachment.hash) else { return absent("its content is no longer kept") };
    if IMAGES.contains(&media_type) {
        return Part::Image { media_type, data: &content.base64 };
    }
    if media_type == "application/pdf" {
        return Part::Document { name, media_type, data: &content.base64 };
    }
    let is_text = media_type.starts_with("text/") || media_type == "application/json";
    let text =
        STANDARD.decode(&content.base64).ok().filter(|_| is_text).and_then(|bytes| String::from_utf8(bytes).ok());
    match text {
        Some(text) => {
            let mut framed = format!("[attachment {name:?} ({media_type})]\n");
            let _ = write!(framed, "{text}\n[end of {name:?}]");
            Part::Text(framed)
        }
        None => absent("of a type that this model is not shown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::trial::turn;

    fn attachment(name: &str, media_type: &str) -> AttachmentRef {
        AttachmentRef { hash: name.into(), media_type: media_type.into(), file_name: Some(name.into()), size: 2 }
    }

    #[test]
    fn each_attachment_is_shown_in_its_own_form_or_at_least_named() {
        let mut turn = turn("look");
        turn.attachments = vec![
            attachment("a.png", "image/png"),
            attachment("b.pdf", "application/pdf"),
            attachment("c.txt", "text/plain"),
            attachment("d.zip", "application/zip"),
            attachment("gone", "image/png"),
        ];
        for kept in turn.attachments.iter().take(4) {
            let content = AttachmentContent { hash: kept.hash.clone(), base64: "aGk=".into(), size: 2 };
            turn.contents.insert(kept.hash.clone(), content);
        }
        let conversation = conversation(&turn);
        let [prompt] = conversation.as_slice() else { panic!("one message") };
        assert_eq!(prompt.parts[0], Part::Image { media_type: "image/png", data: "aGk=" });
        assert_eq!(prompt.parts[1], Part::Document { name: "b.pdf", media_type: "application/pdf", data: "aGk=" });
        let words = |part: &Part<'_>| if let Part::Text(text) = part { text.clone() } else { panic!("text") };
        assert_eq!(words(&prompt.parts[2]), "[attachment \"c.txt\" (text/plain)]\nhi\n[end of \"c.txt\"]");
        assert!(words(&prompt.parts[3]).contains("d.zip") && words(&prompt.parts[4]).contains("no longer kept"));
        assert_eq!(words(&prompt.parts[5]), "look");
    }
}
