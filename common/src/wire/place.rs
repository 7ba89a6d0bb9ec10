//! Where a client may send Errand: the one rule for `http` jobs, webhooks, gateways and all else whose address clients set.
//!
//! What a URL says by itself is judged here, when it is taken in and again before each call. What a name stands for is judged
//! when it is looked up, by whoever then connects to exactly that address.

use ipnet::IpNet;
use url::Url;

use super::http::literal;
use crate::domain::address::{self, Refused};

/// Judges the port of a URL, and its address where it holds one instead of a name.
///
/// # Errors
/// Why it may not be called.
pub fn check(url: &Url, allow: &[IpNet]) -> Result<(), Refused> {
    let port = url.port_or_known_default();
    port.map_or(Ok(()), address::check_port)?;
    literal(url).map_or(Ok(()), |ip| address::check(ip, is_encrypted(url), allow))
}

/// Whether what is said there can't be read on the way.
#[must_use]
pub fn is_encrypted(url: &Url) -> bool {
    matches!(url.scheme(), "https" | "wss")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What clients have tried elsewhere, each with what is said against it.
    const REFUSED: &[(&str, &str)] = &[
        // This machine, in all its spellings.
        ("https://127.0.0.1/", "this machine: loopback"),
        ("https://127.0.0.1:8443/admin", "this machine: loopback"),
        ("https://127.1/", "this machine: loopback"),
        ("https://127.0.1/", "this machine: loopback"),
        ("https://127.255.255.254/", "this machine: loopback"),
        ("https://2130706433/", "this machine: loopback"),
        ("https://0x7f000001/", "this machine: loopback"),
        ("https://0x7f.0x0.0x0.0x1/", "this machine: loopback"),
        ("https://0x7f.1/", "this machine: loopback"),
        ("https://0177.0.0.1/", "this machine: loopback"),
        ("https://017700000001/", "this machine: loopback"),
        ("https://0177.0x0.0.1/", "this machine: loopback"),
        ("https://127.0.0.1./", "this machine: loopback"),
        ("https://127。0。0。1/", "this machine: loopback"),
        ("https://①②⑦.⓪.⓪.①/", "this machine: loopback"),
        ("https://１２７.０.０.１/", "this machine: loopback"),
        ("https://%31%32%37.0.0.1/", "this machine: loopback"),
        ("https:\\\\127.0.0.1\\x", "this machine: loopback"),
        ("https:127.0.0.1", "this machine: loopback"),
        (" https://127.0.0.1/\t", "this machine: loopback"),
        ("https://127.0.0.1\t.1/", "is not a URL"),
        ("https://0.0.0.0/", "this machine: no address"),
        ("https://0/", "this machine: no address"),
        ("https://0x0/", "this machine: no address"),
        ("https://0.1.2.3/", "this machine: no address"),
        // IPv6.
        ("https://[::]/", "this machine: no address"),
        ("https://[::1]/", "this machine: loopback"),
        ("https://[0:0:0:0:0:0:0:1]/", "this machine: loopback"),
        ("https://[0000:0000:0000:0000:0000:0000:0000:0001]:8443/", "this machine: loopback"),
        ("https://[::ffff:127.0.0.1]/", "this machine: loopback"),
        ("https://[::ffff:7f00:1]/", "this machine: loopback"),
        ("https://[::FFFF:7F00:0001]/", "this machine: loopback"),
        ("https://[::ffff:10.0.0.1]/", "a private network"),
        ("https://[::ffff:169.254.169.254]/", "link-local"),
        ("https://[::ffff:0:127.0.0.1]/", "carries another address"),
        ("https://[::127.0.0.1]/", "carries another address"),
        ("https://[64:ff9b::127.0.0.1]/", "carries another address"),
        ("https://[64:ff9b:1::a00:1]/", "carries another address"),
        ("https://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/", "carries another address"),
        ("https://[2002:7f00:1::]/", "carries another address"),
        ("https://[2002:a9fe:a9fe::1]/", "carries another address"),
        ("https://[fc00::1]/", "a private network"),
        ("https://[fd00:ec2::254]/", "a private network"),
        ("https://[fd12:3456:789a:1::1]/", "a private network"),
        ("https://[fe80::1]/", "link-local"),
        ("https://[febf::1]/", "link-local"),
        ("https://[fe80::1%25eth0]/", "is not a URL"),
        ("https://[fec0::1]/", "reserved"),
        ("https://[ff02::1]/", "multicast"),
        ("https://[100::1]/", "reserved"),
        ("https://[2001:db8::1]/", "for examples"),
        ("https://[3fff::1]/", "for examples"),
        ("https://[2001:2::1]/", "for benchmarks"),
        ("https://[2001:10::1]/", "reserved"),
        ("https://[4000::1]/", "reserved"),
        ("https://[5f00::1]/", "reserved"),
        // Others' networks.
        ("https://10.0.0.1/", "a private network"),
        ("https://10.255.255.255/", "a private network"),
        ("https://0xa000001/", "a private network"),
        ("https://012.0.0.1/", "a private network"),
        ("https://172.16.0.1/", "a private network"),
        ("https://172.31.255.254/", "a private network"),
        ("https://192.168.1.1/", "a private network"),
        ("https://3232235777/", "a private network"),
        ("https://169.254.169.254/latest/meta-data/", "link-local"),
        ("https://169.254.170.2/v2/credentials", "link-local"),
        ("https://2852039166/", "link-local"),
        ("https://0xa9fea9fe/", "link-local"),
        ("https://0251.0376.0251.0376/", "link-local"),
        ("https://169.254.43518/", "link-local"),
        ("https://100.64.0.1/", "a carrier's inside"),
        ("https://100.100.100.200/", "a carrier's inside"),
        ("https://100.127.255.255/", "a carrier's inside"),
        ("https://192.0.0.192/", "reserved"),
        ("https://192.0.2.1/", "for examples"),
        ("https://198.51.100.1/", "for examples"),
        ("https://203.0.113.1/", "for examples"),
        ("https://198.18.0.1/", "for benchmarks"),
        ("https://198.19.255.255/", "for benchmarks"),
        ("https://192.88.99.1/", "carries another address"),
        ("https://224.0.0.1/", "multicast"),
        ("https://239.255.255.250/", "multicast"),
        ("https://240.0.0.1/", "reserved"),
        ("https://255.255.255.255/", "reserved"),
        // Public, but anyone can read along.
        ("http://8.8.8.8/", "over https only"),
        ("http://134744072/", "over https only"),
        ("http://[2606:4700::1111]/", "over https only"),
        ("http://[::ffff:8.8.8.8]/", "over https only"),
        // Another protocol's port, by address or by name.
        ("https://8.8.8.8:22/", "the port 22 is not one for http"),
        ("https://example.com:25/", "the port 25 is not one for http"),
        ("https://example.com:0/", "the port 0 is not one for http"),
        ("https://example.com:53/", "the port 53 is not one for http"),
        ("https://example.com:445/", "the port 445 is not one for http"),
        ("https://example.com:2375/", "the port 2375 is not one for http"),
        ("https://example.com:3306/", "the port 3306 is not one for http"),
        ("https://example.com:5432/", "the port 5432 is not one for http"),
        ("https://example.com:6379/", "the port 6379 is not one for http"),
        ("https://example.com:10250/", "the port 10250 is not one for http"),
        ("https://example.com:11211/", "the port 11211 is not one for http"),
        ("https://example.com:27017/", "the port 27017 is not one for http"),
        ("https://example.com:65536/", "is not a URL"),
        // No place at all.
        ("https://256.0.0.1/", "is not a URL"),
        ("https://0x100000000/", "is not a URL"),
        ("https://1.2.3.4.5/", "is not a URL"),
        ("https://[::1/", "is not a URL"),
        ("https://", "is not a URL"),
        ("//127.0.0.1/", "is not a URL"),
        ("127.0.0.1:8080", "is not a URL"),
        ("ftp://127.0.0.1/", "must begin with https:// or http://"),
        ("file:///etc/passwd", "must begin with https:// or http://"),
        ("gopher://127.0.0.1:6379/_FLUSHALL", "must begin with https:// or http://"),
        ("unix:/var/run/docker.sock", "must begin with https:// or http://"),
        ("https://example.com@127.0.0.1/", "must not hold a user or password"),
        ("https://user:password@example.com/", "must not hold a user or password"),
    ];

    /// What is said against it where clients name a place: for an `http` job, a webhook, and a gateway.
    fn said(url: &str) -> [Option<String>; 3] {
        let payload = serde_json::json!({"method": "POST", "url": url});
        let payload: crate::wire::http::HttpPayload = serde_json::from_value(payload).expect("a payload");
        let http = payload.faults(&[]).into_iter().next().map(|fault| fault.detail);
        let gateway = url.replacen("https:", "wss:", 1).replacen("http:", "ws:", 1);
        [http, super::super::webhook::check_url(url, &[]).err(), super::super::gateway::check_url(&gateway, &[]).err()]
    }

    #[test]
    fn all_that_clients_try_is_refused_for_its_own_reason() {
        for (url, reason) in REFUSED {
            let [http, webhook, gateway] = said(url);
            let http = http.unwrap_or_else(|| panic!("{url} was let through"));
            assert!(http.contains(reason), "{url}: {http}");
            let webhook = webhook.unwrap_or_else(|| panic!("{url} was let through as a webhook"));
            assert!(webhook.contains(reason), "{url} as a webhook: {webhook}");
            let gateway = gateway.unwrap_or_else(|| panic!("{url} was let through as a gateway"));
            let expected = reason.replace("https", "wss").replace("http ", "ws ").replace("http:", "ws:");
            let expected = if expected.ends_with(" for http") { "is not one for" } else { expected.as_str() };
            assert!(gateway.contains(expected), "{url} as a gateway: {gateway}");
        }
        assert!(REFUSED.len() >= 60);
    }

    #[test]
    fn what_is_public_or_allowed_passes() {
        for url in ["https://8.8.8.8/", "https://example.com:8443/x", "https://[2606:4700::1111]/", "http://by.name/"] {
            assert_eq!(said(url), [None, None, None], "{url}");
        }
        let allow = ["10.1.0.0/16".parse().expect("a network")];
        let check = |url: &str| check(&Url::parse(url).expect("a URL"), &allow);
        assert_eq!(check("http://10.1.2.3:8080/"), Ok(()));
        assert_eq!(
            check("http://10.1.2.3:6379/"),
            Err(Refused::Port(6379)),
            "an allowed network has other services too"
        );
        assert!(check("http://10.2.0.1:8080/").is_err());
    }
}
