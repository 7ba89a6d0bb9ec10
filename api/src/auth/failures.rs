//! The limit on failed authentications.

use std::{
    borrow::Cow,
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::http::StatusCode;

use crate::{limit, problem::Problem};

/// Who counts as one: an IPv4 address, however it is written, or the 64 bits of IPv6 that one customer is given.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Failed authentications, by address and minute.
pub(super) struct Failures {
    per_minute: u32,
    by_address: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

impl Failures {
    const WINDOW: Duration = Duration::from_secs(60);

    pub(super) fn new(per_minute: u32) -> Self {
        Self { per_minute, by_address: Mutex::default() }
    }

    /// Counts one, and says 401 with this detail, or 429 to who failed too often.
    pub(super) fn refuse(&self, peer: IpAddr, detail: Cow<'static, str>) -> Problem {
        match self.count_at(peer, Instant::now()) {
            Ok(()) => Problem::unauthenticated(detail),
            Err(wait) => {
                let detail = format!("More than {} failed authentications a minute from this address", self.per_minute);
                Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail).retry_after(wait.as_secs().max(1))
            }
        }
    }

    /// Counts one; `Err`: too many, and how long until the next is looked at.
    fn count_at(&self, peer: IpAddr, now: Instant) -> Result<(), Duration> {
        let peer = network(peer);
        let mut counts = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= limit::ADDRESSES_COUNTED && !counts.contains_key(&peer) {
            counts.retain(|_, (since, _)| now.duration_since(*since) < Self::WINDOW);
            if counts.len() >= limit::ADDRESSES_COUNTED {
                return Err(Self::WINDOW);
            }
        }
        let (since, count) = counts.entry(peer).or_insert((now, 0));
        if now.duration_since(*since) >= Self::WINDOW {
            (*since, *count) = (now, 0);
        }
        if *count >= self.per_minute {
            return Err(Self::WINDOW.saturating_sub(now.duration_since(*since)));
        }
        *count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_one_address_are_limited_and_forgotten_after_a_minute() {
        let failures = Failures::new(2);
        let (start, one, other) = (Instant::now(), IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        assert!(failures.count_at(one, start).is_ok() && failures.count_at(one, start).is_ok());
        assert_eq!(failures.count_at(one, start), Err(Failures::WINDOW));
        assert!(failures.count_at(other, start).is_ok());
        assert!(failures.count_at(one, start + Failures::WINDOW).is_ok());
    }

    #[test]
    fn addresses_that_one_client_can_choose_among_count_as_one() {
        let network = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), network("2001:db8:1:2::9"));
        assert_ne!(network("2001:db8:1:2::"), network("2001:db8:1:3::"));
        assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1"));
        assert_ne!(network("10.0.0.1"), network("10.0.0.2"));
    }

    #[test]
    fn the_addresses_that_are_counted_are_bounded() {
        let failures = Failures::new(2);
        let start = Instant::now();
        for number in 0..u32::try_from(limit::ADDRESSES_COUNTED).expect("fits") {
            assert!(failures.count_at(IpAddr::from(number.to_be_bytes()), start).is_ok());
        }
        let stranger = IpAddr::from([192, 0, 2, 1]);
        assert!(failures.count_at(stranger, start).is_err(), "there is no room to count it");
        assert!(failures.count_at(stranger, start + Failures::WINDOW).is_ok());
        assert_eq!(failures.by_address.lock().expect("lock").len(), 1);
    }
}
