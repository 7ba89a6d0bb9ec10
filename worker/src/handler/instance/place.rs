//! Where the bridge of an instance is: over http within the networks that the operator allows, over https elsewhere. The connection
//! is made to addresses that are judged once more, by the client that makes it.

use std::{net::IpAddr, time::Duration};

use errand_common::{
    config::Outbound,
    domain::{FailureClass, address, instance::Instance},
    wire::instance::in_url,
};
use ipnet::IpNet;

use super::{HandlerFailure, unfit};

/// Finds bridges.
pub(super) struct Places {
    allow: Vec<IpNet>,
    /// Longest wait for the addresses of a name.
    lookup: Duration,
}

impl Places {
    pub(super) fn new(config: &Outbound) -> Self {
        Self { allow: config.allow.clone(), lookup: Duration::from_secs(config.connect_timeout_seconds.into()) }
    }

    /// `http://host:port`, or with `https`.
    pub(super) async fn base_url(&self, instance: &Instance) -> Result<String, HandlerFailure> {
        let host = instance.server_host.as_deref().unwrap_or_default();
        let found = match host.parse::<IpAddr>() {
            Ok(ip) => vec![ip],
            Err(_) => self.addresses(host, instance.host_port).await?,
        };
        Ok(format!("{}://{}", scheme(&found, &self.allow), destination(instance)))
    }

    async fn addresses(&self, host: &str, port: u16) -> Result<Vec<IpAddr>, HandlerFailure> {
        let unreachable = |why: String| {
            unfit(FailureClass::Transient, "NO_CONNECTION", format!("{host}:{port} can't be reached: {why}"))
        };
        match tokio::time::timeout(self.lookup, tokio::net::lookup_host((host, port))).await {
            Ok(Ok(found)) => Ok(found.map(|address| address.ip()).collect()),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable("its name was not found in time".to_owned())),
        }
    }
}

/// `host:port`: names the gate.
pub(super) fn destination(instance: &Instance) -> String {
    format!("{}:{}", in_url(instance.server_host.as_deref().unwrap_or_default()), instance.host_port)
}

fn scheme(found: &[IpAddr], allow: &[IpNet]) -> &'static str {
    let is_near = |ip: &IpAddr| address::check(*ip, false, allow).is_ok();
    if found.iter().any(is_near) { "http" } else { "https" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_called_in_the_clear_and_nothing_else() {
        let allow: Vec<IpNet> = vec!["10.1.0.0/16".parse().expect("a network")];
        let judge = |texts: &[&str]| {
            let ips: Vec<IpAddr> = texts.iter().map(|text| text.parse().expect("an address")).collect();
            scheme(&ips, &allow)
        };
        assert_eq!(judge(&["10.1.0.7"]), "http");
        assert_eq!(judge(&["8.8.8.8", "10.1.0.7"]), "http", "the client leaves the public one out");
        for far in [&["8.8.8.8"][..], &["10.2.0.1"], &["::1"], &[]] {
            assert_eq!(judge(far), "https", "{far:?}");
        }
    }
}
