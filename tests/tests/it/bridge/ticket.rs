//! Tickets for streams: one use, in place of a credential.

use errand_tests::{Client, Errand, both_modes};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest};

async fn ticket(client: &Client) -> String {
    let answer = client.post("/stream/tickets", &json!({})).await;
    assert_eq!((answer.status, &answer.body["expires_in"]), (200, &json!(30)), "{answer:?}");
    answer.body["ticket"].as_str().expect("a ticket").to_owned()
}

/// Opens a socket by ticket, subscribes to a job, and says the first answer; or the refusal's status.
async fn opened(errand: &Errand, ticket: &str, job: &str) -> Result<Value, u16> {
    let url = format!("{}/api/v1/stream?ticket={ticket}", errand.url().replace("http", "ws"));
    let mut request = url.into_client_request().expect("a request");
    request.headers_mut().insert("sec-websocket-protocol", "errand.v1".parse().expect("a value"));
    let mut socket = match tokio_tungstenite::connect_async(request).await {
        Ok((socket, _)) => socket,
        Err(tungstenite::Error::Http(response)) => return Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    };
    let subscribe = json!({"type": "subscribe", "id": 1, "stream": format!("job:{job}")});
    socket.send(Message::text(subscribe.to_string())).await.expect("sent");
    let heard = errand_tests::wait::bounded("a frame", socket.next()).await.expect("a frame").expect("no error");
    Ok(serde_json::from_str(heard.to_text().expect("text")).expect("JSON"))
}

both_modes! {
    async fn a_ticket_opens_one_stream_and_no_other(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "hello"})).await;
        client.wait_for_completion(&task.id).await;
        let good = ticket(client).await;
        let heard = opened(&errand, &good, &task.id).await.expect("it is good");
        assert_eq!(heard["type"], "subscribed", "{heard}");
        assert_eq!(opened(&errand, &good, &task.id).await, Err(401), "it was used");
        let at_once = ticket(client).await;
        let (one, other) = tokio::join!(opened(&errand, &at_once, &task.id), opened(&errand, &at_once, &task.id));
        assert_eq!(usize::from(one.is_ok()) + usize::from(other.is_ok()), 1, "{one:?} {other:?}");
        assert_eq!(opened(&errand, "errand_ticket_forged", &task.id).await, Err(401));
        assert!(!errand.log().contains(&good), "a ticket is in the log");
        errand.finish().await;
    }

    async fn a_ticket_is_worth_no_more_than_the_key_it_stands_for(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let made = client.post("/keys", &json!({"name": "short-lived", "scopes": ["jobs:read"]})).await;
        assert_eq!(made.status, 200, "{made:?}");
        let key = made.body["key"].as_str().or(made.body["secret"].as_str()).expect("the key").to_owned();
        let ticket = ticket(&client.with_key(&key)).await;
        let id = made.body["id"].as_str().expect("an id");
        assert_eq!(client.delete(&format!("/keys/{id}")).await.status, 200);
        assert_eq!(opened(&errand, &ticket, "01890a5d-ac96-774b-bcce-b302099a8057").await, Err(401));
        errand.finish().await;
    }
}
