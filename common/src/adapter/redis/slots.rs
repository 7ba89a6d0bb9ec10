//! Who has which slot of a cluster.
//!
//! Learnt from whichever node answers first, corrected by each redirection, and asked for anew when a node is silent.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};
use redis::{RedisResult, Value, cmd};

use super::topology::{Place, Topology, error};

/// How many slots every cluster has.
const COUNT: u16 = 16_384;
/// Shortest time between two questions to the cluster.
const REFRESH_PAUSE: Duration = Duration::from_millis(250);
/// Most nodes asked at once.
const ASKED: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Slots {
    map: Mutex<Map>,
    /// When the cluster was last asked; held while it is.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Map {
    places: Vec<Place>,
    /// By slot, an index into `places`. Empty: nothing is known.
    owners: Vec<Option<u16>>,
}

impl Map {
    fn set(&mut self, slots: std::ops::RangeInclusive<u16>, place: Place) {
        let at = self.places.iter().position(|known| *known == place).unwrap_or_else(|| {
            self.places.push(place);
            self.places.len() - 1
        });
        self.owners.resize(COUNT.into(), None);
        for slot in slots {
            if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
                *owner = u16::try_from(at).ok();
            }
        }
    }

    fn owner(&self, slot: u16) -> Option<&Place> {
        let at = (*self.owners.get(usize::from(slot))?)?;
        self.places.get(usize::from(at))
    }
}

impl Slots {
    fn lock(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn place_of(&self, key: &str, topology: &Topology) -> Result<Place, String> {
        let slot = slot(key);
        let known = self.lock().owner(slot).cloned();
        if let Some(place) = known {
            return Ok(place);
        }
        self.refresh(topology).await;
        self.lock().owner(slot).cloned().ok_or_else(|| "no node of the cluster says who has that slot".to_owned())
    }

    pub(super) fn knows(&self, place: &Place) -> bool {
        self.lock().places.contains(place)
    }

    /// By the address of a redirection: `host:port`, where an IPv6 host has no brackets.
    pub(super) fn moved(&self, slot: u16, address: &str) -> bool {
        let Some((host, port)) = address.rsplit_once(':') else { return false };
        let Ok(port) = port.parse() else { return false };
        if host.is_empty() {
            return false;
        }
        self.lock().set(slot..=slot, Place::Node { host: host.to_owned(), port });
        true
    }

    /// Asks the cluster, unless it was asked a moment ago.
    pub(super) async fn refresh(&self, topology: &Topology) {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < REFRESH_PAUSE) {
            return;
        }
        let answer = ask(topology, self.candidates(topology)).await;
        *asked = Some(Instant::now());
        match answer {
            Ok(map) => *self.lock() = map,
            Err(error) => tracing::debug!(%error, "no node of the cluster says who has which slot"),
        }
    }

    /// Those of the configuration first: they are meant to be there always.
    fn candidates(&self, topology: &Topology) -> Vec<(String, u16)> {
        let mut candidates = topology.url().hosts.clone();
        for place in &self.lock().places {
            if let Place::Node { host, port } = place
                && !candidates.contains(&(host.clone(), *port))
            {
                candidates.push((host.clone(), *port));
            }
        }
        candidates.truncate(ASKED);
        candidates
    }
}

/// The first answer of several nodes: one that hangs costs nothing.
async fn ask(topology: &Topology, candidates: Vec<(String, u16)>) -> RedisResult<Map> {
    let limits = topology.limits();
    let each = candidates.into_iter().map(|(host, port)| async move {
        let question = async {
            let place = Place::Node { host: host.clone(), port };
            let mut node = topology.connect(&place, None).await?;
            let answer: Value = cmd("CLUSTER").arg("SLOTS").query_async(&mut node).await?;
            read(&answer, &host).ok_or_else(|| error("a node's answer about its slots makes no sense"))
        };
        let answer = tokio::time::timeout(limits.connect, question).await;
        answer.unwrap_or_else(|_| Err(error("a node of the cluster does not answer")))
    });
    let mut answers: FuturesUnordered<_> = each.collect();
    let mut last = error("the cluster has no nodes");
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(map) => return Ok(map),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Each part: first slot, last slot, the primary (host, port, …), replicas. A host that is blank is the one that was asked.
fn read(answer: &Value, asked: &str) -> Option<Map> {
    let Value::Array(parts) = answer else { return None };
    let mut map = Map::default();
    for part in parts {
        let Value::Array(fields) = part else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = &fields[..] else { return None };
        let [host, Value::Int(port), ..] = &primary[..] else { return None };
        let host = match host {
            Value::BulkString(bytes) if !bytes.is_empty() && bytes != b"?" => String::from_utf8(bytes.clone()).ok()?,
            _ => asked.to_owned(),
        };
        let place = Place::Node { host, port: (*port).try_into().ok()? };
        map.set((*first).try_into().ok()?..=(*last).try_into().ok()?, place);
    }
    (!map.places.is_empty()).then_some(map)
}

/// In which slot a key, or a sharded channel, lies: only what is between the first braces counts, if there is something.
fn slot(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    crc16(tag.filter(|tag| !tag.is_empty()).unwrap_or(key).as_bytes()) % COUNT
}

/// CRC-16/XMODEM, as the specification of Redis Cluster says.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc: u16, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot("123456789"), 0x31C3 % COUNT);
        assert_eq!(slot("{user1000}.following"), slot("user1000"));
        assert_eq!(slot("a{user1000}{b}"), slot("user1000"));
        assert_eq!(slot("{}foo"), crc16(b"{}foo") % COUNT);
    }

    fn node(host: &str, port: u16) -> Place {
        Place::Node { host: host.to_owned(), port }
    }

    #[test]
    fn an_answer_is_read_and_corrected() {
        let primary = |host: &str, port| Value::Array(vec![Value::BulkString(host.into()), Value::Int(port)]);
        let part = |first, last, primary| Value::Array(vec![Value::Int(first), Value::Int(last), primary]);
        let answer = Value::Array(vec![part(0, 8_000, primary("a", 1)), part(8_001, 16_382, primary("", 2))]);
        let slots = Slots { map: Mutex::new(read(&answer, "asked").expect("makes sense")), ..Slots::default() };
        assert_eq!(slots.lock().owner(8_000), Some(&node("a", 1)));
        assert_eq!(slots.lock().owner(8_001), Some(&node("asked", 2)));
        assert_eq!(slots.lock().owner(16_383), None, "nobody has that one");
        assert!(slots.moved(16_383, "::1:7"));
        assert_eq!(slots.lock().owner(16_383), Some(&node("::1", 7)));
        assert!(!slots.moved(0, "nonsense"));
        assert!(read(&Value::Okay, "asked").is_none());
    }
}
