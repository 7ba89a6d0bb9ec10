//! The attachments that an engine is given with a prompt: the prompt's own, and the newest of the conversation.

use std::collections::BTreeMap;

use errand_common::domain::{AttachmentContent, AttachmentRef, FailureClass};

use super::{RunContext, asking::ask};
use crate::engine::{Turn, TurnFailure};

/// Brings the contents into the turn. What of the history is too old to fit within `limit` bytes, is kept no longer, or
/// means nothing to the engine, is replaced by a note in the message it came with.
pub(super) async fn load(
    turn: &mut Turn,
    engine_takes_them: bool,
    limit: u64,
    context: &RunContext,
) -> Result<(), TurnFailure> {
    if turn.attachments.is_empty() && turn.history.iter().all(|message| message.attachments.is_empty()) {
        return Ok(());
    }
    let wanted = if engine_takes_them { choose(turn, limit) } else { Vec::new() };
    if !wanted.is_empty() {
        let (store, tenant) = (&context.backend.store, turn.tenant.as_str());
        let contents =
            ask(context, "ATTACHMENTS_UNREADABLE", "attachments", || store.attachments(tenant, &wanted)).await?;
        turn.contents = contents.into_iter().map(|content| (content.hash.clone(), content)).collect();
    }
    leave_out(turn);
    if engine_takes_them { all_of_the_prompt_are_there(turn) } else { Ok(()) }
}

/// The contents to ask for: all of the prompt's, then those of the history from the newest to the first that doesn't fit.
fn choose(turn: &Turn, limit: u64) -> Vec<String> {
    let mut wanted: Vec<String> = turn.attachments.iter().map(|attachment| attachment.hash.clone()).collect();
    let mut left = limit;
    for attachment in turn.history.iter().rev().flat_map(|message| message.attachments.iter().rev()) {
        if wanted.contains(&attachment.hash) {
            continue;
        }
        if attachment.size > left {
            break;
        }
        left -= attachment.size;
        wanted.push(attachment.hash.clone());
    }
    wanted
}

/// Puts notes where the history's attachments are that have no content in the turn.
fn leave_out(turn: &mut Turn) {
    let contents: &BTreeMap<String, AttachmentContent> = &turn.contents;
    for message in &mut turn.history {
        for attachment in message.attachments.extract_if(.., |attachment| !contents.contains_key(&attachment.hash)) {
            if !message.content.is_empty() {
                message.content.push('\n');
            }
            message.content += &note(&attachment);
        }
    }
}

fn note(attachment: &AttachmentRef) -> String {
    let AttachmentRef { media_type, file_name, .. } = attachment;
    match file_name {
        Some(name) => format!("[attachment left out: {name}, {media_type}]"),
        None => format!("[attachment left out: {media_type}]"),
    }
}

fn all_of_the_prompt_are_there(turn: &Turn) -> Result<(), TurnFailure> {
    match turn.attachments.iter().find(|attachment| !turn.contents.contains_key(&attachment.hash)) {
        None => Ok(()),
        Some(gone) => {
            let name = gone.file_name.as_deref().unwrap_or(&gone.media_type);
            let message =
                format!("the content of the attachment {name:?} is kept no longer; submit the task again with it");
            Err(TurnFailure::new(FailureClass::Invalid, "ATTACHMENT_GONE", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use errand_common::domain::{Message, MessageId, Role, SessionId, Timestamp};

    use super::*;
    use crate::engine::trial::turn;

    fn attachment(name: &str, size: u64) -> AttachmentRef {
        AttachmentRef {
            hash: format!("hash of {name}"),
            media_type: "image/png".into(),
            file_name: Some(name.into()),
            size,
        }
    }

    fn message(content: &str, attachments: Vec<AttachmentRef>) -> Message {
        Message {
            id: MessageId::new(),
            session_id: SessionId::new(),
            job_id: None,
            role: Role::User,
            content: content.into(),
            attachments,
            ordinal: 1,
            created_at: Timestamp::default(),
        }
    }

    fn a_turn() -> Turn {
        let history = vec![
            message("first", vec![attachment("old.png", 5)]),
            message("second", vec![attachment("mid.png", 6), attachment("new.png", 4)]),
            message("", vec![attachment("now.png", 100)]),
        ];
        Turn { history, attachments: vec![attachment("now.png", 100)], ..turn("look") }
    }

    fn with_contents(mut turn: Turn, limit: u64) -> Turn {
        let kept = choose(&turn, limit);
        let content = |hash: String| AttachmentContent { hash, base64: String::new(), size: 0 };
        turn.contents = kept.into_iter().map(|hash| (hash.clone(), content(hash))).collect();
        leave_out(&mut turn);
        turn
    }

    #[test]
    fn the_prompts_own_are_always_given_and_the_historys_from_the_newest_on() {
        // What the prompt brings anyway counts nothing when the history names it too.
        let [now, new, mid, old] = ["now", "new", "mid", "old"].map(|name| format!("hash of {name}.png"));
        assert_eq!(choose(&a_turn(), 15), [now.clone(), new.clone(), mid, old]);
        assert_eq!(choose(&a_turn(), 9), [now.clone(), new]);
        assert_eq!(choose(&a_turn(), 0), [now]);
    }

    #[test]
    fn a_note_stands_in_for_what_is_left_out() {
        let turn = with_contents(a_turn(), 9);
        let said: Vec<_> = turn.history.iter().map(|message| message.content.as_str()).collect();
        assert_eq!(
            said,
            [
                "first\n[attachment left out: old.png, image/png]",
                "second\n[attachment left out: mid.png, image/png]",
                "",
            ]
        );
        assert_eq!(turn.history[1].attachments, [attachment("new.png", 4)]);
        assert!(turn.history[0].attachments.is_empty());
    }

    #[test]
    fn a_prompt_without_its_attachment_is_not_run() {
        let mut turn = with_contents(a_turn(), 0);
        assert!(all_of_the_prompt_are_there(&turn).is_ok());
        turn.contents.clear();
        let failure = all_of_the_prompt_are_there(&turn).expect_err("it is gone");
        assert_eq!(failure.code, "ATTACHMENT_GONE");
        assert!(failure.message.contains("now.png"), "{}", failure.message);
    }
}
