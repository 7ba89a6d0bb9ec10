//! The payload of an `http` job: one call.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::{Host, Url};

use super::place;
use crate::domain::job::text_enum;

/// The kind's name.
pub const KIND: &str = "http";
/// Version of the payload. Grows when an older worker would misread a newer payload.
pub const VERSION: u32 = 1;

/// Longest URL, in bytes.
pub const URL_BYTES: usize = 8_192;
/// Most headers.
pub const HEADERS: usize = 64;
/// Longest value of a header, in bytes.
pub const HEADER_BYTES: usize = 8_192;
/// Most statuses that may be expected.
pub const EXPECTED: usize = 64;

/// Headers that are ours or the connection's to set.
const RESERVED: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "idempotency-key",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

text_enum! {
    /// A method.
    Method {
        /// Reads.
        Get = "GET",
        /// Reads the head only.
        Head = "HEAD",
        /// Does something.
        Post = "POST",
        /// Replaces.
        Put = "PUT",
        /// Changes.
        Patch = "PATCH",
        /// Removes.
        Delete = "DELETE",
    }
}

/// What `POST /jobs` stores and the worker sends. Additive only: new fields need a default. Headers may hold secrets.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct HttpPayload {
    /// How.
    pub method: Method,
    /// Where.
    pub url: String,
    /// With these beside our own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// An object or array is sent as JSON, a string as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// Statuses that mean success; empty: every 2xx.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expect: Vec<u16>,
    /// Whether the destination does what comes twice under one `Idempotency-Key` once.
    #[serde(default = "yes")]
    pub idempotent: bool,
}

const fn yes() -> bool {
    true
}

impl std::fmt::Debug for HttpPayload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpPayload").field("method", &self.method).finish_non_exhaustive()
    }
}

/// Something wrong with a payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// A JSON pointer into the payload.
    pub pointer: String,
    /// What is wrong, and what is allowed.
    pub detail: String,
}

impl HttpPayload {
    /// Where it goes, if that is a URL that can be called.
    ///
    /// # Errors
    /// What is wrong with it, and what is allowed.
    pub fn target(&self) -> Result<Url, String> {
        target(&self.url)
    }

    /// All that is wrong with it. Addresses behind a name are judged when it is called.
    #[must_use]
    pub fn faults(&self, allow: &[IpNet]) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault = |pointer: String, detail: String| faults.push(Fault { pointer, detail });
        match self.target() {
            Err(detail) => fault("/url".to_owned(), detail),
            Ok(url) => {
                if let Err(refused) = place::check(&url, allow) {
                    fault("/url".to_owned(), refused.to_string());
                }
            }
        }
        if self.headers.len() > HEADERS {
            fault("/headers".to_owned(), format!("may hold {HEADERS} headers at most"));
        }
        for (name, value) in self.headers.iter().take(HEADERS) {
            if let Some(detail) = header_fault(name, value) {
                fault(format!("/headers/{}", name.replace('~', "~0").replace('/', "~1")), detail);
            }
        }
        match &self.body {
            None | Some(Value::Null | Value::Object(_) | Value::Array(_) | Value::String(_)) => {}
            Some(_) => fault("/body".to_owned(), "must be an object, an array or a string".to_owned()),
        }
        if self.expect.len() > EXPECTED {
            fault("/expect".to_owned(), format!("may hold {EXPECTED} statuses at most"));
        }
        for (index, status) in self.expect.iter().enumerate().take(EXPECTED) {
            if !(200..600).contains(status) {
                fault(format!("/expect/{index}"), "must be a status from 200 to 599".to_owned());
            }
        }
        faults
    }

    /// Whether a status means success.
    #[must_use]
    pub fn expects(&self, status: u16) -> bool {
        if self.expect.is_empty() { (200..300).contains(&status) } else { self.expect.contains(&status) }
    }
}

/// Where a text leads, if that is a URL that can be called.
///
/// # Errors
/// What is wrong with it, and what is allowed.
pub fn target(text: &str) -> Result<Url, String> {
    if text.len() > URL_BYTES {
        return Err(format!("may take {URL_BYTES} bytes at most"));
    }
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must begin with https:// or http://".to_owned());
    }
    if url.host().is_none() {
        return Err("must name a host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user or password; send an Authorization header instead".to_owned());
    }
    Ok(url)
}

/// The address that a URL holds instead of a name.
#[must_use]
pub fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

/// Host and port: what a gate is named by, and what people may be shown of a URL.
#[must_use]
pub fn destination(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn header_fault(name: &str, value: &str) -> Option<String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || name.len() > 128 || !name.bytes().all(is_token) {
        return Some("is not the name of a header".to_owned());
    }
    if RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
        return Some("is set by Errand or by the connection; leave it out".to_owned());
    }
    // The value may be a secret: it is never repeated.
    if value.len() > HEADER_BYTES {
        return Some(format!("may take {HEADER_BYTES} bytes at most"));
    }
    let fits = value.bytes().all(|byte| byte == b'\t' || (0x20..0x7f).contains(&byte));
    (!fits).then(|| "may hold visible ASCII characters, spaces and tabs only".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(payload: Value) -> Vec<String> {
        let payload: HttpPayload = serde_json::from_value(payload).expect("its shape is right");
        let allow = ["127.0.0.0/8".parse().expect("a network")];
        payload.faults(&allow).into_iter().map(|fault| fault.pointer).collect()
    }

    #[test]
    fn the_first_shipped_version_still_decodes() {
        let payload: HttpPayload = serde_json::from_str(include_str!("golden/http.v1.json")).expect("golden payload");
        assert_eq!((payload.method, payload.idempotent), (Method::Post, true));
        assert!(payload.expects(204) && !payload.expects(304));
        assert!(payload.faults(&[]).is_empty());
    }

    #[test]
    fn every_fault_is_named() {
        let post = |more: Value| {
            let mut payload = json!({"method": "POST", "url": "https://api.example.com/v1"});
            payload.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            payload
        };
        assert!(faults(post(json!({}))).is_empty());
        assert!(
            faults(post(json!({"url": "http://127.0.0.1:9999/x", "body": "text", "expect": [200, 404]}))).is_empty()
        );
        for url in [
            "no",
            "ftp://x/",
            "https://",
            "https://u:p@example.com/",
            "http://10.0.0.1/",
            "https://[::1]/",
            "http://8.8.8.8/",
            "https://0x7f000001.0/",
            "http://2852039166/",
            "https://[::ffff:10.0.0.1]/",
        ] {
            assert_eq!(faults(post(json!({"url": url}))), ["/url"], "{url}");
        }
        for name in ["Host", "content-length", "Idempotency-Key", "Connection", "TE", "a b", "", "é"] {
            assert_eq!(faults(post(json!({"headers": {name: "x"}}))).len(), 1, "{name}");
        }
        assert_eq!(faults(post(json!({"headers": {"x": "a\nb"}}))), ["/headers/x"]);
        assert_eq!(faults(post(json!({"body": 7}))), ["/body"]);
        assert_eq!(faults(post(json!({"expect": [200, 99]}))), ["/expect/1"]);
    }

    #[test]
    fn nothing_of_a_call_is_shown_by_accident() {
        let payload = json!({"method": "POST", "url": "https://x.example/?token=s3cret", "headers": {"a": "s3cret"}});
        let payload: HttpPayload = serde_json::from_value(payload).expect("a payload");
        assert!(!format!("{payload:?}").contains("s3cret"));
        assert_eq!(destination(&payload.target().expect("a URL")), "x.example:443");
    }
}
