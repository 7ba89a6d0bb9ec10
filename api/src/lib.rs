//! The API: REST, streams, and the relay.
