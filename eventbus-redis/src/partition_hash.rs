//! The partition of an aggregate.
//!
//! Invariant: it depends only on the tenant, the id of the aggregate and the number of partitions, in every release.

use eventbus::{StreamId, Uuid};
use xxhash_rust::xxh3::xxh3_64;

/// Returns the partition of an aggregate.
pub(crate) fn partition_of(aggregate: &StreamId, partitions: u32) -> u32 {
    partition_of_parts(aggregate.tenant_id(), aggregate.aggregate_id().as_str(), partitions)
}

/// Returns the partition of an aggregate by its tenant and id; the id need not be valid.
pub(crate) fn partition_of_parts(tenant_id: Option<Uuid>, aggregate_id: &str, partitions: u32) -> u32 {
    let id = aggregate_id.as_bytes();
    let hash = match tenant_id {
        None => xxh3_64(id),
        Some(tenant) => xxh3_64(&[tenant.as_bytes(), id].concat()),
    };
    u32::try_from(hash % u64::from(partitions.max(1))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use eventbus::{AggregateId, Name};

    use super::*;

    fn order(id: &str) -> StreamId {
        StreamId::new(Name::from_static("Order"), AggregateId::try_from(id).unwrap())
    }

    #[test]
    fn an_aggregate_keeps_its_partition_for_ever() {
        for (id, of_4, of_16, of_1024) in GOLDEN {
            let found = [4, 16, 1_024].map(|partitions| partition_of(&order(id), partitions));
            assert_eq!(found, [of_4, of_16, of_1024], "{id}");
            assert_eq!(partition_of(&order(id), 1), 0);
        }
        let of_tenant = order("order-1").with_tenant_id(Some(Uuid::from_u128(7)));
        assert_eq!([4, 16, 1_024].map(|partitions| partition_of(&of_tenant, partitions)), ORDER_1_OF_TENANT_7);
    }

    /// Computed by `xxhsum -H3`.
    const GOLDEN: [(&str, u32, u32, u32); 4] = [
        ("a", 3, 15, 543),
        ("order-1", 2, 6, 118),
        ("01939c8e-5d2a-7c3b-8f4e-1a2b3c4d5e6f", 0, 0, 832),
        ("path/to ☂.rs", 1, 9, 825),
    ];

    /// Computed by `xxhsum -H3` of the 16 bytes of the tenant and those of the id.
    const ORDER_1_OF_TENANT_7: [u32; 3] = [1, 5, 37];

    #[test]
    fn aggregates_are_spread_evenly() {
        let mut counts = [0_u32; 16];
        for number in 0..16_000 {
            counts[partition_of(&order(&format!("order-{number}")), 16) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..=1_150).contains(count)), "{counts:?}");
    }
}
