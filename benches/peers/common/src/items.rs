//! Makes the items that a workload saves or publishes.

use std::sync::Arc;

use crate::{Result, order::ItemAdded};

/// Bytes of events in a round, for workloads with large events: they do fewer operations.
const BYTES_PER_ROUND: usize = 64 << 20;

/// Makes items of one size.
#[derive(Debug, Clone)]
pub struct Items {
    bytes: usize,
    /// The name of each item; that of [`ItemAdded::new`] if there is none.
    name: Option<Arc<str>>,
}

/// Makes the items of [`ItemAdded::new`].
impl Default for Items {
    fn default() -> Self {
        Self { bytes: 300, name: None }
    }
}

impl Items {
    /// Makes items of this number of bytes of fields as JSON, whose text hardly compresses.
    pub fn of_bytes(bytes: usize) -> Result<Self> {
        let unnamed = Self { bytes, name: Some("".into()) };
        let rest = serde_json::to_string(&unnamed.item(0))?.len();
        let name = bytes.checked_sub(rest).ok_or_else(|| format!("an event has {rest} bytes at least"))?;
        Ok(Self { bytes, name: Some(letters(name).into()) })
    }

    pub fn item(&self, number: u64) -> ItemAdded {
        let item = ItemAdded::new(number);
        match &self.name {
            Some(name) => ItemAdded { name: (**name).into(), options: Vec::new(), ..item },
            None => item,
        }
    }

    /// Returns the operations of a round: fewer than `most` if the events are large.
    pub fn operations(&self, most: usize) -> usize {
        most.min(BYTES_PER_ROUND / self.bytes).max(1)
    }
}

/// Returns letters and digits in a random order, the same at each call.
fn letters(count: usize) -> String {
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        // xorshift
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(LETTERS[(state >> 58) as usize])
    };
    std::iter::repeat_with(next).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_have_the_given_size() -> Result<()> {
        for bytes in [200, 4_000, 64_000] {
            let items = Items::of_bytes(bytes)?;
            assert_eq!(serde_json::to_string(&items.item(0))?.len(), bytes);
            assert_eq!(items.item(3).cents(), ItemAdded::new(3).cents());
        }
        assert!(Items::of_bytes(10).is_err());
        Ok(())
    }

    #[test]
    fn large_items_are_fewer() -> Result<()> {
        assert_eq!(Items::default().operations(8_000), 8_000);
        assert_eq!(Items::of_bytes(64_000)?.operations(8_000), 1_048);
        Ok(())
    }
}
