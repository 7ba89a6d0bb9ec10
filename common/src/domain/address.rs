//! Which addresses and ports Errand may call: public addresses over https, and what the operator has allowed over http too.

// Addresses as plain values: nothing here opens a connection.
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::job::text_enum;

/// Why a place may not be called.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// The address is not a public one, but of this range, and not allowed.
    #[error("the address {0} is not public ({1}); an operator can allow its network in [outbound] allow")]
    NotPublic(IpAddr, Range),
    /// It is public, and the call is not encrypted.
    #[error(
        "the public address {0} is reached over https only; an operator can allow http to its network in [outbound] allow"
    )]
    NotEncrypted(IpAddr),
    /// The port belongs to another protocol: what listens there could be made to do something by what it takes for commands.
    #[error("the port {0} is not one for http; allowed: 80, 443, and those from 1024 that no other protocol has")]
    Port(u16),
}

text_enum! {
    /// What an address that is not public is for.
    Range {
        /// No address: what listens on all of this machine's.
        Unspecified = "this machine: no address",
        /// This machine.
        Loopback = "this machine: loopback",
        /// Somebody's own network.
        Private = "a private network",
        /// The next neighbours, and where clouds keep metadata and credentials.
        LinkLocal = "link-local, where clouds keep their metadata",
        /// Between a carrier and its customers.
        Carrier = "a carrier's inside",
        /// IPv6 that carries an IPv4 address, which would be reached by it.
        Tunnel = "carries another address inside",
        /// Many at once.
        Multicast = "multicast",
        /// For books and manuals.
        Example = "for examples",
        /// For measurements.
        Benchmark = "for benchmarks",
        /// For protocols, or for nobody yet.
        Reserved = "reserved",
    }
}

/// Judges one address.
///
/// # Errors
/// Why it may not be called.
pub fn check(address: IpAddr, https: bool, allow: &[IpNet]) -> Result<(), Refused> {
    // An IPv4 address in IPv6 clothes is that IPv4 address.
    let address = address.to_canonical();
    if allow.iter().any(|network| network.contains(&address)) {
        return Ok(());
    }
    match range_of(address) {
        Some(range) => Err(Refused::NotPublic(address, range)),
        None if !https => Err(Refused::NotEncrypted(address)),
        None => Ok(()),
    }
}

/// Judges a port, wherever it is.
///
/// # Errors
/// [`Refused::Port`].
pub fn check_port(port: u16) -> Result<(), Refused> {
    let is_for_http = match port {
        80 | 443 => true,
        0..1024 => false,
        _ => !OTHER_PROTOCOLS.contains(&port),
    };
    if is_for_http { Ok(()) } else { Err(Refused::Port(port)) }
}

/// Ports from 1024 of what stores data, speaks in lines, or rules machines.
const OTHER_PROTOCOLS: &[u16] = &[
    1433, 1521, // SQL Server, Oracle
    2049, // NFS
    2181, // ZooKeeper
    2375, 2376, // Docker
    2379, 2380, // etcd
    3306, 5432, // MySQL, PostgreSQL
    3389, 5900, // remote desktops
    4369, 5671, 5672, // Erlang, AMQP
    6000, // X11
    6379, 16_379, 26_379, // Redis, its cluster's bus, Sentinel
    6665, 6666, 6667, 6668, 6669, 6697, // IRC
    9042, 9092, // Cassandra, Kafka
    10_250, 10_255, // Kubernetes' nodes
    11_211, // memcached
    27_017, 27_018, 27_019, // MongoDB
];

/// What an address is for that is not one of the open internet's.
fn range_of(address: IpAddr) -> Option<Range> {
    match address {
        IpAddr::V4(address) => range_of_v4(address),
        IpAddr::V6(address) => range_of_v6(address),
    }
}

const fn range_of_v4(address: Ipv4Addr) -> Option<Range> {
    let [a, b, c, _] = address.octets();
    Some(match (a, b, c) {
        (0, _, _) => Range::Unspecified,
        (127, _, _) => Range::Loopback,
        (10, _, _) | (172, 16..=31, _) | (192, 168, _) => Range::Private,
        (100, 64..=127, _) => Range::Carrier,
        (169, 254, _) => Range::LinkLocal,
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => Range::Example,
        (198, 18 | 19, _) => Range::Benchmark,
        (192, 88, 99) => Range::Tunnel, // relays of 6to4
        (224..=239, _, _) => Range::Multicast,
        (192, 0, 0) | (240..=255, _, _) => Range::Reserved,
        _ => return None,
    })
}

const fn range_of_v6(address: Ipv6Addr) -> Option<Range> {
    Some(match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Range::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Range::Loopback,
        // IPv4-compatible and -translated, NAT64, Teredo, 6to4.
        [0, 0, 0, 0, ..] | [0x0064, 0xff9b, ..] | [0x2001, 0, ..] | [0x2002, ..] => Range::Tunnel,
        [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => Range::Example,
        [0x2001, 2, 0, ..] => Range::Benchmark,
        [0xfc00..=0xfdff, ..] => Range::Private,
        [0xfe80..=0xfebf, ..] => Range::LinkLocal,
        [0xff00..=0xffff, ..] => Range::Multicast,
        [0x2001, 1..=0x01ff, ..] => Range::Reserved,
        // Only 2000::/3 is given out.
        [0x2000..=0x3fff, ..] => return None,
        _ => Range::Reserved,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(address: &str, https: bool, allow: &[&str]) -> Result<(), Refused> {
        let allow: Vec<IpNet> = allow.iter().map(|network| network.parse().expect("a network")).collect();
        check(address.parse().expect("an address"), https, &allow)
    }

    #[test]
    fn public_addresses_are_reached_over_https_only() {
        for address in
            ["1.1.1.1", "8.8.8.8", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "2606:4700::1111"]
        {
            assert_eq!(judge(address, true, &[]), Ok(()), "{address}");
            assert!(matches!(judge(address, false, &[]), Err(Refused::NotEncrypted(_))), "{address}");
        }
    }

    #[test]
    fn all_other_addresses_are_refused() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a00:1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:a00:1::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            for https in [true, false] {
                assert!(matches!(judge(address, https, &[]), Err(Refused::NotPublic(..))), "{address}");
            }
        }
    }

    #[test]
    fn what_the_operator_allows_is_reached_both_ways_and_nothing_beside_it() {
        let allow = ["10.1.0.0/16", "fd00::/8", "9.9.9.0/24"];
        for address in ["10.1.2.3", "::ffff:10.1.2.3", "fd12::1", "9.9.9.9"] {
            assert_eq!(judge(address, false, &allow), Ok(()), "{address}");
            assert_eq!(judge(address, true, &allow), Ok(()), "{address}");
        }
        for address in ["10.2.0.1", "::ffff:10.2.0.1", "127.0.0.1", "fe80::1"] {
            assert!(judge(address, true, &allow).is_err(), "{address}");
        }
    }

    #[test]
    fn http_has_its_ports() {
        for port in [80, 443, 1024, 3000, 8080, 8443, 18_789, 49_152, u16::MAX] {
            assert_eq!(check_port(port), Ok(()), "{port}");
        }
        for port in [0, 1, 9, 22, 25, 53, 81, 110, 445, 1023, 2375, 3306, 5432, 6379, 11_211, 27_017] {
            assert_eq!(check_port(port), Err(Refused::Port(port)), "{port}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let told = judge("127.0.0.1", false, &[]).expect_err("refused").to_string();
        assert!(told.contains("127.0.0.1") && told.contains("[outbound] allow"), "{told}");
    }
}
