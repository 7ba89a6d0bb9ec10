//! Where Redis is: the forms of `redis.url`.

use std::fmt;

use super::Secret;

/// The schemes a URL may begin with. `rediss` means TLS.
pub(super) const SCHEMES: &[&str] =
    &["redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"];

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// How the servers stand to each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RedisMode {
    /// One server.
    Standalone,
    /// A primary of this name, found by asking the sentinels.
    Sentinel(String),
    /// Slots over several primaries.
    Cluster,
}

/// A parsed `redis.url`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedisUrl {
    /// How the servers stand to each other.
    pub mode: RedisMode,
    /// The server; the sentinels; or some nodes of the cluster. Never empty.
    pub hosts: Vec<(String, u16)>,
    /// Whether all of them speak TLS.
    pub tls: bool,
    /// ACL user of the servers.
    pub user: Option<String>,
    /// Password of the servers, and of sentinels that ask for one.
    pub password: Option<Secret>,
    /// Number of the database; 0 on a cluster.
    pub database: u16,
}

impl RedisUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// What is wrong with it and what is allowed; without the parts that may hold a password.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or("is no URL")?;
        if !SCHEMES.contains(&scheme) {
            return Err(format!("begins with none of {}", SCHEMES.join("://, ")));
        }
        if rest.contains(['?', '#']) {
            return Err("has options after ? or #, which it can't; write %3F or %23 in a password".to_owned());
        }
        // A password may hold what separates the parts, though it should not; hosts and paths can't hold an @.
        let (credentials, place) = rest.rsplit_once('@').map_or((None, rest), |(who, place)| (Some(who), place));
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        let (transport, form) = scheme.split_once('+').unwrap_or((scheme, ""));
        let default_port = if form == "sentinel" { SENTINEL_PORT } else { REDIS_PORT };
        let hosts = authority.split(',').map(|text| host(text, default_port)).collect::<Result<Vec<_>, _>>()?;
        let (mode, database) = match form {
            "sentinel" => {
                let (name, database) = path.split_once('/').unwrap_or((path, ""));
                if name.is_empty() {
                    return Err("names no primary; write redis+sentinel://host:26379/name-of-the-primary".to_owned());
                }
                (RedisMode::Sentinel(decode(name)?), database)
            }
            "" if hosts.len() == 1 => (RedisMode::Standalone, path),
            _ => (RedisMode::Cluster, path),
        };
        let database = match database {
            "" => 0,
            number => number.parse().map_err(|_| "has something else than the number of a database at its end")?,
        };
        if mode == RedisMode::Cluster && database != 0 {
            return Err("names a database, and a cluster only has number 0".to_owned());
        }
        let (user, password) = match credentials.map(|text| text.split_once(':').unwrap_or((text, ""))) {
            None => (None, None),
            Some((user, password)) => (some(decode(user)?), some(decode(password)?).map(Secret::new)),
        };
        Ok(Self { mode, hosts, tls: transport == "rediss", user, password, database })
    }
}

/// Without credentials, so that it can be shown.
impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> = self.hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        f.write_str(&hosts.join(","))
    }
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// `host`, `host:port`, `[address]` or `[address]:port`.
fn host(text: &str, default_port: u16) -> Result<(String, u16), String> {
    let (name, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((address, ""))) => (address, None),
        Some(Some((address, rest))) => (address, Some(rest.strip_prefix(':').unwrap_or(rest))),
        Some(None) => return Err("has a [ without its ]".to_owned()),
        None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
    };
    if name.trim().is_empty() || name.contains(char::is_whitespace) {
        return Err("names no host, or a blank one in its list".to_owned());
    }
    let port = match port {
        None => default_port,
        Some(digits) => digits
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or("has something else than a port from 1 to 65535 after a host")?,
    };
    Ok((name.to_owned(), port))
}

/// Undoes percent encoding.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next().unwrap_or_default(), rest.next().unwrap_or_default()];
        let code = std::str::from_utf8(&digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(code.ok_or("has a % that is not followed by two hexadecimal digits; write %25 for %")?);
    }
    String::from_utf8(bytes).map_err(|_| "holds percent codes that are no UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> RedisUrl {
        RedisUrl::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    #[test]
    fn the_three_modes_are_told_apart() {
        let one = parsed("redis://localhost");
        assert_eq!((one.mode, one.hosts, one.tls), (RedisMode::Standalone, vec![("localhost".into(), 6379)], false));
        let cluster = parsed("rediss://a:1,b:2,[::1]:3");
        assert_eq!(cluster.mode, RedisMode::Cluster);
        assert_eq!(cluster.hosts, [("a".into(), 1), ("b".into(), 2), ("::1".into(), 3)]);
        assert!(cluster.tls);
        assert_eq!(parsed("redis+cluster://config.example").mode, RedisMode::Cluster);
        let sentinel = parsed("redis+sentinel://h1,h2:26380/mymaster/3");
        assert_eq!(sentinel.mode, RedisMode::Sentinel("mymaster".into()));
        assert_eq!((sentinel.hosts, sentinel.database), (vec![("h1".into(), 26379), ("h2".into(), 26380)], 3));
    }

    #[test]
    fn credentials_are_decoded_and_never_shown() {
        let url = parsed("redis://us%40er:hun%2Fter2@h:1/5");
        assert_eq!(url.user.as_deref(), Some("us@er"));
        assert_eq!(url.password.as_ref().map(Secret::expose), Some("hun/ter2"));
        assert_eq!(url.database, 5);
        assert!(!format!("{url} {url:?}").contains("hun/ter2"));
        let only_password = parsed("redis://:hunter2@h");
        assert_eq!((only_password.user, only_password.password.is_some()), (None, true));
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_telling_the_password() {
        for wrong in [
            "hunter2",
            "http://hunter2@h",
            "redis://",
            "redis://:hunter2@",
            "redis://:hunter2@h:port",
            "redis://:hunter2@h:0",
            "redis://:hunter2@h:70000",
            "redis://:hunter2@h,,i",
            "redis://:hunter2@h/db",
            "redis://:hunter2@h:1,i:2/4",
            "redis://:hunter2%2@h",
            "redis://:hunter2@h?protocol=resp3",
            "redis+sentinel://:hunter2@h:1",
            "redis://:hunter2@[::1",
        ] {
            let error = RedisUrl::parse(wrong).expect_err(wrong);
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
