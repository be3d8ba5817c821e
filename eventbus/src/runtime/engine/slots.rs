//! Sets of slots: which streams of the feed a process reads.

/// A set of the 256 [slots](crate::RecordedEvent::slot); shard `s` of `n` has the slots that leave the rest `s` when divided
/// by `n`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Slots([u64; 4]);

impl Slots {
    pub(super) const ALL: Self = Self([u64::MAX; 4]);

    /// Returns the slots of a shard.
    pub(super) fn of_shard(number: u16, count: u16) -> Self {
        let mut slots = Self::default();
        for slot in (0..=u8::MAX).filter(|slot| u16::from(*slot).checked_rem(count) == Some(number)) {
            slots.0[usize::from(slot / 64)] |= 1 << (slot % 64);
        }
        slots
    }

    pub(super) fn with(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }

    /// Returns `true` if it has all slots of `other`.
    pub(super) fn covers(self, other: Self) -> bool {
        self.with(other) == self
    }

    pub(super) fn iter(self) -> impl Iterator<Item = u8> {
        (0..=u8::MAX).filter(move |slot| self.0[usize::from(slot / 64)] & (1 << (slot % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shards_of_a_handler_have_each_slot_once() {
        for count in [1, 3, 16, 256] {
            let shards: Vec<_> = (0..count).map(|number| Slots::of_shard(number, count)).collect();
            let mut slots: Vec<_> = shards.iter().flat_map(|shard| shard.iter()).collect();
            slots.sort_unstable();
            assert_eq!(slots, (0..=u8::MAX).collect::<Vec<_>>());
            assert_eq!(shards.iter().fold(Slots::default(), |all, shard| all.with(*shard)), Slots::ALL);
            assert!(shards[0].covers(Slots::default()) && Slots::ALL.covers(shards[0]));
            assert_eq!(shards[0].covers(Slots::ALL), count == 1);
        }
    }
}
