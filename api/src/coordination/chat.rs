//! Whom an item in a board's chat is brought to: the lead, and whoever is mentioned; a command goes to all. Never to its writer.

use errand_common::{
    domain::{
        AgentId, JobId, RetryPolicy,
        coordination::{
            Agent, AgentRole, Board,
            memory::{Command, mentions},
            text::{board_chat, trace_id},
        },
    },
    port::store::{NewCoordination, NewJob, Window},
    wire::coordination::{MessagePayload, NOTICE, Recipient, VERSION},
};

use crate::limit;

/// The name by which a board's lead is mentioned, whatever it is called.
const LEAD: &str = "lead";
const QUEUE: &str = "default";

/// Who wrote an item.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer<'a> {
    pub(crate) agent_id: Option<AgentId>,
    pub(crate) name: &'a str,
}

/// The notices of an item: what `agents`, those of the board, are sent.
pub(crate) fn notices(
    base_url: &str,
    board: &Board,
    agents: &[Agent],
    writer: Writer<'_>,
    content: &str,
) -> Vec<NewJob> {
    let others = agents.iter().filter(|agent| Some(agent.id) != writer.agent_id);
    if let Some(command) = Command::of(content) {
        // Who was never made has nothing to stop.
        let there = others.filter(|agent| agent.bound || agent.provisioned_at.is_some());
        return there.map(|agent| notice(board, agent, writer, command.as_str().to_owned(), true)).collect();
    }
    others
        .filter_map(|agent| {
            let is_lead = agent.role == AgentRole::Lead;
            let mentioned = mentions(content, &agent.name) || (is_lead && mentions(content, LEAD));
            let message = || board_chat(base_url, board, writer.name, content, mentioned);
            (is_lead || mentioned).then(|| notice(board, agent, writer, message(), false))
        })
        .collect()
}

fn notice(board: &Board, agent: &Agent, writer: Writer<'_>, message: String, deliver: bool) -> NewJob {
    let id = JobId::new();
    let payload = MessagePayload {
        recipient: Recipient::Agent { agent_id: agent.id },
        board_id: Some(board.id),
        message,
        deliver,
        question_id: None,
        trace_id: trace_id("coord.notice", None, id),
        actor_id: writer.agent_id,
    };
    let window = Window { length: limit::DELIVERY_WINDOW, from_send: false };
    NewJob {
        id,
        tenant: board.tenant.clone(),
        kind: NOTICE.to_owned(),
        queue: QUEUE.to_owned(),
        priority: errand_common::domain::Priority::default(),
        // It always serialises: it has string keys only.
        payload: serde_json::to_value(payload).unwrap_or_default(),
        payload_version: VERSION,
        retry: RetryPolicy::MESSAGE,
        timeout_ms: Some(limit::MESSAGE_TIMEOUT_SECONDS * 1_000),
        run_at: None,
        expires_at: None,
        deadline: None,
        metadata: None,
        retry_of: None,
        user_id: None,
        task: None,
        dedup: None,
        children: Vec::new(),
        coordination: Some(NewCoordination { told: None, window: Some(window), question: None, broadcast: None }),
        webhook: None,
        trace: None,
    }
}

#[cfg(test)]
mod tests {
    use errand_common::domain::{GatewayId, Timestamp};

    use super::*;
    use crate::coordination::policy::tests::{agent, board};

    #[test]
    fn the_lead_and_the_mentioned_hear_of_chat_and_the_writer_does_not() {
        let gateway = GatewayId::new();
        let board = board(Some(gateway));
        let named = |role, name: &str| Agent { name: name.to_owned(), ..agent(role, gateway, Some(board.id)) };
        let agents = [named(AgentRole::Lead, "Boss"), named(AgentRole::Worker, "Ada"), named(AgentRole::Worker, "Bob")];
        let told = |writer: Option<AgentId>, content: &str| -> Vec<(String, String)> {
            let writer = Writer { agent_id: writer, name: "Someone" };
            let notices = notices("http://x", &board, &agents, writer, content);
            let text = |notice: &NewJob, field: &str| notice.payload[field].as_str().expect("text").to_owned();
            notices
                .iter()
                .map(|notice| {
                    assert_eq!((notice.kind.as_str(), &notice.payload["deliver"]), (NOTICE, &false.into()));
                    let header = text(notice, "message").lines().next().expect("a header").to_owned();
                    (text(notice, "agent_id"), header)
                })
                .collect()
        };
        let (chat, mention) = ("BOARD CHAT".to_owned(), "BOARD CHAT MENTION".to_owned());
        let id = |place: usize| agents[place].id.to_string();
        assert_eq!(told(None, "hello"), [(id(0), chat.clone())]);
        assert_eq!(told(None, "@ada, look"), [(id(0), chat), (id(1), mention.clone())]);
        assert_eq!(told(Some(agents[1].id), "@lead and @ada"), [(id(0), mention)]);
        assert!(told(Some(agents[0].id), "hello").is_empty());
    }

    #[test]
    fn a_command_goes_to_all_who_are_there_and_may_be_delivered() {
        let gateway = GatewayId::new();
        let board = board(Some(gateway));
        let there =
            Agent { provisioned_at: Some(Timestamp::default()), ..agent(AgentRole::Worker, gateway, Some(board.id)) };
        let (writer, never) = (there.clone(), agent(AgentRole::Worker, gateway, Some(board.id)));
        let writer = Agent { id: AgentId::new(), ..writer };
        let agents = [there.clone(), writer.clone(), never];
        let by = Writer { agent_id: Some(writer.id), name: "x" };
        let notices = notices("http://x", &board, &agents, by, " /PAUSE ");
        assert_eq!(notices.len(), 1);
        let payload = &notices[0].payload;
        assert_eq!(payload["message"], "/pause");
        assert_eq!((&payload["deliver"], &payload["agent_id"]), (&true.into(), &there.id.to_string().into()));
    }
}
