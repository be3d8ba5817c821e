//! The Redis Streams bus of eventbus.
