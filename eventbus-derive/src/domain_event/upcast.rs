//! The upcasters of an event: the list as written, and the chain of functions that decodes earlier versions.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::{Ident, Path, parse::Parser, spanned::Spanned};

use super::model::Upcaster;
use crate::{mistakes::Mistakes, options::Options, text};

/// Parses the list in `upcast(..)`: one upcaster for each version below `version`, from 1.
pub(super) fn parse(version: u32, options: &Options, mistakes: &mut Mistakes) -> Vec<Upcaster> {
    let Some((span, members)) = options.list("upcast", mistakes) else {
        return Vec::new();
    };
    let (earlier, given) = (version as usize - 1, members.len());
    if given != earlier {
        mistakes.at_span(span, wrong_number(version, given));
    }
    let mut upcasters: Vec<Upcaster> = Vec::new();
    for member in members {
        let Some(upcaster) = upcaster(&member) else {
            mistakes.at(
                member,
                "an upcaster is a struct with `#[derive(OldEvent)]`, as in `OrderCreatedV1`, a function with a \
                 lower-case name, as in `add_currency`, or `_` where the fields fit the next version as they are",
            );
            continue;
        };
        if let Upcaster::Struct(path) = &upcaster
            && let Some(code) = upcasters.iter().find_map(|other| repeated(other, path))
        {
            mistakes.at(path, format!("`{code}` is listed twice: it holds the fields of one version"));
        }
        upcasters.push(upcaster);
    }
    upcasters
}

fn upcaster(member: &TokenStream) -> Option<Upcaster> {
    if syn::parse2::<syn::Token![_]>(member.clone()).is_ok() {
        return Some(Upcaster::Unchanged);
    }
    let path = Path::parse_mod_style.parse2(member.clone()).ok()?;
    let name = text::name_of(&path.segments.last()?.ident);
    match name.starts_with(char::is_uppercase) {
        true => Some(Upcaster::Struct(path)),
        false => Some(Upcaster::Function(path)),
    }
}

/// Returns the code of a struct if `other`, an earlier item of the list, is the same struct.
fn repeated(other: &Upcaster, path: &Path) -> Option<String> {
    let code = text::code_of(path);
    matches!(other, Upcaster::Struct(other) if text::code_of(other) == code).then_some(code)
}

fn wrong_number(version: u32, given: usize) -> String {
    let earlier = version - 1;
    let listed = if given == 1 { "1 is".to_owned() } else { format!("{given} are") };
    if earlier == 0 {
        return format!(
            "version 1 has no earlier one to upcast from, and {listed} listed: set `version = {}`",
            given + 1
        );
    }
    let versions = if earlier == 1 { "version 1".to_owned() } else { format!("each version from 1 to {earlier}") };
    format!(
        "`version = {version}` takes one upcaster for {versions}, in this order, and {listed} listed; \
         `_` stands for a version whose fields fit the next one as they are"
    )
}

/// The code of a chain.
pub(super) struct Chain {
    /// The functions, one for each earlier version, from the last to the first.
    pub(super) functions: TokenStream,
    /// The decoders, from version 1.
    pub(super) decoders: TokenStream,
    /// The marks and checks of the structs in it.
    pub(super) checks: TokenStream,
}

/// Writes the chain of the event `ident`; without the checks if the model is not `complete`.
///
/// The function of a version has the input of its upcaster, and calls the function of the next version with the result.
pub(super) fn expand(krate: &Path, ident: &Ident, upcasters: &[Upcaster], complete: bool) -> Chain {
    let private = quote!(#krate::__private);
    // the user's paths can see these functions, and may mean a function `upcast_from_1` of the user
    let function = |index: usize| format_ident!("__eventbus_upcast_from_{}", index + 1, span = Span::mixed_site());
    let (mut functions, mut decoders, mut checks) = (TokenStream::new(), TokenStream::new(), TokenStream::new());
    let (value, json) = (Ident::new("value", Span::mixed_site()), Ident::new("json", Span::mixed_site()));
    for (index, upcaster) in upcasters.iter().enumerate() {
        let (this, version) = (function(index), index as u32 + 1);
        let input = input_of(&private, upcaster);
        let (name, next) = (function(index + 1), upcasters.get(index + 1));
        let body = match (upcaster, next) {
            (Upcaster::Struct(old), Some(next)) => {
                let next = input_of(&private, next);
                let converted = convert(&private, ident, old, &next, &value, version);
                quote!(#name(#converted?))
            }
            (Upcaster::Struct(old), None) => convert(&private, ident, old, &quote!(#ident), &value, version),
            (Upcaster::Function(_) | Upcaster::Unchanged, next) => {
                let change = match upcaster {
                    Upcaster::Function(path) => {
                        quote_spanned!(path.span()=> #private::change(#version, &mut #value, #path)?;)
                    }
                    _ => TokenStream::new(),
                };
                let rest = match next {
                    Some(Upcaster::Struct(next)) => quote!(#name(#private::read_fields::<#next>(&#value)?)),
                    Some(_) => quote!(#name(#value)),
                    None => quote!(#private::read_current::<#ident>(&#value)),
                };
                quote!(#change #rest)
            }
        };
        functions.extend(quote! {
            #[allow(unused_mut)]
            fn #this(mut #value: #input) -> ::core::result::Result<#ident, #private::UpcastFault> { #body }
        });
        decoders.extend(quote!(|#json| #this(#private::read_old::<#input>(#json)?),));
        if let Upcaster::Struct(old) = upcaster {
            let is_first = !upcasters[..index].iter().any(|other| repeated(other, old).is_some());
            checks
                .extend(is_first.then(|| quote!(#[automatically_derived] impl #private::Upcasts<#old> for #ident {})));
            checks.extend(complete.then(|| check(&private, ident, old, version)));
        }
    }
    Chain { functions, decoders, checks }
}

fn input_of(private: &TokenStream, upcaster: &Upcaster) -> TokenStream {
    match upcaster {
        Upcaster::Struct(path) => quote!(#path),
        Upcaster::Function(_) | Upcaster::Unchanged => quote!(#private::Fields),
    }
}

/// Writes the conversion of a struct into the input of the next version.
///
/// For a struct of a different event there is no type `Old`, so the compiler does not check the conversion, and reports
/// one error only.
fn convert(
    private: &TokenStream,
    ident: &Ident,
    old: &Path,
    next: &TokenStream,
    value: &Ident,
    version: u32,
) -> TokenStream {
    let of_event = quote_spanned!(old.span()=> <#old as #private::OldEventOf<#ident>>);
    quote_spanned!(old.span()=> <#of_event::Old as #private::ConvertTo<#next>>::convert(#of_event::into_old(#value), #version))
}

/// Writes the check that the version of a struct is that of its place in the list.
fn check(private: &TokenStream, ident: &Ident, old: &Path, version: u32) -> TokenStream {
    let code = text::code_of(old);
    let message = format!(
        "`{code}` is listed at place {version} of `upcast(..)`, which is that of version {version}; \
         its `#[event(version = ..)]` says another one"
    );
    quote_spanned! {old.span()=>
        const _: () = ::core::assert!(<#old as #private::OldEventOf<#ident>>::VERSION == #version, #message);
    }
}
