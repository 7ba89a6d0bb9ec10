//! Which addresses Errand may call: public ones over https, and what the operator has allowed over http too.

// Addresses as plain values: nothing here opens a connection.
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Why an address may not be called.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// It is not a public one, and not allowed.
    #[error("the address {0} is not public; an operator can allow its network in [outbound] allow")]
    NotPublic(IpAddr),
    /// It is public, and the call is not encrypted.
    #[error(
        "the public address {0} is reached over https only; an operator can allow http to its network in [outbound] allow"
    )]
    NotEncrypted(IpAddr),
}

/// Judges one address.
///
/// # Errors
/// Why it may not be called.
pub fn check(address: IpAddr, https: bool, allow: &[IpNet]) -> Result<(), Refused> {
    // An IPv4 address in IPv6 clothes is that IPv4 address.
    let address = address.to_canonical();
    if allow.iter().any(|network| network.contains(&address)) {
        Ok(())
    } else if !is_public(address) {
        Err(Refused::NotPublic(address))
    } else if !https {
        Err(Refused::NotEncrypted(address))
    } else {
        Ok(())
    }
}

/// Whether an address is one of the open internet's: not this host, a private network, a provider's inside, a cloud's
/// metadata, a group, a tunnel or an example.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127, _, _)            // this network, private, loopback
            | (100, 64..=127, _)        // shared by carriers
            | (169, 254, _)             // link-local, and the clouds' metadata
            | (172, 16..=31, _)
            | (192, 168, _)
            | (192, 0, 0 | 2)           // protocol assignments, examples
            | (192, 88, 99)             // 6to4 relays
            | (198, 18 | 19, _)         // benchmarks
            | (198, 51, 100)
            | (203, 0, 113)
            | (224..=255, _, _) // multicast, reserved, broadcast
    )
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    // Only 2000::/3 is given out; what is special in it carries other addresses, or none.
    segments[0] & 0xe000 == 0x2000
        && !matches!(
            segments,
            [0x2001, 0..=0x01ff, ..]            // protocol assignments, Teredo
                | [0x2001, 0x0db8, ..]          // examples
                | [0x2002, ..]                  // 6to4
                | [0x3fff, 0..=0x0fff, ..] // examples
        )
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
                assert!(matches!(judge(address, https, &[]), Err(Refused::NotPublic(_))), "{address}");
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
    fn a_refusal_says_what_to_do() {
        let told = judge("127.0.0.1", false, &[]).expect_err("refused").to_string();
        assert!(told.contains("127.0.0.1") && told.contains("[outbound] allow"), "{told}");
    }
}
