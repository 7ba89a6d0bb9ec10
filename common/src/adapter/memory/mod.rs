//! Queue, bus and gates inside one process: for `errand dev` and whoever runs without Redis.

mod bus;
mod gate;
mod queue;

pub use bus::MemoryBus;
pub use gate::MemoryGates;
pub use queue::MemoryQueue;
