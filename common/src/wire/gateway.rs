//! Where gateways may be: `wss` at public addresses; `ws` too, within the networks that the operator allows.

use ipnet::IpNet;
use url::Url;

use super::place;

/// Longest URL, in bytes.
const URL_BYTES: usize = 2_048;

/// The URL as it is kept.
///
/// # Errors
/// What is wrong with it, and what is allowed. An address behind a name is judged when it is called.
pub fn check_url(text: &str, allow: &[IpNet]) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("Gateway url is required".to_owned());
    }
    if text.len() > URL_BYTES {
        return Err(format!("may take {URL_BYTES} bytes at most"));
    }
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    if !matches!(url.scheme(), "ws" | "wss") {
        return Err("must begin with wss:// or ws://".to_owned());
    }
    if url.host().is_none() {
        return Err("must name a host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user or password; give the token as token".to_owned());
    }
    if url.fragment().is_some() {
        return Err("must not hold a fragment".to_owned());
    }
    if let Err(refused) = place::check(&url, allow) {
        return Err(refused
            .to_string()
            .replace("https", "wss")
            .replace("http ", "ws ")
            .replace("for http;", "for ws;"));
    }
    Ok(text.to_owned())
}

/// Whether two URLs of gateways name the same scheme, host and port.
#[must_use]
pub fn is_same_place(one: &str, other: &str) -> bool {
    let place = |url: &str| {
        let url = Url::parse(url.trim()).ok()?;
        Some((url.scheme().to_owned(), url.host_str()?.to_owned(), url.port_or_known_default()))
    };
    place(one).is_some_and(|one| place(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_scheme_host_and_port() {
        assert!(is_same_place("wss://gw.example/a", "wss://gw.example:443/b"));
        for other in ["ws://gw.example", "wss://other.example", "wss://gw.example:8443", "none"] {
            assert!(!is_same_place("wss://gw.example", other), "{other}");
        }
    }

    #[test]
    fn gateways_are_reached_over_wss_or_within_networks_that_are_allowed() {
        let allow: Vec<IpNet> = vec!["10.1.0.0/16".parse().expect("a network")];
        for good in ["wss://gateway.example:18789", "ws://10.1.0.7:18789/x?y=1", " wss://8.8.8.8 ", "ws://by.name"] {
            assert_eq!(check_url(good, &allow).as_deref(), Ok(good.trim()), "{good}");
        }
        for bad in [
            " ",
            "gateway",
            "https://gateway.example",
            "ws://8.8.8.8",
            "wss://10.2.0.1",
            "ws://127.0.0.1:1",
            "wss://user@gateway.example",
            "wss://gateway.example/#x",
        ] {
            assert!(check_url(bad, &allow).is_err(), "{bad}");
        }
        let told = check_url("ws://8.8.8.8", &allow).expect_err("not encrypted");
        assert!(told.contains("over wss only") && told.contains("allow ws to"), "{told}");
    }
}
