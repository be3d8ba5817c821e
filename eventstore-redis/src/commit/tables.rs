//! The tables of a projection: single keys, or all keys with one prefix.

use eventbus::port::Shadow;

use crate::{
    RedisTransactionError,
    keys::{self, StoreKeys},
};

const KEY_BYTES_MAX: usize = 1_024;

/// A table: one key, or `stem*`, which is all keys that begin with the stem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table<'t> {
    Key(&'t str),
    Prefix(&'t str),
}

impl<'t> Table<'t> {
    /// Parses a name in `tables(..)`.
    pub(crate) fn parse(text: &'t str) -> Result<Self, RedisTransactionError> {
        let Some(stem) = text.strip_suffix('*') else {
            return check_key(text).map(|()| Self::Key(text));
        };
        check_key(stem)?;
        if keys::may_be_reserved(stem) {
            return Err(invalid_key(text, "keys of the store begin with it"));
        }
        Ok(Self::Prefix(stem))
    }

    pub(crate) fn contains(self, key: &str) -> bool {
        match self {
            Self::Key(table) => table == key,
            Self::Prefix(stem) => key.starts_with(stem),
        }
    }
}

/// Parses the tables of a shadow.
pub(crate) fn parse_tables(shadow: &Shadow) -> Result<Vec<Table<'_>>, RedisTransactionError> {
    shadow.tables.iter().map(|table| Table::parse(table)).collect()
}

/// Returns the stored key that a transaction writes for `key`: in a rebuild, the copy.
pub(crate) fn key_to_write(
    keys: &StoreKeys,
    shadow: Option<&Shadow>,
    key: &str,
) -> Result<String, RedisTransactionError> {
    check_key(key)?;
    match shadow {
        None => Ok(keys.live_key(key)),
        Some(shadow) if is_in_tables(shadow, key)? => Ok(keys.shadow_copy(&shadow.name, key)),
        Some(shadow) => {
            let (key, shadow) = (key.to_owned(), shadow.name.to_string());
            Err(RedisTransactionError::NotInTables { key, shadow })
        }
    }
}

/// Returns the stored key that a transaction reads for `key`: in a rebuild, the copy if its tables have the key.
pub(super) fn key_to_read(
    keys: &StoreKeys,
    shadow: Option<&Shadow>,
    key: &str,
) -> Result<String, RedisTransactionError> {
    check_key(key)?;
    match shadow {
        Some(shadow) if is_in_tables(shadow, key)? => Ok(keys.shadow_copy(&shadow.name, key)),
        _ => Ok(keys.live_key(key)),
    }
}

fn is_in_tables(shadow: &Shadow, key: &str) -> Result<bool, RedisTransactionError> {
    Ok(parse_tables(shadow)?.iter().any(|table| table.contains(key)))
}

/// Refuses a key that a user may not write.
fn check_key(key: &str) -> Result<(), RedisTransactionError> {
    if key.is_empty() {
        return Err(invalid_key(key, "it is empty"));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(invalid_key(key, "it has more than 1024 bytes"));
    }
    if keys::is_reserved(key) {
        return Err(invalid_key(key, "it begins like the store's own keys"));
    }
    Ok(())
}

fn invalid_key(key: &str, reason: &'static str) -> RedisTransactionError {
    let key = key.chars().take(100).flat_map(char::escape_debug).collect();
    RedisTransactionError::InvalidKey { key, reason }
}

/// Returns the `SCAN` pattern that matches all keys with this literal stem.
pub(crate) fn scan_pattern(stem: &str) -> String {
    let mut pattern = String::with_capacity(stem.len() + 2);
    for c in stem.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '^' | '-' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern + "*"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_keys_or_stems_and_never_the_store() {
        assert_eq!(Table::parse("stats:orders").unwrap(), Table::Key("stats:orders"));
        assert_eq!(Table::parse("order:*").unwrap(), Table::Prefix("order:"));
        assert!(Table::Prefix("order:").contains("order:1") && !Table::Prefix("order:").contains("orders"));
        for bad in ["", "*", "a*", "aggregate:Order:1", "aggregate:*", "eventstore:x*", "projection:", "check*"] {
            assert!(Table::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_match_literally() {
        assert_eq!(scan_pattern("a[b]?*-\\"), r"a\[b\]\?\*\-\\*");
    }
}
