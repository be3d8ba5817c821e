//! The trace that an event is part of, in the W3C's format: among the attributes that travel beside its fields.
//!
//! Invariant: an invalid context of a foreign publisher counts as none.

use super::{attributes::Attributes, record::RecordedEvent};

/// By the W3C's rules, every system passes on a state of up to this many bytes uncut.
const MAX_STATE_BYTES: usize = 512;

/// The place of an event or a span in a trace, as [W3C Trace Context] writes it.
///
/// [W3C Trace Context]: https://www.w3.org/TR/trace-context/
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    parent: String,
    state: Option<String>,
}

impl TraceContext {
    /// Returns the context of these values of `traceparent` and `tracestate`; `None` if the first one is not valid. An
    /// invalid state is left out.
    #[must_use]
    pub fn parse(parent: impl Into<String> + AsRef<str>, state: Option<&str>) -> Option<Self> {
        ids_of(parent.as_ref())?;
        Some(Self { parent: parent.into(), state: state.filter(|state| is_state(state)).map(Into::into) })
    }

    /// Returns the context among the attributes of an event.
    #[must_use]
    pub fn from_event(event: &RecordedEvent) -> Option<Self> {
        Self::from_attributes(event.metadata().attributes())
    }

    /// Returns the context among attributes.
    #[must_use]
    pub fn from_attributes(attributes: &Attributes) -> Option<Self> {
        let (parent, state) = attributes.trace()?;
        Self::parse(parent, state.as_deref())
    }

    /// The value of `traceparent`.
    #[must_use]
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// The value of `tracestate`.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The id of the trace, as 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        self.parent.split('-').nth(1).unwrap_or_default()
    }

    /// Returns the attributes with this context, which replaces the one that they have.
    #[must_use]
    pub fn append_to_attributes(&self, attributes: &Attributes) -> Attributes {
        attributes.with_trace(&self.parent, self.state())
    }
}

/// Returns the trace id, the span id and the flags of a `traceparent`; `None` unless it consists of version, trace,
/// span and flags in lower-case hex, neither id of zeros only.
pub(crate) fn ids_of(parent: &str) -> Option<(u128, u64, u8)> {
    let mut parts = parent.split('-');
    let mut hex = |digits| {
        let part = parts.next().filter(|part| part.len() == digits)?;
        let is_hex = part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if is_hex { u128::from_str_radix(part, 16).ok() } else { None }
    };
    let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    // later versions may add parts
    let is_known = version != 0xff && (version != 0 || parts.next().is_none());
    let is_valid = is_known && trace != 0 && span != 0 && parent.len() <= MAX_STATE_BYTES;
    if is_valid { Some((trace, span.try_into().ok()?, flags.try_into().ok()?)) } else { None }
}

/// Returns `true` for a `tracestate` that can be passed on.
pub(crate) fn is_state(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_STATE_BYTES && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_no_traceparent_is_none() {
        let ids = Some((0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331, 1));
        assert_eq!(ids_of(PARENT), ids);
        assert_eq!(ids_of(&PARENT.replacen("00", "01", 1)), ids);
        assert_eq!(ids_of(&format!("{}-what-comes", PARENT.replacen("00", "cc", 1))), ids, "of a later version");
        for wrong in [
            String::new(),
            "00".into(),
            PARENT.to_uppercase(),
            PARENT.replace("0af7", "0ag7"),
            PARENT.replacen("00", "ff", 1),
            format!("{PARENT}-more"),
            format!("{PARENT} "),
            PARENT[..54].into(),
            PARENT.replace("-0af7", "-+af7"),
            format!("{}-{}", PARENT.replacen("00", "cc", 1), "a".repeat(MAX_STATE_BYTES)),
            PARENT.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            PARENT.replace("b7ad6b7169203331", &"0".repeat(16)),
        ] {
            assert_eq!(ids_of(&wrong), None, "{wrong}");
        }
        assert!(is_state("rojo=00f067aa0ba902b7,congo=t61"));
        assert!(!is_state("") && !is_state("a=\n") && !is_state(&"a".repeat(513)));
    }

    #[test]
    fn a_context_is_appended_behind_what_is_there() {
        let context = TraceContext::parse(PARENT, Some("a=\"1\"")).unwrap();
        assert_eq!(context.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        let trace = format!(r#""traceparent":"{PARENT}","tracestate":"a=\"1\""}}"#);
        for (before, after) in [
            ("{}", "{"),
            (r#"{"n":12345678901234567890.5,"o":{"p":{}}} "#, r#"{"n":12345678901234567890.5,"o":{"p":{}},"#),
            (r#"{"traceparent":"none","tracestate":1}"#, "{"),
            (r#"{"traceparent":"none","b":[]}"#, r#"{"b":[],"#),
            (r#"{"b":"tracestate", "a":1.50}"#, r#"{"b":"tracestate", "a":1.50,"#),
        ] {
            let appended = context.append_to_attributes(&Attributes::parse(before).unwrap());
            assert_eq!(appended.as_json(), format!("{after}{trace}"));
            assert_eq!(Attributes::parse(appended.as_json()).unwrap(), appended);
            assert_eq!(TraceContext::from_attributes(&appended), Some(context.clone()));
        }
    }
}
