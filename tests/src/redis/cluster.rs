//! A Redis Cluster of three primaries without replicas.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::sync::OnceCell;

use super::{BOOT, Redis, free_port};

/// Where each primary's slots begin.
const SLOTS: [(u32, u32); 3] = [(0, 5_460), (5_461, 10_922), (10_923, 16_383)];

/// Three primaries that share the slots.
#[derive(Debug)]
pub struct RedisCluster {
    /// The primaries, in the order of their slots; to be hurt one by one.
    pub nodes: Vec<Redis>,
}

impl RedisCluster {
    /// The cluster of this test process; booted by whoever asks first.
    ///
    /// # Panics
    /// If it can't be booted; the message says what is missing.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<RedisCluster> = OnceCell::const_new();
        SHARED
            .get_or_init(|| async { Self::boot().await.unwrap_or_else(|error| panic!("no Redis Cluster: {error:#}")) })
            .await
    }

    /// Boots a cluster of its own.
    ///
    /// # Errors
    /// If the program is missing, or the nodes don't find each other.
    pub async fn boot() -> Result<Self> {
        let mut nodes = Vec::new();
        let mut bus_ports = Vec::new();
        for (number, (first, last)) in (1_u32..).zip(SLOTS) {
            // By default it is the port plus 10,000, which may not exist.
            let bus_port = free_port()?.to_string();
            let settings = [
                ("cluster-enabled", "yes"),
                ("cluster-node-timeout", "2000"),
                ("cluster-port", &bus_port),
                // So that what the others do without one of them can be seen.
                ("cluster-require-full-coverage", "no"),
            ];
            let node = Redis::boot_with(&settings).await?;
            node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &number.to_string()]).await?;
            node.ask(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await?;
            nodes.push(node);
            bus_ports.push(bus_port);
        }
        for (node, bus_port) in nodes.iter().zip(&bus_ports).skip(1) {
            let port = node.port().to_string();
            nodes[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &port, bus_port]).await?;
        }
        let cluster = Self { nodes };
        cluster.wait_until_whole().await?;
        Ok(cluster)
    }

    /// Waits until every node serves and knows who has which slot.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn wait_until_whole(&self) -> Result<()> {
        let started = Instant::now();
        for node in &self.nodes {
            while !node
                .ask(&["CLUSTER", "INFO"])
                .await
                .is_ok_and(|info| info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3"))
            {
                ensure!(started.elapsed() < BOOT, "the cluster is not whole after {BOOT:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Where it is, as `redis.url` takes it.
    #[must_use]
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis://{}", hosts.join(","))
    }

    /// In which slot a key lies.
    ///
    /// # Panics
    /// If the first node does not answer.
    pub async fn slot(&self, key: &str) -> u32 {
        let answer = self.nodes[0].ask(&["CLUSTER", "KEYSLOT", key]).await.expect("a running node");
        answer.trim_start_matches(':').trim().parse().expect("a number")
    }

    /// Which of the nodes had a key at first.
    pub async fn owner(&self, key: &str) -> usize {
        let slot = self.slot(key).await;
        SLOTS.iter().position(|(first, last)| (*first..=*last).contains(&slot)).unwrap_or_default()
    }

    /// Gives a slot, emptied first, to the next node.
    ///
    /// # Errors
    /// If a node refuses.
    pub async fn move_slot(&self, slot: u32) -> Result<()> {
        let from = SLOTS.iter().position(|(first, last)| (first..=last).contains(&&slot)).unwrap_or_default();
        let to = (from + 1) % self.nodes.len();
        let id = self.nodes[to].ask(&["CLUSTER", "MYID"]).await?;
        let id = id.lines().nth(1).unwrap_or_default().to_owned();
        self.nodes[from].ask(&["FLUSHALL"]).await?;
        // The new owner first: a slot must never be without one.
        for node in [to, from, (to + 1) % self.nodes.len()] {
            self.nodes[node].ask(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &id]).await?;
        }
        Ok(())
    }
}
