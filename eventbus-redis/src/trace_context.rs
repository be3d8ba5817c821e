//! The trace context of an event, in the W3C's format: beside the payload of an entry, or among the attributes that the
//! application gave the event.
//!
//! Invariant: an invalid context of a foreign publisher counts as none.

use eventbus::{RecordedEvent, event::Attributes};

use crate::{keys::field, wire};

/// The size up to which, by the W3C's rules, every system passes a state on uncut.
const MAX_STATE_BYTES: usize = 512;

/// The trace that an event is part of, in the W3C's format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TraceContext {
    pub(crate) parent: String,
    pub(crate) state: Option<String>,
}

impl TraceContext {
    /// Returns the context that the application attached to an event.
    pub(crate) fn from_event(event: &RecordedEvent) -> Option<Self> {
        let attributes = event.metadata().attributes();
        if !attributes.as_json().contains(field::TRACEPARENT) {
            return None;
        }
        let map = attributes.to_map();
        let text = |name| map.get(name).and_then(serde_json::Value::as_str);
        Self::parse(text(field::TRACEPARENT), text(field::TRACESTATE))
    }

    /// Returns the context beside the payload of an entry.
    pub(crate) fn from_fields(fields: &[(String, Vec<u8>)]) -> Option<Self> {
        Self::parse(wire::flat_field(fields, field::TRACEPARENT), wire::flat_field(fields, field::TRACESTATE))
    }

    fn parse(parent: Option<&str>, state: Option<&str>) -> Option<Self> {
        let parent = parent.filter(|parent| is_parent(parent))?;
        Some(Self { parent: parent.into(), state: state.filter(|state| is_state(state)).map(Into::into) })
    }

    /// Appends the context to the fields beside the payload.
    pub(crate) fn append_to_fields(self, fields: &mut wire::EntryFields<'_>) {
        fields.push((field::TRACEPARENT, self.parent.into_bytes().into()));
        fields.extend(self.state.map(|state| (field::TRACESTATE, state.into_bytes().into())));
    }

    /// Returns the attributes with the context appended.
    pub(crate) fn append_to_attributes(self, attributes: &Attributes) -> Option<Attributes> {
        let before = attributes.as_json().trim_end().strip_suffix('}')?;
        let comma = if attributes.is_empty() { "" } else { "," };
        let own = [(field::TRACEPARENT, Some(self.parent)), (field::TRACESTATE, self.state)];
        let own = own.into_iter().filter_map(|(name, value)| Some((name.into(), value?.into())));
        let own = serde_json::Value::Object(own.collect()).to_string();
        Attributes::parse(&format!("{before}{comma}{}", own.strip_prefix('{')?)).ok()
    }
}

/// Returns `true` for a `traceparent`: version, trace, span and flags in lower-case hex, neither id of zeros only.
fn is_parent(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut hex = |digits| {
        let part = parts.next().filter(|part| part.len() == digits)?;
        part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')).then_some(part)
    };
    let (Some(version), Some(trace), Some(span), Some(_)) = (hex(2), hex(32), hex(16), hex(2)) else {
        return false;
    };
    let is_zero = |id: &str| id.bytes().all(|byte| byte == b'0');
    // later versions may add parts
    let is_known = version != "ff" && (version != "00" || parts.next().is_none());
    is_known && !is_zero(trace) && !is_zero(span) && text.len() <= MAX_STATE_BYTES
}

fn is_state(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_STATE_BYTES && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_no_traceparent_is_none() {
        assert!(is_parent(PARENT));
        assert!(is_parent(&PARENT.replacen("00", "01", 1)));
        assert!(is_parent(&format!("{}-more", PARENT.replacen("00", "01", 1))), "of a later version");
        for wrong in [
            String::new(),
            "00".into(),
            PARENT.to_uppercase(),
            PARENT.replace("0af7", "0ag7"),
            PARENT.replacen("00", "ff", 1),
            format!("{PARENT}-more"),
            format!("{PARENT} "),
            PARENT[..54].into(),
            PARENT.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            PARENT.replace("b7ad6b7169203331", &"0".repeat(16)),
        ] {
            assert!(!is_parent(&wrong), "{wrong}");
        }
        assert!(is_state("rojo=00f067aa0ba902b7,congo=t61"));
        assert!(!is_state("") && !is_state("a=\n") && !is_state(&"a".repeat(513)));
    }

    #[test]
    fn a_context_is_attached_behind_what_is_there() {
        let context = TraceContext { parent: PARENT.into(), state: Some("a=\"1\"".into()) };
        for attributes in ["{}", r#"{"n":12345678901234567890.5}"#, r#"{"traceparent":"none"}"#] {
            let attributes = Attributes::parse(attributes).unwrap();
            let attached = context.clone().append_to_attributes(&attributes).unwrap();
            assert_eq!(attached.get("traceparent"), Some(PARENT.into()));
            assert_eq!(attached.get("tracestate"), Some("a=\"1\"".into()));
            assert!(attached.as_json().starts_with(attributes.as_json().trim_end_matches('}')));
        }
    }
}
