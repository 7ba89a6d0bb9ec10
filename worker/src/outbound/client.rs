//! HTTP under the rule.

use std::{error::Error, sync::Arc, time::Duration};

use errand_common::{config::Outbound, wire::place};
use ipnet::IpNet;
use reqwest::{Body, Client, Method, Response, header::HeaderMap, redirect::Policy};
use url::Url;

use super::resolve::{Lookup, NoAddress, Resolver, system};
use crate::traced;

/// How long a connection that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(30);
/// Most connections kept to one destination while nobody uses them.
const IDLE_CONNECTIONS: usize = 256;

/// Why no answer came.
#[derive(Debug)]
pub(crate) enum Unsent {
    /// The place may not be called. Nothing was sent.
    Refused(String),
    /// There was no connection. Nothing was sent.
    NoConnection(String),
    /// The connection broke after the request may have been sent.
    Broken(String),
}

/// One client for each scheme: what an address may be called with depends on it.
pub(crate) struct Clients {
    https: Client,
    http: Client,
    allow: Arc<[IpNet]>,
}

impl Clients {
    /// Or a sentence about what is missing on this machine.
    pub(crate) fn new(config: &Outbound) -> Result<Self, String> {
        Self::looking_up(config, &system())
    }

    fn looking_up(config: &Outbound, lookup: &Arc<Lookup>) -> Result<Self, String> {
        let allow: Arc<[IpNet]> = config.allow.clone().into();
        let client = |https| {
            Client::builder()
                .dns_resolver(Arc::new(Resolver { https, allow: allow.clone(), lookup: lookup.clone() }))
                // A proxy would connect to addresses that we have not judged.
                .no_proxy()
                .redirect(Policy::none())
                .https_only(https)
                .connect_timeout(Duration::from_secs(config.connect_timeout_seconds.into()))
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(IDLE_CONNECTIONS)
                .user_agent(concat!("errand/", env!("CARGO_PKG_VERSION")))
                .build()
                .map_err(|error| format!("no HTTP client could be made: {error}"))
        };
        Ok(Self { https: client(true)?, http: client(false)?, allow: allow.clone() })
    }

    /// Sends a call, and returns once the head of an answer is there. The caller bounds the time. It carries the trace of the work
    /// at hand, unless the headers name one.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Option<Body>,
    ) -> Result<Response, Unsent> {
        let mut span = traced::call(&method, &url);
        let sent = span.around(self.exchange(method, url, headers, body)).await;
        match &sent {
            Ok(response) => traced::answered(&mut span, response.status()),
            Err(Unsent::Refused(_)) => span.fail("address_not_allowed"),
            Err(Unsent::NoConnection(_)) => span.fail("no_connection"),
            Err(Unsent::Broken(_)) => span.fail("connection_broken"),
        }
        sent
    }

    async fn exchange(
        &self,
        method: Method,
        url: Url,
        mut headers: HeaderMap,
        body: Option<Body>,
    ) -> Result<Response, Unsent> {
        // An address in the URL itself never comes to the resolver.
        place::check(&url, &self.allow).map_err(|refused| Unsent::Refused(refused.to_string()))?;
        let client = if place::is_encrypted(&url) { &self.https } else { &self.http };
        traced::carry(&mut headers);
        let mut call = client.request(method, url).headers(headers);
        if let Some(body) = body {
            call = call.body(body);
        }
        call.send().await.map_err(|error| unsent(&error))
    }
}

fn unsent(error: &reqwest::Error) -> Unsent {
    let mut reason = "no reason was given".to_owned();
    let mut source = Error::source(error);
    while let Some(cause) = source {
        if let Some(refused) = cause.downcast_ref::<NoAddress>() {
            return match refused {
                NoAddress::Refused(refused) => Unsent::Refused(refused.to_string()),
                NoAddress::NoneFound => Unsent::NoConnection(refused.to_string()),
            };
        }
        // The innermost cause: the outer ones repeat the URL, which may hold a secret.
        reason = cause.to_string();
        source = cause.source();
    }
    if error.is_connect() { Unsent::NoConnection(reason) } else { Unsent::Broken(reason) }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        net::IpAddr,
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// Answers each connection with `answer`, and counts them.
    async fn listener(address: &str, answer: &'static str) -> (u16, Arc<AtomicUsize>) {
        let listener = TcpListener::bind(address).await.expect("an address of this machine");
        let (port, count) = (listener.local_addr().expect("bound").port(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&count);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (port, count)
    }

    /// A name server that says these one after the other, the last for good.
    fn says(answers: &[&[&str]]) -> (Arc<Lookup>, Arc<AtomicUsize>) {
        let answers: VecDeque<Vec<IpAddr>> =
            answers.iter().map(|texts| texts.iter().map(|text| text.parse().expect("an address")).collect()).collect();
        let (answers, asked) = (Mutex::new(answers), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&asked);
        let lookup = move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            let mut answers = answers.lock().expect("nobody panicked");
            let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
            let answer: Box<dyn Future<Output = _> + Send> = Box::new(async move { Ok(answer.unwrap_or_default()) });
            Box::into_pin(answer)
        };
        (Arc::new(lookup), asked)
    }

    fn clients(allow: &str, lookup: &Arc<Lookup>) -> Clients {
        // Tests of one process share its TLS provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = Outbound { allow: vec![allow.parse().expect("a network")], ..Outbound::default() };
        Clients::looking_up(&config, lookup).expect("clients")
    }

    async fn post(clients: &Clients, url: &str) -> Result<u16, Unsent> {
        let url = Url::parse(url).expect("a URL");
        let sent = clients.send(Method::POST, url, HeaderMap::new(), None).await;
        sent.map(|response| response.status().as_u16())
    }

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

    #[tokio::test]
    async fn a_name_that_changes_its_address_is_judged_by_the_one_it_is_called_at() {
        let (port, public) = listener("127.0.0.1:0", OK).await;
        let (_, private) = listener(&format!("127.0.0.2:{port}"), OK).await;
        let (lookup, asked) = says(&[&["127.0.0.1"], &["127.0.0.2"], &["127.0.0.2", "127.0.0.1"]]);
        let clients = clients("127.0.0.1/32", &lookup);
        let url = format!("http://rebinding.example:{port}/");
        assert_eq!(post(&clients, &url).await.expect("allowed"), 200);
        assert_eq!(asked.load(Ordering::SeqCst), 1, "looked up once: what was judged is what was called");
        // The name now means a private address.
        let Err(Unsent::Refused(reason)) = post(&clients, &url).await else { panic!("it was called") };
        assert!(reason.contains("127.0.0.2") && reason.contains("loopback"), "{reason}");
        // It means both: only the allowed one is tried.
        assert_eq!(post(&clients, &url).await.expect("allowed"), 200);
        assert_eq!((public.load(Ordering::SeqCst), private.load(Ordering::SeqCst)), (2, 0));
    }

    #[tokio::test]
    async fn names_of_what_is_not_public_are_refused_each_with_its_reason() {
        for (address, reason) in [
            ("127.0.0.1", "loopback"),
            ("::1", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("0.0.0.0", "no address"),
            ("10.0.0.7", "a private network"),
            ("192.168.0.1", "a private network"),
            ("fd00::1", "a private network"),
            ("169.254.169.254", "link-local"),
            ("fe80::1", "link-local"),
            ("100.64.0.1", "a carrier's inside"),
            ("64:ff9b::7f00:1", "carries another address"),
            ("224.0.0.1", "multicast"),
        ] {
            let (lookup, _) = says(&[&[address]]);
            let clients = clients("203.0.113.9/32", &lookup);
            for scheme in ["http", "https"] {
                let Err(Unsent::Refused(said)) = post(&clients, &format!("{scheme}://inside.example/")).await else {
                    panic!("{scheme} to {address} was called")
                };
                assert!(said.contains(reason), "{address}: {said}");
            }
        }
        let (lookup, _) = says(&[&["8.8.8.8"]]);
        let clients = clients("203.0.113.9/32", &lookup);
        let Err(Unsent::Refused(said)) = post(&clients, "http://public.example/").await else { panic!("in clear") };
        assert!(said.contains("over https only"), "{said}");
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_leads_nowhere() {
        let (inside, called) = listener("127.0.0.2:0", OK).await;
        let answer = format!(
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.2:{inside}/\r\ncontent-length: 0\r\n\r\n"
        );
        let (port, _) = listener("127.0.0.1:0", answer.leak()).await;
        let clients = clients("127.0.0.0/8", &system());
        assert_eq!(post(&clients, &format!("http://127.0.0.1:{port}/")).await.expect("allowed"), 307);
        assert_eq!(called.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn an_address_in_the_url_and_its_port_are_judged_too() {
        let (lookup, asked) = says(&[&["127.0.0.1"]]);
        let clients = clients("127.0.0.1/32", &lookup);
        for url in
            ["http://127.0.0.2:8080/", "https://[::ffff:127.0.0.2]/", "http://127.0.0.1:6379/", "http://x.example:22/"]
        {
            assert!(matches!(post(&clients, url).await, Err(Unsent::Refused(_))), "{url}");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 0);
    }
}
