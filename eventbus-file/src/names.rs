//! How ids and names become names of files, and back.
//!
//! Keep: one id has one spelling. Exclusive creation decides by the name of a file.

use std::path::{Path, PathBuf};

use crate::error::{FileQueueError, Result};

pub(crate) const EVENTS: &str = "events";
pub(crate) const RESULTS: &str = "results";
pub(crate) const CLAIMS: &str = "claims";
pub(crate) const SUBSCRIPTIONS: &str = "subscriptions";
pub(crate) const PAYLOADS: &str = "payloads";
pub(crate) const REMOVED: &str = "removed";
pub(crate) const DEAD_LETTERS: &str = "dead_letters";
pub(crate) const REPLAYS: &str = "replays";
pub(crate) const RELAYS: &str = "relays";

/// The file that says which queue the folder holds.
pub(crate) const QUEUE: &str = "queue.json";

/// All folders of a queue but the one of temporary files.
pub(crate) const FOLDERS: [&str; 9] =
    [EVENTS, RESULTS, CLAIMS, SUBSCRIPTIONS, PAYLOADS, REMOVED, DEAD_LETTERS, REPLAYS, RELAYS];

/// How many ids share a folder.
const PER_FOLDER: u64 = 1_000;
/// How far ids may jump. What lies further ahead was not put there by a publisher: no crash leaves so many unused.
pub(crate) const FAR: u64 = 100 * PER_FOLDER;
/// No number that counts something comes so far; those after it can be told, too.
const HIGHEST: u64 = u64::MAX / 2;
/// What a file system takes, less what we put behind it.
const LONGEST: usize = 200;

/// `000000000012.json`.
pub(crate) fn numbered(id: u64) -> String {
    format!("{id:012}.json")
}

/// The number of a file that is named by one.
pub(crate) fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    let number: u64 = digits.parse().ok()?;
    (numbered(number) == name && (1..=HIGHEST).contains(&number)).then_some(number)
}

/// Which folder of a thousand ids an id is in.
pub(crate) const fn shard_index(id: u64) -> u64 {
    id / PER_FOLDER
}

/// `000000000`: the name of a folder of a thousand ids.
pub(crate) fn shard_of(index: u64) -> String {
    format!("{index:09}")
}

/// The number of a folder of a thousand ids.
pub(crate) fn shard_number(name: &str) -> Option<u64> {
    let index: u64 = name.parse().ok()?;
    (shard_of(index) == name).then_some(index)
}

/// The path of a file that is named by an id.
pub(crate) fn path_of(folder: &Path, id: u64) -> PathBuf {
    folder.join(shard_of(shard_index(id))).join(numbered(id))
}

/// A name that any file system takes: letters, digits, `_`, `-` and inner dots stay, the rest becomes `%` and hex.
pub(crate) fn encoded(what: &'static str, name: &str) -> Result<String> {
    let invalid = |reason| FileQueueError::InvalidName { what, value: name.chars().take(40).collect(), reason };
    if name.is_empty() {
        return Err(invalid("it is empty"));
    }
    let mut encoded = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => encoded.push(char::from(byte)),
            b'.' if at > 0 => encoded.push('.'),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    match encoded.len() > LONGEST {
        true => Err(invalid("it is too long for the name of a file")),
        false => Ok(encoded),
    }
}

/// The name that was [`encoded`] so; `None` if none was.
pub(crate) fn decoded(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let hex = [rest.next()?, rest.next()?];
        bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
    }
    let text = String::from_utf8(bytes).ok()?;
    (encoded("name", &text).ok()? == name).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        assert_eq!(number(&numbered(12)), Some(12));
        assert_eq!((number(&numbered(HIGHEST)), number(&numbered(HIGHEST + 1))), (Some(HIGHEST), None));
        for foreign in ["12.json", "000000000012", "000000000000.json", "+00000000012.json", "000000000012.json.bak"] {
            assert_eq!(number(foreign), None, "{foreign}");
        }
        assert_eq!(path_of(Path::new("e"), 12_345), Path::new("e/000000012/000000012345.json"));
        assert_eq!((shard_number("000000012"), shard_number("12")), (Some(12), None));
    }

    #[test]
    fn every_name_comes_back() {
        for name in ["task_1", "../etc/passwd", ".", "a b", "é", "100%", "a/b", "con.trol"] {
            let file = encoded("name", name).unwrap();
            assert!(!file.contains('/') && !file.starts_with('.'), "{file}");
            assert_eq!(decoded(&file).as_deref(), Some(name));
        }
        assert_eq!(encoded("name", "task_1").unwrap(), "task_1");
        assert!(encoded("name", "").is_err());
        assert!(encoded("name", &"x".repeat(300)).is_err());
        assert_eq!((decoded("%zz"), decoded("%61"), decoded("a b")), (None, None, None));
    }
}
