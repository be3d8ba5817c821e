//! The splitter of an attribute's tokens into options and their values.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::{Error, Ident, Result};

/// An option as written.
pub(super) struct Found {
    pub(super) key: Ident,
    pub(super) value: Value,
}

/// The unparsed value of an option.
pub(super) enum Value {
    Nothing,
    Equals(TokenStream),
    List(TokenStream),
}

/// Splits at commas, but not at those between `<` and `>`; a trailing comma adds no part.
pub(crate) fn comma_separated(tokens: TokenStream) -> Vec<TokenStream> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut depth = 0_usize;
    for token in tokens {
        if let TokenTree::Punct(punct) = &token {
            match punct.as_char() {
                '<' => depth += 1,
                '>' => depth = depth.saturating_sub(1),
                ',' if depth == 0 => {
                    parts.push(part.drain(..).collect());
                    continue;
                }
                _ => {}
            }
        }
        part.push(token);
    }
    parts.push(part.into_iter().collect());
    parts.retain(|part: &TokenStream| !part.is_empty());
    parts
}

/// Splits one option into key and value.
pub(super) fn key_and_value(option: TokenStream) -> Result<Found> {
    let mut tokens = option.into_iter();
    let key = match tokens.next() {
        Some(TokenTree::Ident(key)) => key,
        other => {
            return Err(Error::new_spanned(other, "expected an option: `key = value`"));
        }
    };
    let value = match tokens.next() {
        None => Value::Nothing,
        Some(TokenTree::Punct(punct)) if punct.as_char() == '=' => {
            return Ok(Found { key, value: Value::Equals(tokens.collect()) });
        }
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis => Value::List(group.stream()),
        Some(other) => {
            return Err(Error::new_spanned(other, format!("expected `=` after `{key}`")));
        }
    };
    match tokens.next() {
        None => Ok(Found { key, value }),
        Some(other) => Err(Error::new_spanned(other, "expected a comma between options")),
    }
}
