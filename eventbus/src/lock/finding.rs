//! A change that would break stored events.

/// A change that would break stored events, and its repair.
#[derive(Debug, Clone, PartialEq, Eq, derive_more::Display)]
#[display("`{event_type}`{}: {fault}\n    to repair: {repair}", shown_versions(versions))]
#[non_exhaustive]
pub struct Finding {
    /// The wire name of the stored events.
    pub event_type: String,
    /// The versions of the stored events.
    pub versions: Vec<u32>,
    /// The fault, with the field.
    pub fault: String,
    /// What to change in the code.
    pub repair: String,
}

fn shown_versions(versions: &[u32]) -> String {
    let list: Vec<_> = versions.iter().map(u32::to_string).collect();
    match list.len() {
        0 => String::new(),
        1 => format!(" (version {})", list[0]),
        _ => format!(" (versions {})", list.join(", ")),
    }
}
