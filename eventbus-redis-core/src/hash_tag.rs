//! The part of a key that decides its slot in a cluster.

/// Returns `true` if only a part of a key decides its slot: the text between the first `{` and the next `}`, unless
/// empty.
pub fn has_hash_tag(key: &str) -> bool {
    hash_tag(key) != key
}

/// Returns the part of a key that decides its slot.
pub fn hash_tag(key: &str) -> &str {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    tag.map(|(tag, _)| tag).filter(|tag| !tag.is_empty()).unwrap_or(key)
}
