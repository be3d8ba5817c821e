//! The partition of an aggregate.
//!
//! Invariant: it depends on the id of the aggregate and the number of partitions alone, in every version.

use xxhash_rust::xxh3::xxh3_64;

/// Returns the partition of an aggregate.
pub(crate) fn partition_of(aggregate_id: &str, partitions: u32) -> u32 {
    let number = xxh3_64(aggregate_id.as_bytes()) % u64::from(partitions.max(1));
    u32::try_from(number).unwrap_or_default()
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
