//! Tokens of users: which are taken, and what a user sees.

use std::time::Duration;

use errand_tests::{
    Client, Errand, Setup, both_modes,
    identity::{IdentityProvider, SigningKey, claims, claims_with, in_seconds},
    program::Programs,
    socket::{Incoming, Socket},
    sse::Sse,
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};

const SECRET: &str = "a secret of more than thirty-two bytes";

/// An Errand that trusts one key, which comes with it.
async fn trusting(setup: Setup) -> (Errand, IdentityProvider, SigningKey) {
    let (provider, key) = (IdentityProvider::start().await, SigningKey::ec("e1"));
    provider.publish(&[&key]);
    let errand = setup.section("auth", &provider.settings()).start().await;
    (errand, provider, key)
}

/// A client with this user's token.
fn user(errand: &Errand, key: &SigningKey, name: &str) -> Client {
    errand.client().with_key(&key.sign(&claims(name)))
}

/// The same prompt in a conversation that goes on until the gate opens.
async fn running_task(errand: &Errand, client: &Client) -> errand_tests::Task {
    let task = client.submit_task(&json!({"prompt": "mine", "engineType": "gated"})).await;
    errand.client().wait_for_state(&task.id, "running").await;
    task
}

/// What is not a user's own by having been made by them: gateways, boards, agents and what is left there, instances, webhooks; and what agents do
/// with their own token.
fn of_the_tenant(path: &str) -> bool {
    let families = [
        "gateways/",
        "boards/",
        "agents/",
        "questions/",
        "webhooks/",
        "agent/boards/",
        "agent/gateway/",
        "agent/instances/",
    ];
    families.iter().any(|family| path.starts_with(&format!("/api/v1/{family}")))
}

/// Every operation of the document with a parameter in its path: method, path, and whether it takes a JSON body.
async fn operations_with_a_parameter(client: &Client) -> Vec<(Method, String, bool)> {
    let document = client.get_root("/openapi.json").await.expect("a document").body;
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            if path.contains('{') && !of_the_tenant(path) {
                let method = Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method");
                let json = operation["requestBody"]["content"].get("application/json").is_some();
                found.push((method, path.clone(), json));
            }
        }
    }
    assert!(found.len() > 10, "{found:?}");
    found
}

/// Calls an operation about this task, or its conversation.
async fn call(client: &Client, task: &errand_tests::Task, (method, path, json): &(Method, String, bool)) -> u16 {
    let id = if path.contains("/sessions/") { &task.session_id } else { &task.id };
    let path = path.replace("{id}", id).replace("{queue}", "default").replace("{hash}", &"0".repeat(64));
    assert!(!path.contains('{'), "an unknown parameter: {path}");
    let mut request = client.request(method.clone(), path.strip_prefix("/api/v1").expect("of the api"));
    if *json {
        request = request.json(&json!({"message": "not yours", "approved": true}));
    }
    client.send(request).await.status
}

both_modes! {
    async fn a_user_comes_with_a_token_of_any_trusted_key_and_stays_who_they_are(setup: Setup) {
        let provider = IdentityProvider::start().await;
        let keys = [SigningKey::rsa("r"), SigningKey::ec("e"), SigningKey::ed("d")];
        provider.publish(&keys.each_ref());
        let errand = setup.section("auth", &provider.settings()).start().await;
        for key in &keys {
            let ann = user(&errand, key, "ann");
            let task = ann.submit_task(&json!({"prompt": "hello"})).await;
            let job = ann.wait_for_completion(&task.id).await;
            assert_eq!(job["payload"]["user"], json!({"id": "ann", "email": "ann@example.com"}), "{}", key.algorithm());
        }
        let plain = errand.client().submit_task(&json!({"prompt": "hello"})).await;
        let job = errand.client().wait_for_completion(&plain.id).await;
        assert_eq!(job["payload"].get("user"), None, "a key is no user");
        errand.finish().await;
    }

    async fn what_a_token_does_not_prove_is_refused(setup: Setup) {
        let provider = IdentityProvider::start().await;
        let (rsa, ec, secret) = (SigningKey::rsa("r"), SigningKey::ec("e"), SigningKey::secret("s", SECRET.as_bytes()));
        // A secret that someone published by mistake is no key.
        provider.publish(&[&rsa, &ec, &secret]);
        let settings = provider.settings() + "\naudience = \"errand\"\nleeway_seconds = 2";
        let errand = setup.section("auth", &settings).start().await;
        let good = claims_with("ann", &json!({"aud": ["other", "errand"]}));
        let with = |fields: Value| {
            let mut claims = good.clone();
            claims.as_object_mut().expect("claims").extend(fields.as_object().expect("fields").clone());
            claims.as_object_mut().expect("claims").retain(|_, value| !value.is_null());
            claims
        };
        let confused = |key: &[u8]| SigningKey::secret("r", key).sign(&good);
        let jwk = rsa.jwk();
        let unsigned = ec.sign_under(&json!({"alg": "none", "kid": "e"}), &good);
        let (message, _) = unsigned.rsplit_once('.').expect("three parts");
        let signed = ec.sign(&good);
        let (head, rest) = signed.split_once('.').expect("three parts");
        let (_, signature) = rest.split_once('.').expect("three parts");
        let (_, other) = ec.sign(&with(json!({"sub": "bob"}))).split_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("parts");
        let (other, _) = other.split_once('.').expect("three parts");
        let refused = [
            ("none", format!("{message}."), "alg"),
            ("none, with a signature", unsigned.clone(), "alg"),
            ("HS256 with the public key", confused(&rsa.public_der()), "alg"),
            ("HS256 with the modulus", confused(jwk["n"].as_str().expect("text").as_bytes()), "alg"),
            ("HS256 with a secret of the set", secret.sign(&good), "alg"),
            ("RS384", rsa.sign_under(&json!({"alg": "RS384", "kid": "r"}), &good), "alg"),
            ("PS256", rsa.sign_under(&json!({"alg": "PS256", "kid": "r"}), &good), "alg"),
            ("another key under the same name", SigningKey::ec("e").sign(&good), "signature"),
            ("another key's name", ec.sign_under(&json!({"alg": "ES256", "kid": "r"}), &good), "kid"),
            ("a name nobody knows", SigningKey::ec("x").sign(&good), "kid"),
            ("no name", ec.sign_under(&json!({"alg": "ES256"}), &good), "kid"),
            ("an extension", ec.sign_under(&json!({"alg": "ES256", "kid": "e", "crit": ["b64"], "b64": false}), &good), "crit"),
            ("another payload", format!("{head}.{other}.{signature}"), "signature"),
            ("no signature", format!("{head}.{}.", rest.split_once('.').expect("parts").0), "signature"),
            ("expired", ec.sign(&with(json!({"exp": in_seconds(-5)}))), "expired"),
            ("no end", ec.sign(&with(json!({"exp": null}))), "exp"),
            ("an end that is text", ec.sign(&with(json!({"exp": "tomorrow"}))), "exp"),
            ("not yet", ec.sign(&with(json!({"nbf": in_seconds(60)}))), "nbf"),
            ("another issuer", ec.sign(&with(json!({"iss": "https://evil.example.com/"}))), "issuer"),
            ("no issuer", ec.sign(&with(json!({"iss": null}))), "iss"),
            ("another audience", ec.sign(&with(json!({"aud": "other"}))), "audience"),
            ("no audience", ec.sign(&with(json!({"aud": null}))), "aud"),
            ("no tenant", ec.sign(&with(json!({"tenant_id": null}))), "tenant_id"),
            ("a tenant that is no text", ec.sign(&with(json!({"tenant_id": 7}))), "tenant_id"),
            ("nobody", ec.sign(&with(json!({"sub": null}))), "sub"),
            ("a user of two lines", ec.sign(&with(json!({"sub": "ann\nroot"}))), "sub"),
            ("a long token", ec.sign(&with(json!({"more": "x".repeat(9_000)}))), "8 KiB"),
            ("nonsense", "a.b.c".to_owned(), "header"),
        ];
        for (what, token, word) in &refused {
            let answer = errand.client().with_key(token).get("/jobs").await;
            assert_eq!((answer.status, &answer.body["code"]), (401, &json!("unauthenticated")), "{what}: {answer:?}");
            assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains(word)), "{what}: {answer:?}");
            assert!(answer.header("www-authenticate").starts_with("Bearer"), "{what}: {answer:?}");
        }
        let taken = [good.clone(), with(json!({"exp": in_seconds(-1)})), with(json!({"aud": "errand", "nbf": in_seconds(1)}))];
        for claims in &taken {
            assert_eq!(errand.client().with_key(&ec.sign(claims)).get("/jobs").await.status, 200, "{claims}");
        }
        let abroad = errand.client().with_key(&ec.sign(&with(json!({"tenant_id": "elsewhere", "scope": "admin"}))));
        let task = errand.client().submit_task(&json!({"prompt": "x"})).await;
        errand.client().wait_for_completion(&task.id).await;
        assert_eq!(abroad.get(&format!("/jobs/{}", task.id)).await.status, 404, "another tenant's");
        assert_eq!(abroad.get("/jobs").await.items(), &[] as &[Value]);
        errand.finish().await;
    }

    async fn a_shared_secret_takes_its_own_algorithm_only(setup: Setup) {
        let settings = format!("jwt_secret = {SECRET:?}\ntenant_claim = \"https://example.com/tenant\"");
        let errand = setup.section("auth", &settings).start().await;
        let key = SigningKey::secret("any", SECRET.as_bytes());
        let good = claims_with("ann", &json!({"tenant_id": null, "https://example.com/tenant": "dev"}));
        let status = async |token: String| errand.client().with_key(&token).get("/jobs").await.status;
        assert_eq!(status(key.sign(&good)).await, 200);
        assert_eq!(status(key.sign_under(&json!({"alg": "HS256"}), &good)).await, 200, "one key needs no name");
        assert_eq!(status(SigningKey::secret("any", b"another secret of thirty-two bytes").sign(&good)).await, 401);
        assert_eq!(status(SigningKey::rsa("r").sign(&good)).await, 401);
        assert_eq!(status(key.sign_under(&json!({"alg": "HS512"}), &good)).await, 401);
        assert_eq!(status(key.sign(&claims("ann"))).await, 401, "the tenant is in another claim");
        let audience = claims_with("ann", &json!({"https://example.com/tenant": "dev", "aud": "someone else"}));
        assert_eq!(status(key.sign(&audience)).await, 401, "made for somebody else");
        assert!(!errand.log().contains(SECRET));
        errand.finish().await;
    }

    async fn without_a_way_to_verify_them_no_tokens_are_taken(setup: Setup) {
        let errand = setup.start().await;
        let answer = user(&errand, &SigningKey::ec("e"), "ann").get("/jobs").await;
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(answer.text.contains("auth.jwks_url"), "{answer:?}");
        errand.finish().await;
    }

    async fn guessed_tokens_are_counted_and_good_ones_always_pass(setup: Setup) {
        let settings = format!("jwt_secret = {SECRET:?}\nfailures_per_minute = 3");
        let errand = setup.section("auth", &settings).start().await;
        let wrong = SigningKey::secret("any", b"another secret of thirty-two bytes");
        for _ in 0..3 {
            assert_eq!(user(&errand, &wrong, "ann").get("/jobs").await.status, 401);
        }
        let limited = user(&errand, &wrong, "ann").get("/jobs").await;
        assert_eq!(limited.status, 429, "{limited:?}");
        assert_eq!(user(&errand, &SigningKey::secret("any", SECRET.as_bytes()), "ann").get("/jobs").await.status, 200);
        errand.finish().await;
    }

    async fn keys_rotate_without_a_restart_and_outlive_their_endpoint(setup: Setup) {
        let (errand, provider, old) = trusting(setup).await;
        let client = errand.client();
        // A new token each time: a decision is remembered by its token.
        let fresh = |key: &SigningKey, number: i32| client.with_key(&key.sign(&claims_with("ann", &json!({"jti": number}))));
        assert_eq!(fresh(&old, 0).get("/jobs").await.status, 200);
        let new = SigningKey::rsa("r2");
        provider.publish(&[&new]);
        wait::until("the new key is known", || async {
            (fresh(&new, 1).get("/jobs").await.status == 200).then_some(())
        })
        .await;
        assert_eq!(fresh(&old, 2).get("/jobs").await.status, 401, "the old key is gone from the set");
        provider.fail();
        let strangers: Vec<SigningKey> = (0..20).map(|number| SigningKey::ed(&format!("stranger{number}"))).collect();
        let (before, began) = (provider.fetches(), std::time::Instant::now());
        let asked = strangers.iter().map(|key| {
            let client = fresh(key, 3);
            async move { client.get("/jobs").await.status }
        });
        assert_eq!(futures::future::join_all(asked).await, [401; 20]);
        let fetched = provider.fetches() - before;
        assert!(fetched <= 1 + began.elapsed().as_secs(), "{fetched} fetches for 20 strangers in {:?}", began.elapsed());
        assert_eq!(fresh(&new, 4).get("/jobs").await.status, 200, "the last keys hold while their endpoint is away");
        errand.finish().await;
    }

    async fn a_token_that_no_key_can_judge_yet_is_put_off_and_not_counted(setup: Setup) {
        let (provider, key) = (IdentityProvider::start().await, SigningKey::ed("d"));
        let settings = provider.settings().replace("failures_per_minute = 1000", "failures_per_minute = 1");
        let errand = setup.section("auth", &settings).start().await;
        for _ in 0..3 {
            let answer = user(&errand, &key, "ann").get("/jobs").await;
            assert_eq!((answer.status, &answer.body["code"]), (503, &json!("keys_unavailable")), "{answer:?}");
            assert_ne!(answer.header("retry-after"), "");
        }
        assert_eq!(errand.client().get("/jobs").await.status, 200, "keys of Errand's own need nobody");
        provider.publish(&[&key]);
        wait::until("the keys are there", || async {
            (user(&errand, &key, "ann").get("/jobs").await.status == 200).then_some(())
        })
        .await;
        errand.finish().await;
    }

    async fn a_user_may_not_do_what_operators_do_unless_their_token_says_so(setup: Setup) {
        let (errand, _provider, key) = trusting(setup).await;
        let ann = user(&errand, &key, "ann");
        let with = |scope: Value| errand.client().with_key(&key.sign(&claims_with("root", &json!({"scope": scope}))));
        let (admin, fleet) = (with(json!("openid admin")), with(json!(["admin", "fleet"])));
        for path in ["/keys", "/queues", "/workers"] {
            assert_eq!(ann.get(path).await.status, 403, "{path}");
        }
        assert_eq!((admin.get("/keys").await.status, admin.get("/queues").await.status), (200, 200));
        assert_eq!(fleet.get("/workers").await.status, 403, "no token makes an operator of the whole installation");
        assert_eq!(ann.post("/queues/default/pause", &json!({})).await.status, 403);
        let task = ann.submit_task(&json!({"prompt": "x"})).await;
        errand.client().wait_for_completion(&task.id).await;
        for client in [&admin, errand.client()] {
            assert_eq!(client.get(&format!("/jobs/{}", task.id)).await.status, 200);
            assert_eq!(client.get("/jobs").await.items().len(), 1);
            assert_eq!(client.get("/agent/sessions").await.items().len(), 1);
        }
        errand.finish().await;
    }

    async fn no_route_shows_or_changes_what_is_another_users(setup: Setup) {
        /// An id that is unknown there opens a new conversation, so another user's does.
        const OPENS_A_NEW_ONE: &str = "/api/v1/agent/sessions/{id}/voice-message";
        let programs = Programs::new();
        let setup = setup.engine("gated", &programs.gated_engine("gated", "a", "b"));
        let (errand, _provider, key) = trusting(setup).await;
        let (ann, bob) = (user(&errand, &key, "ann"), user(&errand, &key, "bob"));
        let hers = running_task(&errand, &ann).await;
        let ours = errand.client().submit_task(&json!({"prompt": "a service's"})).await;
        errand.client().wait_for_completion(&ours.id).await;
        let operations = operations_with_a_parameter(&bob).await;
        for operation in operations.iter().filter(|(_, path, _)| path != OPENS_A_NEW_ONE) {
            for task in [&hers, &ours] {
                let status = call(&bob, task, operation).await;
                assert!([403, 404].contains(&status), "{operation:?}: {status}");
            }
        }
        for path in ["/jobs".to_owned(), "/agent/sessions".to_owned(), format!("/jobs?session_id={}", hers.session_id)] {
            assert_eq!(bob.get(&path).await.items(), &[] as &[Value], "{path}");
            let seen = ann.get(&path).await;
            assert_eq!(seen.items().len(), 1, "{path}: {seen:?}");
        }
        let mut socket = Socket::open(&bob).await;
        for stream in [format!("job:{}", hers.id), format!("session:{}", hers.session_id), format!("job:{}", ours.id)] {
            socket.send(&json!({"type": "subscribe", "id": 1, "stream": stream})).await;
            assert_eq!(socket.frame().await["code"], "not_found", "{stream}");
        }
        // In a body, another user's conversation means a new one.
        let theirs = bob.submit_task(&json!({"prompt": "let me in", "sessionId": hers.session_id})).await;
        assert_ne!(theirs.session_id, hers.session_id);
        bob.wait_for_completion(&theirs.id).await;
        let job = ann.job(&hers.id).await;
        assert_eq!(job["state"], "running", "nothing of all that touched it: {job:#}");
        // Streams don't end, and there is no attachment.
        let answers = |path: &str| !path.ends_with("/events") && !path.contains("{hash}");
        let reads = operations.iter().filter(|(method, path, _)| *method == Method::GET && answers(path));
        for operation in reads {
            assert_eq!(call(&ann, &hers, operation).await, 200, "{operation:?}");
        }
        assert_eq!(ann.delete(&format!("/agent/sessions/{}", hers.session_id)).await.status, 200, "it is hers to end");
        errand.client().wait_for_state(&hers.id, "cancelled").await;
        let retried = bob.post("/jobs/retry", &json!({"all": true})).await;
        assert_eq!((retried.status, &retried.body["items"]), (202, &json!([])), "{retried:?}");
        programs.open_gate("gated");
        let retried = ann.post("/jobs/retry", &json!({"all": true})).await;
        assert_eq!(retried.body["items"].as_array().map(Vec::len), Some(1), "{retried:?}");
        let again = retried.body["items"][0]["id"].as_str().expect("an id");
        ann.wait_for_completion(again).await;
        errand.finish().await;
    }

    async fn a_service_may_go_on_with_a_users_conversation_and_the_user_sees_it(setup: Setup) {
        let (errand, _provider, key) = trusting(setup).await;
        let ann = user(&errand, &key, "ann");
        let first = ann.submit_task(&json!({"prompt": "hello"})).await;
        ann.wait_for_completion(&first.id).await;
        let second = errand.client().submit_task(&json!({"prompt": "again", "sessionId": first.session_id})).await;
        assert_eq!(second.session_id, first.session_id);
        ann.wait_for_completion(&second.id).await;
        assert_eq!(ann.get(&format!("/agent/sessions/{}/tasks", first.session_id)).await.items().len(), 2);
        errand.finish().await;
    }

    async fn the_keys_of_one_users_requests_mean_nothing_to_another(setup: Setup) {
        let (errand, _provider, key) = trusting(setup).await;
        let submit = async |client: &Client, more: Value| {
            let mut job = json!({"kind": "task", "payload": {"prompt": "x"}});
            job.as_object_mut().expect("an object").extend(more.as_object().expect("fields").clone());
            let request = client.request(Method::POST, "/jobs").json(&job);
            let request = if more == json!({}) { request.header("idempotency-key", "same") } else { request };
            let answer = client.send(request).await;
            assert!([200, 202].contains(&answer.status), "{answer:?}");
            answer.body["job_id"].as_str().or(answer.body["id"].as_str()).expect("an id").to_owned()
        };
        let throttled = json!({"dedup": {"key": "same", "mode": "throttle", "ttl_seconds": 600}});
        let mut made = Vec::new();
        for more in [json!({}), throttled] {
            let of_ann = submit(&user(&errand, &key, "ann"), more.clone()).await;
            // Her next token is still hers.
            let renewed = errand.client().with_key(&key.sign(&claims_with("ann", &json!({"jti": "2"}))));
            assert_eq!(submit(&renewed, more.clone()).await, of_ann, "{more}");
            let of_bob = submit(&user(&errand, &key, "bob"), more.clone()).await;
            let of_a_service = submit(errand.client(), more.clone()).await;
            assert!(of_ann != of_bob && of_bob != of_a_service && of_ann != of_a_service, "{more}");
            made.extend([of_ann, of_bob, of_a_service]);
        }
        for id in &made {
            errand.client().wait_for_completion(id).await;
        }
        errand.finish().await;
    }

    async fn a_watcher_is_told_when_the_token_expires(setup: Setup) {
        let programs = Programs::new();
        let (provider, key) = (IdentityProvider::start().await, SigningKey::ed("d"));
        provider.publish(&[&key]);
        let settings = provider.settings() + "\nleeway_seconds = 0";
        let setup = setup.section("auth", &settings).engine("gated", &programs.gated_engine("gated", "a", "b"));
        let errand = setup.start().await;
        let ann = user(&errand, &key, "ann");
        let task = running_task(&errand, &ann).await;
        let stream = json!({"type": "subscribe", "id": 1, "stream": format!("job:{}", task.id)});
        let token = key.sign(&claims_with("ann", &json!({"exp": in_seconds(15)})));
        let short = errand.client().with_key(&token);
        let mut by_header = Socket::open(&short).await;
        let mut by_frame = Socket::open_anonymous(&short).await;
        by_frame.send(&json!({"type": "auth", "token": token})).await;
        let mut events = Sse::open(&short, &format!("/agent/sessions/{}/events", task.session_id), &[]).await;
        for socket in [&mut by_header, &mut by_frame] {
            socket.send(&stream).await;
            socket.take_until("event").await;
        }
        for socket in [&mut by_header, &mut by_frame] {
            assert_eq!(socket.close_code().await, 4001);
        }
        wait::bounded("the end of the events", async { while events.next().await.is_some() {} }).await;
        assert_eq!(short.get("/jobs").await.status, 401);
        let mut lasting = Socket::open(&ann).await;
        lasting.send(&stream).await;
        lasting.take_until("event").await;
        let quiet = tokio::time::timeout(Duration::from_millis(200), async {
            loop {
                if let Incoming::Closed(code) = lasting.next().await {
                    return code;
                }
            }
        })
        .await;
        assert!(quiet.is_err(), "a token that goes on closes nothing: {quiet:?}");
        programs.open_gate("gated");
        ann.wait_for_completion(&task.id).await;
        let mut refused = Socket::open_anonymous(&short).await;
        refused.send(&json!({"type": "auth", "token": token})).await;
        assert_eq!(refused.close_code().await, 4500);
        errand.finish().await;
    }
}
