//! Tests of the engine on the store in memory, and of a shard alone.

mod model;
mod order;
