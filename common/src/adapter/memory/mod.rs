//! Queue and bus inside one process: for `errand dev` and whoever runs without Redis.

mod bus;
mod queue;

pub use bus::MemoryBus;
pub use queue::MemoryQueue;
