//! Partitions: several streams instead of one. Each aggregate has its partition, so that its events keep their order
//! with any number of consumers in a group.
//!
//! Invariant: the partition of an aggregate depends on its id and the number of partitions alone, and the script that
//! publishes checks that number. Two publishers that disagree would break the order.

mod repartition;

use redis::{RedisError, ScriptInvocation};
use xxhash_rust::xxh3::xxh3_64;

pub use repartition::{RepartitionError, UnfinishedGroup};

use crate::{bus::BusInner, connection::CommandError, keys, script};

/// Returns the partition of an aggregate.
pub(crate) fn partition_of(aggregate_id: &str, partitions: u32) -> u32 {
    let number = xxh3_64(aggregate_id.as_bytes()) % u64::from(partitions.max(1));
    u32::try_from(number).unwrap_or_default()
}

/// The configured number of partitions differs from that of the stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{stream}` has {recorded} partition(s) and not {configured}: set `partitions` to {recorded}, or have a bus that is \
     connected so change the number by `repartition`"
)]
#[non_exhaustive]
pub struct PartitionCountMismatch {
    /// The stream.
    pub stream: String,
    /// Number of partitions of the stream.
    pub recorded: u32,
    /// Number of partitions in the configuration.
    pub configured: u32,
}

impl BusInner {
    /// Returns the buses of the partitions, or this one if there is one stream.
    pub(crate) fn partitions_or_self(&self) -> Vec<&Self> {
        match self.partitions.is_empty() {
            true => vec![self],
            false => self.partitions.iter().map(|part| &**part).collect(),
        }
    }

    /// Returns `true` if this is one of several partitions.
    pub(crate) fn is_partition(&self) -> bool {
        self.stream != self.base_stream
    }

    /// Returns the partition that carries the events of an aggregate; this bus if there is one stream.
    pub(crate) fn partition_for(&self, aggregate_id: &str) -> &Self {
        let number = partition_of(aggregate_id, self.config.partitions) as usize;
        self.partitions.get(number).map_or(self, |part| part)
    }

    /// Prepares joining the layout of the stream, or recording it.
    pub(crate) fn join_layout_script(&self) -> ScriptInvocation<'static> {
        let mut join = script::JOIN_LAYOUT.key(keys::layout(&self.base_stream));
        join.key(&self.base_stream);
        for number in 0..self.config.partitions {
            join.key(keys::partition(&self.base_stream, number));
        }
        join.arg(self.config.partitions).arg(self.layout_generation());
        join
    }

    /// Adds the layout that a script relies on when it adds to partitions.
    pub(crate) fn add_layout_arguments(&self, script: &mut ScriptInvocation<'_>) {
        script.key(keys::layout(&self.base_stream)).arg(self.layout_generation());
    }

    /// Runs a script that adds to partitions; records the layout again if the server has lost it.
    pub(crate) async fn add_to_partitions<T: redis::FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, CommandError> {
        match self.connection.run(script).await {
            Err(CommandError::Sent(error)) if error.code() == Some("NOLAYOUT") => {
                let _: (u32, String) = self.connection.run_idempotent(&self.join_layout_script()).await?;
                tracing::warn!(
                    stream = self.base_stream,
                    "the server has lost the layout of the partitions; recording it again"
                );
                self.connection.run(script).await
            }
            reply => reply,
        }
    }

    /// Returns the number of partitions that an error reports, if it reports one.
    pub(crate) fn find_partition_count_mismatch(&self, error: &RedisError) -> Option<PartitionCountMismatch> {
        if error.code() != Some("LAYOUT") {
            return None;
        }
        Some(self.partition_count_mismatch(error.detail()?.split(' ').next()?.parse().ok()?))
    }

    pub(crate) fn partition_count_mismatch(&self, recorded: u32) -> PartitionCountMismatch {
        PartitionCountMismatch { stream: self.base_stream.clone(), recorded, configured: self.config.partitions }
    }
}

#[cfg(test)]
mod tests {
    use super::partition_of;

    #[test]
    fn an_aggregate_keeps_its_partition_for_ever() {
        for (id, of_4, of_16, of_1024) in GOLDEN {
            let found = [4, 16, 1_024].map(|partitions| partition_of(id, partitions));
            assert_eq!(found, [of_4, of_16, of_1024], "{id}");
            assert_eq!(partition_of(id, 1), 0);
        }
    }

    /// Computed by `xxhsum -H3`.
    const GOLDEN: [(&str, u32, u32, u32); 5] = [
        ("", 2, 2, 194),
        ("a", 3, 15, 543),
        ("order-1", 2, 6, 118),
        ("01939c8e-5d2a-7c3b-8f4e-1a2b3c4d5e6f", 0, 0, 832),
        ("path/to ☂.rs", 1, 9, 825),
    ];

    #[test]
    fn aggregates_are_spread_evenly() {
        let mut counts = [0_u32; 16];
        for number in 0..16_000 {
            counts[partition_of(&format!("order-{number}"), 16) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..=1_150).contains(count)), "{counts:?}");
    }
}
