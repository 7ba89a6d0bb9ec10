//! Where a gateway is, and as whom it is called.

use std::fmt::Write as _;

use errand_common::config::Secret;
use sha2::{Digest, Sha256};
use url::Url;
use uuid::Uuid;

/// How this installation shows itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// As a device with a key of its own, which the gateway's operator pairs once.
    Device,
    /// As the gateway's control page, without a device. Newer gateways refuse it unless it comes from their own machine.
    ControlUi,
}

/// One gateway with one credential.
#[derive(Clone, Debug)]
pub struct Target {
    gateway: Uuid,
    url: Url,
    token: Option<Secret>,
    access: Access,
    insecure_tls: bool,
}

/// Why a URL leads to no gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadTarget {
    /// It is none.
    #[error("is not a URL")]
    NoUrl,
    /// Another scheme.
    #[error("must begin with ws:// or wss://")]
    Scheme,
    /// It has no host.
    #[error("names no host")]
    NoHost,
    /// It would be written into logs.
    #[error("must not hold a user or a password; give the token apart")]
    Credentials,
}

impl Target {
    /// `gateway` names whose device identity is used. Certificates are not checked where `insecure_tls` is set.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn new(
        gateway: Uuid,
        url: &str,
        token: Option<Secret>,
        access: Access,
        insecure_tls: bool,
    ) -> Result<Self, BadTarget> {
        let mut url = Url::parse(url.trim()).map_err(|_| BadTarget::NoUrl)?;
        if !matches!(url.scheme(), "ws" | "wss") {
            return Err(BadTarget::Scheme);
        }
        if !url.has_host() {
            return Err(BadTarget::NoHost);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(BadTarget::Credentials);
        }
        url.set_fragment(None);
        let token = token.filter(|token| !token.expose().trim().is_empty());
        let token = token.map(|token| Secret::new(token.expose().trim().to_owned()));
        Ok(Self { gateway, url, token, access, insecure_tls })
    }

    /// Whose device identity is used.
    #[must_use]
    pub const fn gateway(&self) -> Uuid {
        self.gateway
    }

    /// `host:port`: what a person needs to find it, and the name of its gate.
    #[must_use]
    pub fn destination(&self) -> String {
        format!("{}:{}", self.url.host_str().unwrap_or_default(), self.port())
    }

    pub(super) const fn url(&self) -> &Url {
        &self.url
    }

    pub(super) const fn token(&self) -> Option<&Secret> {
        self.token.as_ref()
    }

    pub(super) const fn access(&self) -> Access {
        self.access
    }

    pub(super) const fn insecure_tls(&self) -> bool {
        self.insecure_tls
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.url.scheme() == "wss"
    }

    pub(super) fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(443)
    }

    /// What a page of the gateway's own would send as its origin.
    pub(super) fn origin(&self) -> String {
        let scheme = if self.is_encrypted() { "https" } else { "http" };
        let mut origin = format!("{scheme}://{}", self.url.host_str().unwrap_or_default());
        if let Some(port) = self.url.port() {
            // Writing to a String can't fail.
            let _ = write!(origin, ":{port}");
        }
        origin
    }

    /// Equal for targets that one connection serves. A hash, so that no map holds the token.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let token = self.token.as_ref().map_or("", Secret::expose);
        let switches = [u8::from(self.access == Access::ControlUi), u8::from(self.insecure_tls)];
        for part in [self.gateway.as_bytes().as_slice(), self.url.as_str().as_bytes(), token.as_bytes(), &switches] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Result<Target, BadTarget> {
        Target::new(Uuid::nil(), url, None, Access::ControlUi, false)
    }

    #[test]
    fn only_urls_of_gateways_are_taken() {
        for (url, fault) in [
            ("gateway", BadTarget::NoUrl),
            ("http://g.example/", BadTarget::Scheme),
            ("ws://", BadTarget::NoUrl),
            ("wss://user:secret@g.example/", BadTarget::Credentials),
        ] {
            assert_eq!(target(url).map(drop).expect_err(url), fault, "{url}");
        }
        assert_eq!(target(" wss://g.example/ws?a=1#x ").expect("a gateway").url().as_str(), "wss://g.example/ws?a=1");
    }

    #[test]
    fn the_origin_is_that_of_a_page_of_the_gateway() {
        for (url, origin, destination) in [
            ("ws://g.example:18789/ws", "http://g.example:18789", "g.example:18789"),
            ("wss://g.example/", "https://g.example", "g.example:443"),
            ("wss://[2001:db8::1]:8443/x", "https://[2001:db8::1]:8443", "[2001:db8::1]:8443"),
        ] {
            let target = target(url).expect("a gateway");
            assert_eq!((target.origin().as_str(), target.destination().as_str()), (origin, destination));
        }
    }

    #[test]
    fn whatever_changes_what_the_gateway_sees_is_another_connection() {
        let base = ("ws://g.example/", Some("t"), Access::Device, false);
        let fingerprint = |(url, token, access, insecure): (&str, Option<&str>, Access, bool)| {
            let token = token.map(|token| Secret::new(token.to_owned()));
            Target::new(Uuid::nil(), url, token, access, insecure).expect("a gateway").fingerprint()
        };
        assert_eq!(fingerprint(base), fingerprint(("ws://g.example", Some(" t "), Access::Device, false)));
        for other in [
            ("ws://h.example/", Some("t"), Access::Device, false),
            ("ws://g.example/", Some("u"), Access::Device, false),
            ("ws://g.example/", Some("  "), Access::Device, false),
            ("ws://g.example/", Some("t"), Access::ControlUi, false),
            ("ws://g.example/", Some("t"), Access::Device, true),
        ] {
            assert_ne!(fingerprint(base), fingerprint(other), "{other:?}");
        }
    }
}
