//! The promises of the bus, run against each adapter that claims to keep them.

use std::time::Duration;

use errand_common::{
    domain::{JobId, Stream},
    port::{BusMessage, Subscription, Topic, bus::Received},
};
use errand_tests::wait::bounded;

use super::place::{Place, on_each_place};

fn topic() -> Topic {
    Topic::Stream(Stream::Job(JobId::new()))
}

fn message(topic: Topic, payload: impl Into<String>) -> BusMessage {
    BusMessage { topic, payload: payload.into().into() }
}

async fn next(subscription: &mut Subscription) -> String {
    match bounded("a message", subscription.next()).await {
        Received::Message(payload) => payload.to_string(),
        other => panic!("{other:?}"),
    }
}

async fn assert_silent(subscription: &mut Subscription) {
    let more = tokio::time::timeout(Duration::from_millis(100), subscription.next()).await;
    assert!(more.is_err(), "{more:?}");
}

on_each_place! {
    async fn what_is_published_after_the_subscription_arrives_in_order(place: Place) {
        let bus = place.bus();
        let (ours, others) = (topic(), topic());
        bus.publish(vec![message(ours, "too early")]).await.unwrap();
        let mut subscription = bus.subscribe(ours).await.unwrap();
        let mut sent = Vec::new();
        for round in 0..3 {
            let texts: Vec<_> = (0..80).map(|number| format!("{round}/{number}")).collect();
            let messages = texts.iter().flat_map(|text| [message(ours, text), message(others, "not for us")]);
            bus.publish(messages.collect()).await.unwrap();
            sent.extend(texts);
        }
        for expected in sent {
            assert_eq!(next(&mut subscription).await, expected);
        }
        assert_silent(&mut subscription).await;
    }

    async fn every_subscriber_gets_every_message_once(place: Place) {
        let bus = place.bus();
        let ours = topic();
        let mut first = bus.subscribe(ours).await.unwrap();
        let mut second = bus.subscribe(ours).await.unwrap();
        bus.publish(vec![message(ours, "one")]).await.unwrap();
        assert_eq!(next(&mut first).await, "one");
        assert_eq!(next(&mut second).await, "one");
        drop(first);
        first = bus.subscribe(ours).await.unwrap();
        bus.publish(vec![message(ours, "two ♥")]).await.unwrap();
        assert_eq!(next(&mut first).await, "two ♥");
        assert_eq!(next(&mut second).await, "two ♥");
        assert_silent(&mut first).await;
        assert_silent(&mut second).await;
    }

    async fn many_may_subscribe_at_once(place: Place) {
        let bus = place.bus();
        let topics: Vec<_> = (0..500).map(|number| if number % 2 == 0 { topic() } else { Topic::Worker(errand_common::domain::WorkerId::new()) }).collect();
        let subscriptions = topics.iter().map(|topic| bus.subscribe(*topic));
        let mut subscriptions: Vec<_> = futures::future::try_join_all(subscriptions).await.unwrap();
        bus.publish(topics.iter().map(|topic| message(*topic, topic.to_string())).collect()).await.unwrap();
        for (topic, subscription) in topics.iter().zip(&mut subscriptions) {
            assert_eq!(next(subscription).await, topic.to_string());
        }
    }

    async fn one_that_reads_too_slowly_is_told(place: Place) {
        let bus = place.bus();
        let ours = topic();
        let mut slow = bus.subscribe(ours).await.unwrap();
        let mut probe = bus.subscribe(ours).await.unwrap();
        for number in 0..1_000 {
            bus.publish(vec![message(ours, number.to_string())]).await.unwrap();
            assert_eq!(next(&mut probe).await, number.to_string());
        }
        assert!(matches!(bounded("the news", slow.next()).await, Received::Lagged));
        assert!(matches!(bounded("what is left", slow.next()).await, Received::Message(_)));
    }
}
