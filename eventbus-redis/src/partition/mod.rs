//! Partitions: several streams instead of one. Each aggregate has its partition, so that its events keep their order
//! with any number of consumers in a group.
//!
//! Invariant: the partition of an aggregate depends on its id and the number of partitions alone, and the script that
//! publishes checks that number. Two publishers that disagree would break the order.

mod repartition;

use redis::{RedisError, ScriptInvocation};

pub use repartition::{RepartitionError, UnfinishedGroup};

use crate::{
    bus::BusInner,
    error::{CommandError, PartitionCountMismatch},
    keys,
    partition_hash::partition_of,
    script,
};

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
