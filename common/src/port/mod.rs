//! The promises everything else is written against. Adapters keep them; a conformance suite checks that they do.

pub mod bus;
pub mod clock;
pub mod gate;
pub mod queue;
pub mod store;

pub use bus::{Bus, BusError, BusMessage, Subscription, Topic};
pub use clock::Clock;
pub use gate::Gates;
pub use queue::{Popped, Queue, QueueError, Ready, Refill};
pub use store::{Store, StoreError};
