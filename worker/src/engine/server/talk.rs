//! A turn: the model is asked, its tools are run, and it is asked again, until it says no more than text.

use errand_common::domain::{Decision, EventType, FailureClass, NewEvent, ToolCall};
use serde_json::json;

use super::{
    Server, attempt,
    progress::{Progress, Use},
    protocol::Protocol,
};
use crate::engine::{Turn, TurnContext, TurnEnd, TurnFailure, code, toolbox::ToolResult};

/// Runs a turn to its end, or goes on with one that an earlier run left.
pub(super) async fn talk(
    server: &Server,
    protocol: &mut dyn Protocol,
    turn: &Turn,
    context: &TurnContext,
) -> Result<TurnEnd, TurnFailure> {
    let key = server.key().map_err(|reason| TurnFailure::new(FailureClass::Fatal, code::ENGINE_UNAVAILABLE, reason))?;
    let mut progress = Progress::left(turn, &server.model);
    if !progress.rounds.is_empty() {
        // Whether the text of the earlier run still stands is not known here.
        context.retract(&progress.text()).await?;
    }
    loop {
        let used_up = progress.rounds.len() >= turn.max_turns.max(1) as usize;
        // A tool whose answer nobody would read is not run.
        if used_up {
            let rounds = progress.rounds.len();
            let message = format!("the turn did not end within {rounds} requests to the model (`maxTurns`)");
            return Err(TurnFailure::new(FailureClass::Fatal, code::MAX_TURNS, message));
        }
        if progress.waits_for_tools() {
            use_tools(server, &mut progress, turn, context).await?;
        }
        if !progress.rounds.is_empty() {
            context.unless_stopped(context.link.next_turn()).await?;
        }
        let asking = attempt::ask(server, protocol, &progress, key.as_ref(), context);
        let answer = context.unless_stopped(asking).await?;
        progress.push(&answer);
        for Use { call, .. } in progress.uses() {
            let data = json!({ "toolName": call.tool, "input": call.input, "toolUseId": call.id });
            context.emit(NewEvent::new(EventType::ToolUse, data)).await?;
        }
        if !answer.calls.is_empty() || answer.paused {
            continue;
        }
        if let Some(note) = answer.note {
            context.emit(NewEvent::new(EventType::Progress, json!({ "message": note }))).await?;
        }
        if progress.rounds.len() > 1 {
            context.link.checkpoint(Progress::over(turn, &server.name));
        }
        return Ok(TurnEnd { text: progress.text(), model: answer.model });
    }
}

/// Asks about all calls of the last answer at once, then runs them one after the other. What was started is written down before
/// it starts, so that a later run repeats nothing.
async fn use_tools(
    server: &Server,
    progress: &mut Progress,
    turn: &Turn,
    context: &TurnContext,
) -> Result<(), TurnFailure> {
    let keep = async |progress: &Progress| {
        let state = progress.keep(turn, &server.name, &server.model);
        context.link.checkpoint(state.clone());
        context.unless_stopped(context.link.keep_state(state)).await
    };
    let open = progress.uses().iter().enumerate().filter(|(_, one)| one.result.is_none() && !one.started);
    let (places, to_ask): (Vec<usize>, Vec<ToolCall>) = open
        .filter(|(_, one)| server.tools.asks(&one.call, turn))
        .map(|(number, one)| (number, one.call.clone()))
        .unzip();
    let mut decisions = Vec::new();
    if !to_ask.is_empty() {
        keep(progress).await?;
        decisions = context.link.approve(to_ask).await?;
    }
    // By its place among the calls: ids are the model's.
    let denied = |number: usize| {
        let asked = places.iter().position(|place| *place == number)?;
        match decisions.get(asked) {
            Some(Decision::Allow) => None,
            Some(Decision::Deny { message }) => Some(message.clone()),
            None => Some("nobody decided about this tool call".to_owned()),
        }
    };
    for number in 0..progress.uses().len() {
        let Some(one) = progress.uses().get_mut(number).filter(|one| one.result.is_none()) else { continue };
        let call = one.call.clone();
        let result = if one.started {
            let words =
                "the worker was lost while this tool ran; whether it took effect is not known, so it was not run again";
            ToolResult::error(words)
        } else if let Some(message) = denied(number) {
            ToolResult::error(message)
        } else {
            one.started = true;
            keep(progress).await?;
            server.tools.run(&call, turn, context).await?
        };
        let data = json!({
            "toolName": call.tool, "output": result.content, "isError": result.is_error, "toolUseId": call.id,
        });
        context.emit(NewEvent::new(EventType::ToolResult, data)).await?;
        if let Some(one) = progress.uses().get_mut(number) {
            one.result = Some(result);
        }
    }
    keep(progress).await
}
