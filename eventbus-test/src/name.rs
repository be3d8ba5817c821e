//! Names that no two tests share.
//!
//! Invariant: at most 63 bytes, because PostgreSQL cuts longer names without an error, and two cut names can be the
//! same.
//!
//! Invariant: no name is the beginning of another one, because a test removes all keys that contain its name.

use std::{
    hash::{BuildHasher, RandomState},
    process,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

const PREFIX_BYTES: usize = 40;
const SEED_DIGITS: u32 = 10;
/// For two billion calls, more than a process makes.
const CALL_DIGITS: u32 = 6;

/// Returns a name that no other call returns, and that no other name begins with: it ends with a random seed of the
/// process, of 51 bits, and the number of the call, both of a fixed width.
pub(crate) fn unique(prefix: &str) -> String {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    format!("{}_{}{}", safe(prefix), seed(), base36(call, CALL_DIGITS))
}

fn seed() -> &'static str {
    static SEED: OnceLock<String> = OnceLock::new();
    SEED.get_or_init(|| {
        let random = RandomState::new().hash_one((process::id(), SystemTime::now()));
        base36(random % 36_u64.pow(SEED_DIGITS), SEED_DIGITS)
    })
}

/// Makes `prefix` a lower-case identifier that PostgreSQL does not reserve.
fn safe(prefix: &str) -> String {
    let kept = prefix.chars().take(PREFIX_BYTES);
    let name: String = kept.map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    let reserved = name.starts_with("pg_") || !name.starts_with(|c: char| c.is_ascii_lowercase());
    if reserved { format!("t_{name}") } else { name }
}

/// Writes a number to base 36, with zeros in front up to the width.
fn base36(mut number: u64, width: u32) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut digits = Vec::new();
    while number > 0 {
        digits.push(char::from(DIGITS[(number % 36) as usize]));
        number /= 36;
    }
    let digits: String = digits.iter().rev().collect();
    format!("{digits:0>width$}", width = width as usize)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn threads_never_get_the_same_name_or_one_that_begins_with_it() {
        let threads: Vec<_> = (0..8).map(|_| thread::spawn(|| (0..500).map(|_| unique("t")).collect())).collect();
        let mut names: Vec<String> = threads.into_iter().flat_map(|t| -> Vec<String> { t.join().unwrap() }).collect();
        // sorted, a name stands right before those that begin with it
        names.sort_unstable();
        for pair in names.windows(2) {
            assert!(!pair[1].starts_with(&pair[0]), "{pair:?}");
        }
    }

    #[test]
    fn a_name_is_an_identifier_whatever_the_prefix() {
        for prefix in ["orders", "", "9lives", "pg_x", "Straße/ΔΔ", "_x", &"Long".repeat(50)] {
            let name = unique(prefix);
            assert!(name.len() <= 63, "{name}");
            assert!(name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.starts_with("pg_"), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{name}");
        }
    }

    #[test]
    fn numbers_are_written_to_base_36() {
        assert_eq!([0, 35, 36, 1296].map(|number| base36(number, 2)), ["00", "0z", "10", "100"]);
    }
}
