//! One of something for each server, made when it is first needed.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use super::topology::{Place, Topology};

/// See the module. There is one server, except on a cluster.
pub(super) struct Routes<T> {
    topology: Arc<Topology>,
    make: Box<dyn Fn(Place) -> T + Send + Sync>,
    made: Mutex<HashMap<Place, T>>,
}

impl<T> fmt::Debug for Routes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Routes({})", self.topology.url())
    }
}

impl<T: Clone> Routes<T> {
    pub(super) fn new(topology: Arc<Topology>, make: impl Fn(Place) -> T + Send + Sync + 'static) -> Self {
        Self { topology, make: Box::new(make), made: Mutex::default() }
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.topology
    }

    /// That of the server that has `key`.
    ///
    /// # Errors
    /// Nobody says who that is.
    pub(super) async fn of(&self, key: &str) -> Result<T, String> {
        let place = self.topology.place_of(key).await?;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.get(&place) {
            return Ok(known.clone());
        }
        // Servers that have left the cluster go with the next that comes.
        made.retain(|known, _| self.topology.knows(known));
        Ok(made.entry(place).or_insert_with_key(|place| (self.make)(place.clone())).clone())
    }
}
