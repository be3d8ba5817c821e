//! Partitions: several streams instead of one. Each aggregate belongs to one partition, so that its events keep their
//! order with any number of consumers in a group.
//!
//! Invariant: the partition of an aggregate depends only on its tenant, its id and the number of partitions, and the
//! script that publishes checks that number. Two publishers that disagree would break the order.

pub(crate) mod layout;
pub(crate) mod repartition;

pub use repartition::{RepartitionError, UnfinishedGroup};
