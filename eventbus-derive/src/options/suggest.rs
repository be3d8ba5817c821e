//! The message for an unknown option.

/// Largest edit distance of a key that counts as a misspelling of a known one.
const FAR: usize = 3;

/// Makes the message for an unknown key: the nearest known one, and all of them.
pub(super) fn unknown(attribute: &str, key: &str, known: &[&str]) -> String {
    let options = known.join(", ");
    match nearest(key, known) {
        Some(near) => format!("unknown `{attribute}` option `{key}`; did you mean `{near}`? (options: {options})"),
        None => format!("unknown `{attribute}` option `{key}` (options: {options})"),
    }
}

/// Returns the known key that `key` probably misspells.
pub(super) fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|&other| (strsim::levenshtein(key, other), other))
        .filter(|&(distance, _)| distance <= FAR && distance < key.chars().count())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, other)| other)
}
