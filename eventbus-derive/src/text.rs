//! Texts of users and for users: durable names, and code in messages.

use quote::ToTokens;
use syn::{Ident, LitStr, ext::IdentExt};

use crate::mistakes::Mistakes;

/// The longest durable name, in bytes; the same as `eventbus::event::MAX_NAME_BYTES`.
const MAX_NAME_BYTES: usize = 255;

/// Returns the name of an item without the `r#` of a raw identifier.
pub(crate) fn name_of(ident: &Ident) -> String {
    ident.unraw().to_string()
}

/// Checks a durable name where it is written; `what` names its kind (`an event type`).
pub(crate) fn check_name(what: &str, name: &LitStr, mistakes: &mut Mistakes) {
    let value = name.value();
    let problem = if value.is_empty() {
        "this one is empty".to_owned()
    } else if value.len() > MAX_NAME_BYTES {
        format!("this one has {} bytes", value.len())
    } else if value.contains(char::is_control) {
        "this one holds a control character".to_owned()
    } else {
        return;
    };
    mistakes.at(name, format!("{what} has 1 to {MAX_NAME_BYTES} bytes and no control characters: {problem}"));
}

/// Formats code as its author would write it: `legacy::Closed`, `Envelope<Closed>`.
pub(crate) fn code_of(tokens: impl ToTokens) -> String {
    tokens
        .to_token_stream()
        .to_string()
        .replace(" :: ", "::")
        .replace(":: ", "::")
        .replace(" <", "<")
        .replace("< ", "<")
        .replace(" >", ">")
        .replace(" ,", ",")
        .replace("& ", "&")
}
