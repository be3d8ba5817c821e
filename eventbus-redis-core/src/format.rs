//! The format of keys and entries, which a hash beside them records.
//!
//! Invariant: a process that does not know a recorded format writes no key. The scripts that open a store or join a bus
//! compare it first, with `lua/format.lua`.

use redis::ScriptInvocation;

use crate::error::RedisConnectError;

/// The format of keys and entries that a release writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyFormat {
    /// Its number; a release knows this format and all lower ones.
    pub format: u32,
    /// The lowest format that a release must know to read and write beside it: the number of the last incompatible
    /// change.
    pub min_reader: u32,
}

impl KeyFormat {
    /// Adds the format to the arguments of a script: its number, then the lowest format that a reader must know.
    pub fn add_arguments(self, script: &mut ScriptInvocation<'_>) {
        script.arg(self.format).arg(self.min_reader);
    }

    /// Returns the error for the reply of a script that found the format in the hash `key` too new.
    #[must_use]
    pub fn too_new_error(self, address: &str, key: &str, format: &str, min_reader: &str) -> RedisConnectError {
        let address = address.to_owned();
        match (format.parse(), min_reader.parse()) {
            (Ok(format), Ok(min_reader)) => {
                RedisConnectError::FormatTooNew { address, key: key.to_owned(), format, min_reader, known: self.format }
            }
            _ => {
                let source = format!("key `{key}` names no format: `{format}`, `{min_reader}`").into();
                RedisConnectError::Refused { address, source }
            }
        }
    }
}
