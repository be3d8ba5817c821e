//! Texts of users and for users: durable names, and code in messages.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
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

/// Returns the tokens of code, separated by spaces, however a compiler prints them: the text is part of a stored
/// format, and must not change.
pub(crate) fn tokens_of(code: impl ToTokens) -> String {
    fn write(tokens: TokenStream, text: &mut String) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => {
                    let (open, close) = match group.delimiter() {
                        Delimiter::Parenthesis => ("( ", ") "),
                        Delimiter::Brace => ("{ ", "} "),
                        Delimiter::Bracket => ("[ ", "] "),
                        Delimiter::None => ("", ""),
                    };
                    text.push_str(open);
                    write(group.stream(), text);
                    text.push_str(close);
                }
                other => {
                    text.push_str(&other.to_string());
                    text.push(' ');
                }
            }
        }
    }
    let mut text = String::new();
    write(code.to_token_stream(), &mut text);
    text
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_the_same_text_however_they_were_written() {
        let wanted =
            "struct Order < T > { # [ serde ( default ) ] lines : Vec < ( u8 , T ) > , name : & ' static str , } ";
        for written in [
            "struct Order<T>{#[serde(default)]lines:Vec<(u8,T)>,name:&'static str,}",
            "struct Order < T > {\n # [ serde ( default ) ]\n lines : Vec < ( u8 , T ) > ,\n name : & 'static str ,\n }",
        ] {
            let tokens: TokenStream = written.parse().unwrap();
            assert_eq!(tokens_of(tokens), wanted);
        }
    }
}
