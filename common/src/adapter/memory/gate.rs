//! Gates of this process.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    domain::{
        Timestamp,
        gate::{Entered, Gate, Permit, Policy, Verdict},
    },
    port::Gates,
};

/// Gates are looked through for idle ones when there are twice as many as after the last time, and no fewer than these.
const FEW: usize = 256;

/// The gates that this process has passed, and not forgotten.
#[derive(Debug, Default)]
pub struct MemoryGates(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    gates: HashMap<String, (Policy, Gate)>,
    /// Look through them at this number.
    sweep_at: usize,
}

impl Table {
    fn gate(&mut self, destination: &str, policy: &Policy, now: Timestamp) -> &mut Gate {
        if self.gates.len() >= self.sweep_at.max(FEW) && !self.gates.contains_key(destination) {
            self.gates.retain(|_, (policy, gate)| !gate.is_idle(policy, now));
            self.sweep_at = self.gates.len() * 2;
        }
        let (kept, gate) =
            self.gates.entry(destination.to_owned()).or_insert_with(|| (*policy, Gate::new(policy, now)));
        *kept = *policy;
        gate
    }
}

#[async_trait]
impl Gates for MemoryGates {
    async fn enter(&self, destination: &str, policy: &Policy, now: Timestamp) -> Entered {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.gate(destination, policy, now).enter(policy, Permit(Uuid::new_v4()), now)
    }

    async fn leave(
        &self,
        destination: &str,
        policy: &Policy,
        permit: Permit,
        verdict: Verdict,
        pause_until: Option<Timestamp>,
        now: Timestamp,
    ) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.gate(destination, policy, now).leave(policy, permit, verdict, pause_until, now);
    }
}
