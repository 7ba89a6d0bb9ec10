//! From a name to the addresses that may be called.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use errand_common::domain::address::{self, Refused};
use futures::future::BoxFuture;
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Most addresses of one name that are tried.
const ADDRESSES: usize = 8;

/// Why a name leads nowhere.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAddress {
    /// It has addresses, none of which may be called.
    #[error("{0}")]
    Refused(Refused),
    /// It has none.
    #[error("the name has no address")]
    NoneFound,
}

/// Looks a name up.
pub(super) type Lookup = dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync;

/// Asks what this machine asks.
pub(super) fn system() -> Arc<Lookup> {
    Arc::new(|name| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    })
}

/// Finds the addresses of a name, and leaves out those that may not be called. The connection is made to exactly what it
/// returns, so a name can't mean one address when it is judged and another when it is called.
pub(super) struct Resolver {
    pub(super) https: bool,
    pub(super) allow: Arc<[IpNet]>,
    pub(super) lookup: Arc<Lookup>,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (https, allow) = (self.https, self.allow.clone());
        let found = (self.lookup)(name.as_str().to_owned());
        Box::pin(async move {
            let permitted = permitted(found.await?, https, &allow)?;
            let addresses: Addrs = Box::new(permitted.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}

/// Those of a name's addresses that may be called, a few at most.
///
/// # Errors
/// There are none.
pub(crate) fn permitted(
    found: impl IntoIterator<Item = IpAddr>,
    encrypted: bool,
    allow: &[IpNet],
) -> Result<Vec<IpAddr>, NoAddress> {
    let (mut permitted, mut refused) = (Vec::new(), None);
    for ip in found {
        match address::check(ip, encrypted, allow) {
            Ok(()) if permitted.len() < ADDRESSES => permitted.push(ip),
            Ok(()) => {}
            Err(why) => refused = Some(why),
        }
    }
    match (permitted.is_empty(), refused) {
        (false, _) => Ok(permitted),
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
        let judge = |texts: &[&str]| permitted(ips(texts), true, &[]);
        assert_eq!(judge(&["10.0.0.1", "1.1.1.1"]).expect("one is public"), ips(&["1.1.1.1"]));
        assert!(matches!(judge(&["10.0.0.1", "::1"]), Err(NoAddress::Refused(_))));
        assert_eq!(judge(&[]), Err(NoAddress::NoneFound));
    }
}
