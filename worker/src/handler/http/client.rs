//! The connection to a destination: to allowed addresses only, straight, and never on to another place.

use std::{
    error::Error,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use errand_common::{
    config::Outbound,
    domain::address::{self, Refused},
    wire::http::{HttpPayload, Method},
};
use ipnet::IpNet;
use reqwest::{
    Client, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use serde_json::Value;
use url::Url;

/// How long a connection that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(30);
/// Most connections kept to one destination while nobody uses them.
const IDLE_CONNECTIONS: usize = 256;
/// Most addresses of one name that are tried.
const ADDRESSES: usize = 8;

/// Why no answer came.
#[derive(Debug)]
pub(super) enum Unsent {
    /// The address may not be called. Nothing was sent.
    Refused(String),
    /// There was no connection. Nothing was sent.
    NoConnection(String),
    /// The connection broke after the request may have been sent.
    Broken(String),
}

/// One client for each scheme: what an address may be called with depends on it.
pub(super) struct Clients {
    https: Client,
    http: Client,
}

impl Clients {
    /// Or a sentence about what is missing on this machine.
    pub(super) fn new(config: &Outbound, allow: &Arc<[IpNet]>) -> Result<Self, String> {
        let client = |https| {
            Client::builder()
                .dns_resolver(Arc::new(Resolver { https, allow: allow.clone() }))
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
        Ok(Self { https: client(true)?, http: client(false)? })
    }

    /// Sends the call, and returns once the head of an answer is there. An address in the URL itself must have been judged.
    pub(super) async fn send(
        &self,
        payload: &HttpPayload,
        url: Url,
        headers: HeaderMap,
        key: &str,
    ) -> Result<Response, Unsent> {
        let client = if url.scheme() == "https" { &self.https } else { &self.http };
        let mut call = client.request(method(payload.method), url).headers(headers);
        if let Ok(key) = HeaderValue::from_str(key) {
            call = call.header(HeaderName::from_static("idempotency-key"), key);
        }
        call = match &payload.body {
            Some(Value::String(text)) => call.body(text.clone()),
            Some(body @ (Value::Object(_) | Value::Array(_))) => call.body(body.to_string()),
            _ => call,
        };
        call.send().await.map_err(|error| unsent(&error))
    }
}

const fn method(method: Method) -> reqwest::Method {
    match method {
        Method::Get => reqwest::Method::GET,
        Method::Head => reqwest::Method::HEAD,
        Method::Post => reqwest::Method::POST,
        Method::Put => reqwest::Method::PUT,
        Method::Patch => reqwest::Method::PATCH,
        Method::Delete => reqwest::Method::DELETE,
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

/// Why a name leads nowhere.
#[derive(Debug, thiserror::Error)]
enum NoAddress {
    #[error("{0}")]
    Refused(Refused),
    #[error("the name has no address")]
    NoneFound,
}

/// Finds the addresses of a name, and leaves out those that may not be called. The connection is made to exactly what it
/// returns, so a name can't mean one address when it is judged and another when it is called.
struct Resolver {
    https: bool,
    allow: Arc<[IpNet]>,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (https, allow) = (self.https, self.allow.clone());
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed = allowed(found.map(|address| address.ip()), https, &allow)?;
            let addresses: Addrs = Box::new(allowed.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}

fn allowed(found: impl Iterator<Item = IpAddr>, https: bool, allow: &[IpNet]) -> Result<Vec<IpAddr>, NoAddress> {
    let (mut allowed, mut refused) = (Vec::new(), None);
    for ip in found {
        match address::check(ip, https, allow) {
            Ok(()) if allowed.len() < ADDRESSES => allowed.push(ip),
            Ok(()) => {}
            Err(why) => refused = Some(why),
        }
    }
    match (allowed.is_empty(), refused) {
        (false, _) => Ok(allowed),
        (true, Some(refused)) => Err(NoAddress::Refused(refused)),
        (true, None) => Err(NoAddress::NoneFound),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_only_as_good_as_its_addresses() {
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("an address")).collect::<Vec<IpAddr>>();
        let judge = |texts: &[&str]| allowed(ips(texts).into_iter(), true, &[]);
        assert_eq!(judge(&["10.0.0.1", "1.1.1.1"]).expect("one is public"), ips(&["1.1.1.1"]));
        assert!(matches!(judge(&["10.0.0.1", "::1"]), Err(NoAddress::Refused(_))));
        assert!(matches!(judge(&[]), Err(NoAddress::NoneFound)));
    }
}
