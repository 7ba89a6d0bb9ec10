//! Queue and bus inside one process.
