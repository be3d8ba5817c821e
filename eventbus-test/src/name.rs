//! Names that no two tests share.
//!
//! Invariant: at most 63 bytes, because PostgreSQL cuts longer names without an error, and two cut names can be the
//! same.

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

/// Returns a name that no other call returns: the process has a random seed of 51 bits, the call a number.
pub(crate) fn unique(prefix: &str) -> String {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    format!("{}_{}{}", safe(prefix), seed(), base36(call))
}

/// The seed has a fixed width: seed and number can follow each other without a separator.
fn seed() -> &'static str {
    static SEED: OnceLock<String> = OnceLock::new();
    SEED.get_or_init(|| {
        let random = RandomState::new().hash_one((process::id(), SystemTime::now()));
        format!("{:0>width$}", base36(random % 36_u64.pow(SEED_DIGITS)), width = SEED_DIGITS as usize)
    })
}

/// Makes `prefix` a lower-case identifier that PostgreSQL does not reserve.
fn safe(prefix: &str) -> String {
    let kept = prefix.chars().take(PREFIX_BYTES);
    let name: String = kept.map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    let reserved = name.starts_with("pg_") || !name.starts_with(|c: char| c.is_ascii_lowercase());
    if reserved { format!("t_{name}") } else { name }
}

fn base36(mut number: u64) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut digits = Vec::new();
    loop {
        digits.push(char::from(DIGITS[(number % 36) as usize]));
        number /= 36;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, thread};

    use super::*;

    #[test]
    fn threads_never_get_the_same_name() {
        let threads: Vec<_> = (0..8).map(|_| thread::spawn(|| (0..500).map(|_| unique("t")).collect())).collect();
        let names: Vec<String> = threads.into_iter().flat_map(|t| -> Vec<String> { t.join().unwrap() }).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), 8 * 500);
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
        assert_eq!([0, 35, 36, 1295].map(base36), ["0", "z", "10", "zz"]);
    }
}
