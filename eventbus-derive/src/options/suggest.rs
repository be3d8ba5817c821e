//! What to say about an option that does not exist.

/// The farthest that a key may be from a known one to be taken for a misspelling.
const FAR: usize = 3;

/// The message for an unknown key: the nearest known one, and all of them.
pub(super) fn unknown(attribute: &str, key: &str, known: &[&str]) -> String {
    let options = known.join(", ");
    match nearest(key, known) {
        Some(near) => format!("unknown `{attribute}` option `{key}`; did you mean `{near}`? (options: {options})"),
        None => format!("unknown `{attribute}` option `{key}` (options: {options})"),
    }
}

/// The known key that `key` was probably meant to be.
pub(super) fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|&other| (strsim::levenshtein(key, other), other))
        .filter(|&(distance, _)| distance <= FAR && distance < key.chars().count())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, other)| other)
}
