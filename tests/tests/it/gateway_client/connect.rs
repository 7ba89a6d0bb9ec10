//! Greeting, credentials, and what follows when there is no connection.

use std::{process::Command, sync::Arc, time::Duration};

use errand_common::domain::FailureClass;
use errand_tests::{
    fake_gateway::{FakeGateway, Fault, Options},
    run::run,
    wait,
};
use errand_worker::gateway::{
    Access, Devices, Gateway, GatewayFailure, Target, Unanswered,
    failure::code::{
        ADDRESS_NOT_ALLOWED, AUTH, NOT_PAIRED, PROTOCOL, RATE_LIMITED, RESTARTING, SCOPE, TIMEOUT, TLS, UNREACHABLE,
        WORKER_BUSY,
    },
};
use futures::future::join_all;
use serde_json::json;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use super::World;

/// Nothing was sent: why.
async fn refusal(gateway: &Gateway) -> GatewayFailure {
    match gateway.status().await {
        Err(Unanswered::Refused(failure)) => failure,
        other => panic!("refused is wanted: {other:?}"),
    }
}

#[test]
fn one_connection_serves_all_requests_of_a_worker() {
    run(async {
        let world = World::with(Options::default(), |gateways| gateways.request_timeout_seconds = 30).await;
        let gateway = world.gateway();
        let answers = join_all((0..300).map(|_| async { world.gateway().status().await })).await;
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!((world.fake.connections(), world.fake.requests("connect").len()), (1, 1));
        let (version, boot_id) = gateway.identity().await.expect("connected");
        assert_eq!((version.as_str(), boot_id), ("fake", world.fake.boot_id()));
        let connect = &world.fake.requests("connect")[0];
        assert_eq!((&connect["minProtocol"], &connect["maxProtocol"]), (&json!(3), &json!(4)));
        assert!(connect["device"]["signature"].is_string());
    });
}

#[test]
fn protocols_three_and_four_are_spoken() {
    run(async {
        for (protocol, expected) in [(3..=3, None), (4..=4, None), (3..=4, None), (5..=6, Some(PROTOCOL))] {
            let world = World::with(Options { protocol: protocol.clone(), ..Options::default() }, |_| {}).await;
            let found = world.gateway().status().await.err().map(|unanswered| unanswered.failure().code);
            assert_eq!(found, expected, "{protocol:?}");
        }
    });
}

#[test]
fn an_older_gateway_is_shown_the_older_signature() {
    run(async {
        let world = World::with(Options { old_signatures: true, ..Options::default() }, |_| {}).await;
        let gateway = world.gateway();
        gateway.status().await.expect("let in at the second try");
        world.fake.cut();
        wait::until("the connection is made again", || async { gateway.status().await.ok() }).await;
        assert_eq!(world.fake.requests("connect").len(), 3, "it is remembered which one it understands");
    });
}

#[test]
fn a_wrong_token_is_not_shown_again_and_again() {
    run(async {
        let world = World::new().await;
        let gateway = world.pool.gateway(&world.target(Some("wrong-token"), Access::Device)).expect("room");
        let first = refusal(&gateway).await;
        assert_eq!((first.class, first.code), (FailureClass::Auth, AUTH));
        let pause = first.retry_after.expect("a pause");
        assert!(pause > Duration::from_secs(50), "{pause:?}");
        for _ in 0..20 {
            assert_eq!(refusal(&gateway).await.code, AUTH);
        }
        assert_eq!(world.fake.connections(), 1);
        // A corrected token is another credential, and is tried at once.
        world.gateway().status().await.expect("let in");
    });
}

#[test]
fn each_refusal_of_the_greeting_has_its_class() {
    run(async {
        let refuse = |code: &str, details: &str| {
            Fault::Refuse(json!({"code": code, "message": "refused", "details": {"code": details}}))
        };
        let starting = json!({"code": "UNAVAILABLE", "message": "gateway starting; retry shortly", "retryable": true,
            "retryAfterMs": 500, "details": {"reason": "startup-sidecars"}});
        for (method, fault, class, code) in [
            ("connect", refuse("INVALID_REQUEST", "AUTH_TOKEN_MISMATCH"), FailureClass::Auth, AUTH),
            ("connect", refuse("INVALID_REQUEST", "DEVICE_AUTH_NONCE_MISMATCH"), FailureClass::Auth, AUTH),
            ("connect", refuse("NOT_PAIRED", "PAIRING_REQUIRED"), FailureClass::Auth, NOT_PAIRED),
            ("connect", refuse("INVALID_REQUEST", "AUTH_SCOPE_MISMATCH"), FailureClass::Auth, SCOPE),
            ("connect", refuse("INVALID_REQUEST", "AUTH_RATE_LIMITED"), FailureClass::RateLimited, RATE_LIMITED),
            ("connect", refuse("INVALID_REQUEST", "PROTOCOL_MISMATCH"), FailureClass::Invalid, PROTOCOL),
            ("connect", Fault::Refuse(starting), FailureClass::Transient, RESTARTING),
            ("connect", Fault::Answer(json!({"protocol": 9})), FailureClass::Invalid, PROTOCOL),
            ("connect", Fault::Answer(json!({"auth": {"scopes": []}})), FailureClass::Auth, SCOPE),
            ("connect", Fault::Answer(json!("hello")), FailureClass::Invalid, PROTOCOL),
            ("connect", Fault::Close(1008, "pairing required"), FailureClass::Auth, NOT_PAIRED),
            ("connect", Fault::Close(1013, "starting"), FailureClass::Transient, RESTARTING),
            ("connect", Fault::Hang, FailureClass::Transient, TIMEOUT),
            ("upgrade", Fault::Status(503), FailureClass::Transient, UNREACHABLE),
            ("upgrade", Fault::Status(429), FailureClass::RateLimited, RATE_LIMITED),
            ("upgrade", Fault::Status(403), FailureClass::Auth, AUTH),
            ("upgrade", Fault::Status(404), FailureClass::Invalid, PROTOCOL),
        ] {
            let world = World::new().await;
            world.fake.fail(method, [fault.clone()]);
            let failure = refusal(&world.gateway()).await;
            assert_eq!((failure.class, failure.code), (class, code), "{fault:?}: {failure}");
            assert!(failure.retry_after.is_some(), "{fault:?}");
        }
    });
}

#[test]
fn a_device_is_paired_once_and_comes_back_with_its_own_token() {
    run(async {
        let world = World::with(Options { approves: true, ..Options::default() }, |_| {}).await;
        let first = world.gateway();
        let failure = refusal(&first).await;
        assert_eq!((failure.class, failure.code), (FailureClass::Auth, NOT_PAIRED));
        let request_id = failure.details["requestId"].as_str().expect("an id");
        assert!(failure.message.contains(&format!("approve {request_id}")), "it says what to do: {failure}");
        assert_eq!(world.fake.waiting_devices().len(), 1);
        world.fake.approve_devices();
        assert_eq!(refusal(&first).await.code, NOT_PAIRED, "it is left alone for a while");
        first.try_again().await;
        first.status().await.expect("paired");

        // Another worker: the same device.
        let second = world.another_worker(|_| {});
        let token = Options::default().token;
        let target = world.target(token.as_deref(), Access::Device);
        second.gateway(&target).expect("room").status().await.expect("paired");
        assert!(world.fake.waiting_devices().is_empty());

        // The shared token is changed; the device's own still opens.
        world.fake.set_token("another-token");
        let third = world.another_worker(|_| {});
        third.gateway(&target).expect("room").status().await.expect("let in by the device's token");
        let without = world.target(None, Access::Device);
        third.gateway(&without).expect("room").status().await.expect("let in by the device's token alone");

        // Taken back: refused, and forgotten.
        world.fake.revoke_device_tokens();
        let fourth = world.another_worker(|_| {});
        assert_eq!(refusal(&fourth.gateway(&without).expect("room")).await.code, AUTH);
        let kept = world.devices.device(world.id, errand_common::config::Secret::new(String::new())).await;
        assert_eq!(kept.expect("kept").token, None);
    });
}

#[test]
fn the_control_page_comes_without_a_device() {
    run(async {
        let world = World::new().await;
        let token = Options::default().token;
        let target = world.target(token.as_deref(), Access::ControlUi);
        world.pool.gateway(&target).expect("room").status().await.expect("let in");
        let connect = &world.fake.requests("connect")[0];
        assert_eq!(connect["client"]["id"], "openclaw-control-ui");
        assert!(connect.get("device").is_none());
    });
}

#[test]
fn what_the_scopes_don_t_allow_is_not_even_sent() {
    run(async {
        let world = World::with(Options { scopes: vec!["operator.read"], ..Options::default() }, |_| {}).await;
        let gateway = world.gateway();
        gateway.status().await.expect("may read");
        let Err(Unanswered::Refused(failure)) = gateway.ensure_session("main", None).await else { panic!("refused") };
        assert_eq!((failure.class, failure.code), (FailureClass::Auth, SCOPE));
        assert!(failure.message.contains("operator.write"), "{failure}");
        assert!(world.fake.requests("sessions.patch").is_empty());

        let world = World::with(Options { scopes: vec![], ..Options::default() }, |_| {}).await;
        assert_eq!(refusal(&world.gateway()).await.code, SCOPE);
    });
}

#[test]
fn certificates_count_unless_they_are_switched_off() {
    run(async {
        let folder = tempfile::tempdir().expect("a folder");
        let (key, certificate) = (folder.path().join("key.pem"), folder.path().join("certificate.pem"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=gateway.example", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .expect("openssl");
        assert!(made.status.success(), "{made:?}");
        let certificates = vec![CertificateDer::from_pem_file(&certificate).expect("a certificate")];
        let tls = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(certificates, PrivateKeyDer::from_pem_file(&key).expect("a key"))
            .expect("they fit");
        let tls = Some(TlsAcceptor::from(Arc::new(tls)));
        let world = World::with(Options { tls, ..Options::default() }, |_| {}).await;
        let failure = refusal(&world.gateway()).await;
        assert_eq!((failure.class, failure.code), (FailureClass::Invalid, TLS), "{failure}");
        let token = Options::default().token.map(errand_common::config::Secret::new);
        let careless = Target::new(world.id, &world.fake.url(), token, Access::Device, true).expect("a URL");
        world.pool.gateway(&careless).expect("room").status().await.expect("nobody looks at the certificate");
    });
}

#[test]
fn addresses_that_are_not_allowed_are_not_called() {
    run(async {
        let fake = FakeGateway::start().await;
        let config = errand_common::config::Config::default();
        let pool = errand_worker::gateway::Gateways::new(
            errand_worker::gateway::Settings::new(&config),
            Arc::new(errand_worker::gateway::DevicesInMemory::default()),
        );
        for url in [fake.url(), fake.url().replace("127.0.0.1", "localhost")] {
            let target = Target::new(uuid::Uuid::nil(), &url, None, Access::Device, false).expect("a URL");
            let failure = refusal(&pool.gateway(&target).expect("room")).await;
            assert_eq!((failure.class, failure.code), (FailureClass::Invalid, ADDRESS_NOT_ALLOWED), "{url}");
        }
        assert_eq!(fake.connections(), 0);
    });
}

#[test]
fn a_gateway_that_is_away_is_asked_with_pauses_and_found_again() {
    run(async {
        let world = World::with(Options::default(), |gateways| gateways.reconnect_max_ms = 10_000).await;
        let gateway = world.gateway();
        world.fake.set_away(true);
        let started = tokio::time::Instant::now();
        let (mut dials, mut answers) = (0, 0);
        while started.elapsed() < Duration::from_secs(2) {
            let before = tokio::time::Instant::now();
            let failure = refusal(&gateway).await;
            assert!(before.elapsed() < Duration::from_secs(2), "it fails at once");
            assert!(failure.may_pass() && failure.retry_after.is_some(), "{failure:?}");
            answers += 1;
            dials += usize::from(failure.message.contains("reached") || failure.message.contains("HTTP"));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(answers > 20 && dials > 0);
        world.fake.set_away(false);
        wait::until("the gateway is found again", || async { gateway.status().await.ok() }).await;
        assert_eq!(world.fake.connections(), 1, "the others were turned away before they counted");
    });
}

#[test]
fn connections_that_nobody_uses_are_closed_and_made_again() {
    run(async {
        let world = World::with(Options::default(), |gateways| gateways.idle_seconds = 1).await;
        world.gateway().status().await.expect("answered");
        wait::until("it is closed", || async { (world.fake.open_connections() == 0).then_some(()) }).await;
        world.gateway().status().await.expect("answered");
        assert_eq!(world.fake.connections(), 2);
    });
}

#[test]
fn no_more_connections_than_allowed() {
    run(async {
        let (first, second) = (World::new().await, FakeGateway::start().await);
        let pool = first.another_worker(|gateways| gateways.max_connections = 1);
        let token = Options::default().token;
        let held = pool.gateway(&first.target(token.as_deref(), Access::Device)).expect("room");
        held.status().await.expect("answered");
        let secret = token.map(errand_common::config::Secret::new);
        let other = Target::new(uuid::Uuid::nil(), &second.url(), secret, Access::Device, false).expect("a URL");
        match pool.gateway(&other) {
            Err(Unanswered::Refused(failure)) => assert_eq!(failure.code, WORKER_BUSY),
            _ => panic!("the only connection is used"),
        }
        drop(held);
        pool.gateway(&other).expect("the unused one made room").status().await.expect("answered");
    });
}

#[test]
fn one_that_is_left_alone_goes_last() {
    run(async {
        let (first, second, third) = (World::new().await, FakeGateway::start().await, FakeGateway::start().await);
        let token = Options::default().token;
        let target = |url: &str| {
            let secret = token.clone().map(errand_common::config::Secret::new);
            Target::new(uuid::Uuid::nil(), url, secret, Access::Device, false).expect("a URL")
        };
        let pool = first.another_worker(|gateways| {
            gateways.max_connections = 2;
            gateways.refused_seconds = 60;
        });
        let refusing = target(&first.fake.url());
        first.fake.fail("upgrade", [Fault::Status(403)]);
        assert_eq!(refusal(&pool.gateway(&refusing).expect("room")).await.code, AUTH);
        pool.gateway(&target(&second.url())).expect("room").status().await.expect("answered");
        pool.gateway(&target(&third.url())).expect("the unused one made room").status().await.expect("answered");
        assert_eq!(refusal(&pool.gateway(&refusing).expect("room")).await.code, AUTH);
        assert_eq!(first.fake.connections(), 1, "it is remembered, and not knocked at again");
    });
}

#[test]
fn a_pause_that_is_asked_for_is_bounded() {
    run(async {
        for (asked, seconds) in [("18446744073709551615", 3_600), ("7", 7), ("Sun, 06 Nov 2044 08:49:37 GMT", 3_600)] {
            let world = World::new().await;
            world.fake.fail("upgrade", [Fault::ComeLater(asked)]);
            let failure = refusal(&world.gateway()).await;
            assert_eq!(
                (failure.class, failure.retry_after),
                (FailureClass::Transient, Some(Duration::from_secs(seconds)))
            );
        }
    });
}

#[test]
fn a_gateway_that_falls_silent_is_given_up() {
    run(async {
        let options = Options { mute: true, ..Options::default() };
        let world = World::with(options, |gateways| {
            (gateways.ping_seconds, gateways.request_timeout_seconds) = (1, 30);
        })
        .await;
        let started = tokio::time::Instant::now();
        match world.gateway().status().await {
            Err(Unanswered::Doubt(failure)) => assert_eq!(failure.code, TIMEOUT, "{failure}"),
            other => panic!("in doubt: {other:?}"),
        }
        let took = started.elapsed();
        assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(20), "{took:?}");
    });
}

#[test]
fn ticks_that_stop_end_a_connection_although_pings_are_answered() {
    run(async {
        // The fake's first tick comes after an hour; it says that one comes each 50 ms.
        let hello = json!({
            "protocol": 4,
            "server": {"version": "fake", "bootId": "b"},
            "auth": {"scopes": ["operator.admin"]},
            "policy": {"tickIntervalMs": 50},
        });
        let world = World::with(Options { tick: Duration::from_secs(3_600), ..Options::default() }, |gateways| {
            (gateways.ping_seconds, gateways.request_timeout_seconds) = (1, 30);
        })
        .await;
        world.fake.fail("connect", [Fault::Hello(hello)]);
        world.fake.fail("status", [Fault::Hang]);
        let started = tokio::time::Instant::now();
        match world.gateway().status().await {
            Err(Unanswered::Doubt(failure)) => assert_eq!(failure.code, TIMEOUT, "{failure}"),
            other => panic!("in doubt: {other:?}"),
        }
        assert!(started.elapsed() < Duration::from_secs(20), "the request itself would have waited longer");
    });
}
