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
        .map(|&other| (distance(key, other), other))
        .filter(|&(distance, _)| distance <= FAR && distance < key.chars().count())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, other)| other)
}

/// How many characters must be inserted, removed or replaced to turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
