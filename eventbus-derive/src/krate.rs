//! The path under which generated code finds the library.

use proc_macro2::TokenStream;
use quote::quote_spanned;
use syn::{Ident, Path, parse_quote};

use crate::{
    mistakes::Mistakes,
    options::{Known, Options},
};

/// The option that every macro has.
pub(crate) const CRATE: Known = Known::path("crate", "`crate = my_framework::eventbus`");

/// The path given with `crate = ..`, else the crate `eventbus`.
pub(crate) fn path(options: &Options, mistakes: &mut Mistakes) -> Path {
    options.path("crate", mistakes).unwrap_or_else(|| parse_quote!(::eventbus))
}

/// Where `ident` stands in the source, for start-up messages.
pub(crate) fn source(krate: &Path, ident: &Ident) -> TokenStream {
    quote_spanned!(ident.span()=> #krate::Source::new(::core::file!(), ::core::line!()))
}
