//! Conversion of ids and names to names of files, and back.
//!
//! Invariant: one id has one spelling, because the file name decides which worker creates a file first.

use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::error::{FileQueueError, Result};

pub(crate) const EVENTS: &str = "events";
pub(crate) const RESULTS: &str = "results";
pub(crate) const CLAIMS: &str = "claims";
pub(crate) const PAYLOADS: &str = "payloads";
pub(crate) const REMOVED: &str = "removed";
pub(crate) const DEAD_LETTERS: &str = "dead_letters";
pub(crate) const RELAYS: &str = "relays";

/// The file with the identity of the queue in the folder.
pub(crate) const QUEUE_FILE: &str = "queue.json";

/// All folders of a queue, except for that of temporary files.
pub(crate) const FOLDERS: [&str; 7] = [EVENTS, RESULTS, CLAIMS, PAYLOADS, REMOVED, DEAD_LETTERS, RELAYS];

/// Number of ids that share a folder.
const IDS_PER_FOLDER: u64 = 1_000;
/// Largest jump of ids. A file further ahead is not from a publisher: no crash leaves so many ids unused.
pub(crate) const ID_JUMP_MAX: u64 = 100 * IDS_PER_FOLDER;
/// Largest number of a file. No counter comes so far, and the numbers after it do not overflow.
const NUMBER_MAX: u64 = u64::MAX / 2;
/// Maximum length of a name in a file system, less the suffixes of this crate.
const ENCODED_NAME_BYTES_MAX: usize = 200;

/// The ASCII characters that become `%` and hex.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-').remove(b'.');

/// Returns the name of the file of a number: `000000000012.json`.
pub(crate) fn file_name(id: u64) -> String {
    format!("{id:012}.json")
}

pub(crate) fn parse_file_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    let number: u64 = digits.parse().ok()?;
    (file_name(number) == name && (1..=NUMBER_MAX).contains(&number)).then_some(number)
}

/// Returns the number of the folder of a thousand ids that an id is in.
pub(crate) const fn shard_index(id: u64) -> u64 {
    id / IDS_PER_FOLDER
}

/// Returns the name of a folder of a thousand ids: `000000000`.
pub(crate) fn shard_name(index: u64) -> String {
    format!("{index:09}")
}

pub(crate) fn parse_shard_name(name: &str) -> Option<u64> {
    let index: u64 = name.parse().ok()?;
    (shard_name(index) == name).then_some(index)
}

pub(crate) fn id_path(folder: &Path, id: u64) -> PathBuf {
    folder.join(shard_name(shard_index(id))).join(file_name(id))
}

/// Returns a name that any file system accepts: letters, digits, `_`, `-` and inner dots stay, the rest becomes `%` and
/// hex.
pub(crate) fn encode(what: &'static str, name: &str) -> Result<String> {
    let invalid = |reason| FileQueueError::invalid_name(what, name, reason);
    if name.is_empty() {
        return Err(invalid("it is empty"));
    }
    let mut encoded = utf8_percent_encode(name, ENCODED).to_string();
    if encoded.starts_with('.') {
        encoded.replace_range(..1, "%2E");
    }
    match encoded.len() > ENCODED_NAME_BYTES_MAX {
        true => Err(invalid("it is too long for the name of a file")),
        false => Ok(encoded),
    }
}

/// Returns the name that [`encode`] made this text from; `None` if it made it from no name.
pub(crate) fn decode(name: &str) -> Option<String> {
    let text = percent_decode_str(name).decode_utf8().ok()?.into_owned();
    (encode("name", &text).ok()? == name).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        assert_eq!(parse_file_name(&file_name(12)), Some(12));
        assert_eq!(
            (parse_file_name(&file_name(NUMBER_MAX)), parse_file_name(&file_name(NUMBER_MAX + 1))),
            (Some(NUMBER_MAX), None)
        );
        for foreign in ["12.json", "000000000012", "000000000000.json", "+00000000012.json", "000000000012.json.bak"] {
            assert_eq!(parse_file_name(foreign), None, "{foreign}");
        }
        assert_eq!(id_path(Path::new("e"), 12_345), Path::new("e/000000012/000000012345.json"));
        assert_eq!((parse_shard_name("000000012"), parse_shard_name("12")), (Some(12), None));
    }

    #[test]
    fn every_name_comes_back() {
        for name in ["task_1", "../etc/passwd", ".", "a b", "é", "100%", "a/b", "con.trol"] {
            let file = encode("name", name).unwrap();
            assert!(!file.contains('/') && !file.starts_with('.'), "{file}");
            assert_eq!(decode(&file).as_deref(), Some(name));
        }
        assert_eq!(encode("name", "task_1").unwrap(), "task_1");
        assert!(encode("name", "").is_err());
        assert!(encode("name", &"x".repeat(300)).is_err());
        assert_eq!((decode("%zz"), decode("%61"), decode("a b")), (None, None, None));
    }
}
