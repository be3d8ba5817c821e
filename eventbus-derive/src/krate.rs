//! The path of the library in generated code.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;
use syn::{Path, parse_quote, parse_str};

use crate::{
    mistakes::Mistakes,
    options::{Known, Options},
    surroundings,
};

/// The option that every macro has.
pub(crate) const CRATE: Known = Known::path("crate", "`crate = my_framework::eventbus`");

/// Returns the path given with `crate = ..`, else `::eventbus`. Reports a crate that depends on it under a different
/// name.
pub(crate) fn path(options: &Options, mistakes: &mut Mistakes) -> Path {
    if let Some(path) = options.path("crate", mistakes) {
        return path;
    }
    let renamed = surroundings::renamed().filter(|_| options.key("crate").is_none());
    let renamed = renamed.and_then(|name| Some((parse_str(&format!("::{name}")).ok()?, name)));
    let Some((path, name)) = renamed else {
        return parse_quote!(::eventbus);
    };
    mistakes.at_span(
        Span::call_site(),
        format!("`eventbus` is called `{name}` in the Cargo.toml of this crate: add `crate = {name}` to the attribute"),
    );
    path
}

/// Writes the place of `span` in the source, for start-up messages.
pub(crate) fn source(krate: &Path, span: Span) -> TokenStream {
    quote_spanned! {span=>
        #krate::__private::Source::new(::core::file!(), ::core::line!(), ::core::module_path!())
    }
}
