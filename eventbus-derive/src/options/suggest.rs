//! The message for an unknown option.

/// Largest edit distance of a key that counts as a misspelling of a known one.
const FAR: usize = 3;

/// Makes the message for an unknown key: the nearest known one, and all of them.
pub(super) fn unknown(attribute: &str, key: &str, known: &[&str]) -> String {
    let options = known.join(", ");
    if let Some(near) = nearest(key, known) {
        return format!("unknown `{attribute}` option `{key}`; did you mean `{near}`? (options: {options})");
    }
    let message = format!("unknown `{attribute}` option `{key}` (options: {options})");
    // two derives have the attribute `event`
    let derive = match key {
        "aggregate" | "aggregate_type" if attribute == "event" => "DomainEvent",
        "of" if attribute == "event" => "OldEvent",
        _ => return message,
    };
    format!("{message}; `{key}` belongs to `{derive}`: `DomainEvent` and `OldEvent` are not both on one struct")
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
