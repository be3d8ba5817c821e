//! The mistakes of one macro call, collected so that one compile shows them all.

use std::fmt::Display;

use proc_macro2::{Span, TokenStream};
use quote::ToTokens;

/// The mistakes found so far.
#[derive(Default)]
pub(crate) struct Mistakes(Option<syn::Error>);

impl Mistakes {
    /// Adds a mistake at `tokens`, the code that the user has to change.
    pub(crate) fn at(&mut self, tokens: impl ToTokens, message: impl Display) {
        self.add(syn::Error::new_spanned(tokens, message));
    }

    /// Adds a mistake at `span`, for code that is missing.
    pub(crate) fn at_span(&mut self, span: Span, message: impl Display) {
        self.add(syn::Error::new(span, message));
    }

    /// Adds a parser's error.
    pub(crate) fn add(&mut self, error: syn::Error) {
        match &mut self.0 {
            Some(errors) => errors.combine(error),
            none => *none = Some(error),
        }
    }

    /// Returns the value, or adds the parser's error.
    pub(crate) fn take<T>(&mut self, result: syn::Result<T>) -> Option<T> {
        result.map_err(|error| self.add(error)).ok()
    }

    /// Returns `true` if there is no mistake so far.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns one `compile_error!` per mistake.
    pub(crate) fn into_compile_errors(self) -> TokenStream {
        self.0.map(syn::Error::into_compile_error).unwrap_or_default()
    }

    /// Returns the texts of all mistakes, in the order they were found.
    #[cfg(test)]
    pub(crate) fn texts(self) -> Vec<String> {
        self.0.map(|errors| errors.into_iter().map(|error| error.to_string()).collect()).unwrap_or_default()
    }
}
