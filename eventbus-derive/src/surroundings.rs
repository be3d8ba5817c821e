//! What stands around the item that a macro is given: read from its source file, and from the manifest of its crate.
//!
//! Keep: what cannot be read or parsed is no mistake. It only lets one message of ours stand for several of rustc's.

use std::{env, fs, path::PathBuf};

use proc_macro2::Ident;
use syn::{Attribute, Block, ImplItem, Item, Meta, Path, Stmt, Token, TraitItem, punctuated::Punctuated};

use crate::text;

/// Whether the function stands in an `impl` block or a trait, as far as its file tells.
pub(crate) fn is_in_a_block(function: &Ident) -> bool {
    // only what is indented can be in a block
    if !proc_macro::is_available() || proc_macro::Span::call_site().column() <= 1 {
        return false;
    }
    let items = source().and_then(|source| syn::parse_file(&source).ok()).map(|file| file.items);
    items.is_some_and(|items| is_in_a_block_of(&items, &text::name_of(function)))
}

fn is_in_a_block_of(items: &[Item], function: &str) -> bool {
    let mut found = Found::default();
    found.search(items, function);
    found.in_a_block && !found.free
}

/// Where functions with `#[handler]` and one name were found.
#[derive(Default)]
struct Found {
    in_a_block: bool,
    free: bool,
}

impl Found {
    fn search(&mut self, items: &[Item], function: &str) {
        let is_it = |ident: &Ident, attrs: &[Attribute]| *ident == function && attrs.iter().any(is_handler);
        for item in items {
            match item {
                Item::Fn(item) => {
                    self.free |= is_it(&item.sig.ident, &item.attrs);
                    self.search_block(&item.block, function);
                }
                Item::Impl(block) => {
                    for item in &block.items {
                        if let ImplItem::Fn(item) = item {
                            self.in_a_block |= is_it(&item.sig.ident, &item.attrs);
                            self.search_block(&item.block, function);
                        }
                    }
                }
                Item::Trait(block) => {
                    for item in &block.items {
                        if let TraitItem::Fn(item) = item {
                            self.in_a_block |= is_it(&item.sig.ident, &item.attrs);
                        }
                    }
                }
                Item::Mod(module) => {
                    if let Some((_, items)) = &module.content {
                        self.search(items, function);
                    }
                }
                _ => {}
            }
        }
    }

    fn search_block(&mut self, block: &Block, function: &str) {
        for statement in &block.stmts {
            if let Stmt::Item(item) = statement {
                self.search(std::slice::from_ref(item), function);
            }
        }
    }
}

fn is_handler(attribute: &Attribute) -> bool {
    attribute.path().segments.last().is_some_and(|segment| segment.ident == "handler")
}

/// A struct or enum that has a name already; what it derives.
pub(crate) struct Taken {
    derives: Vec<String>,
}

impl Taken {
    /// Whether the type derives a trait of this name.
    pub(crate) fn derives(&self, name: &str) -> bool {
        self.derives.iter().any(|derived| derived == name)
    }
}

/// The struct or enum `name` in the module of the item `beside`, as far as their file tells.
pub(crate) fn type_beside(beside: &Ident, name: &Ident) -> Option<Taken> {
    if !proc_macro::is_available() {
        return None;
    }
    let source = source()?;
    let (beside, name) = (text::name_of(beside), text::name_of(name));
    // hardly any file has one, and others need not be parsed
    if !["enum", "struct"].iter().any(|word| source.contains(&format!("{word} {name}"))) {
        return None;
    }
    taken_in(&syn::parse_file(&source).ok()?.items, &beside, &name)
}

fn taken_in(items: &[Item], beside: &str, name: &str) -> Option<Taken> {
    let named = |name: &str| {
        items.iter().find_map(|item| match item {
            Item::Enum(item) if item.ident == name && item.generics.params.is_empty() => Some(&item.attrs),
            Item::Struct(item) if item.ident == name && item.generics.params.is_empty() => Some(&item.attrs),
            _ => None,
        })
    };
    if let (Some(attrs), Some(_)) = (named(name), named(beside)) {
        return Some(Taken { derives: derives(attrs) });
    }
    items.iter().find_map(|item| match item {
        Item::Mod(module) => taken_in(&module.content.as_ref()?.1, beside, name),
        _ => None,
    })
}

fn derives(attrs: &[Attribute]) -> Vec<String> {
    let lists = attrs.iter().filter_map(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("derive") => {
            list.parse_args_with(Punctuated::<Path, Token![,]>::parse_terminated).ok()
        }
        _ => None,
    });
    lists.flatten().filter_map(|path| path.segments.last().map(|last| last.ident.to_string())).collect()
}

fn source() -> Option<String> {
    fs::read_to_string(proc_macro::Span::call_site().local_file()?).ok()
}

/// The name under which the crate that is compiled depends on `eventbus`, if it is another one.
pub(crate) fn renamed() -> Option<String> {
    if !proc_macro::is_available() {
        return None;
    }
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?).join("Cargo.toml");
    renamed_in(&fs::read_to_string(manifest).ok()?)
}

fn renamed_in(manifest: &str) -> Option<String> {
    let (mut section, mut renamed) = (String::new(), None);
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']').to_owned();
            if section.ends_with("dependencies.eventbus") {
                return None;
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        let (key, value) = (key.trim(), value.trim());
        let value: String = value.split_whitespace().collect();
        let is_eventbus = value.contains(r#"package="eventbus""#);
        if section == "package" && key == "name" && value == r#""eventbus""# {
            return None;
        }
        if section.ends_with("dependencies") {
            match key.split('.').next() {
                Some("eventbus") => return None,
                Some(name) if is_eventbus => renamed = Some(name.to_owned()),
                _ => {}
            }
        } else if let Some((_, name)) = section.split_once("dependencies.")
            && key == "package"
            && value == r#""eventbus""#
        {
            renamed = Some(name.to_owned());
        }
    }
    renamed.map(|name| name.trim_matches('"').replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_dependency_is_found_in_each_way_to_write_it() {
        for (manifest, name) in [
            ("[dependencies]\nevents = { version = \"1\", package = \"eventbus\" }", Some("events")),
            ("[dependencies]\nmy-events={package=\"eventbus\",path=\"..\"} # ours", Some("my_events")),
            ("[target.'cfg(unix)'.dependencies.events]\nversion = \"1\"\npackage = \"eventbus\"", Some("events")),
            ("[dependencies]\nevents = { package = \"eventbus\" }\neventbus = \"1\"", None),
            ("[dependencies.eventbus]\nversion = \"1\"\n[dev-dependencies]\nold = { package = \"eventbus\" }", None),
            ("[package]\nname = \"eventbus\"\n[dev-dependencies]\nold = { package = \"eventbus\" }", None),
            ("[dependencies]\neventbus.workspace = true", None),
            ("[dependencies]\neventbus-redis = \"1\"", None),
        ] {
            assert_eq!(renamed_in(manifest).as_deref(), name, "{manifest}");
        }
    }

    #[test]
    fn a_function_in_a_block_is_told_from_a_free_one() {
        let is_in_a_block = |source: &str| is_in_a_block_of(&syn::parse_file(source).unwrap().items, "on_opened");
        assert!(is_in_a_block("mod a { impl B { #[handler(group = \"a\")] async fn on_opened(e: &E) {} } }"));
        assert!(is_in_a_block("trait B { #[eventbus::handler] async fn on_opened(e: &E) {} }"));
        assert!(is_in_a_block("fn main() { impl B { #[handler] async fn on_opened(e: &E) {} } }"));
        assert!(!is_in_a_block("mod a { #[handler] async fn on_opened(e: &E) {} }"));
        assert!(!is_in_a_block(
            "impl B { async fn on_opened(e: &E) {} } mod a { #[handler] async fn on_opened(e: &E) {} }"
        ));
        assert!(!is_in_a_block("impl B { #[handler] fn on_opened() {} } mod a { #[handler] fn on_opened() {} }"));
    }

    #[test]
    fn a_type_of_the_same_module_has_a_name() {
        let taken = |source: &str| taken_in(&syn::parse_file(source).unwrap().items, "Account", "AccountEvent");
        let own =
            taken("mod a { #[derive(Debug)] #[derive(eventbus::DomainEvent)] enum AccountEvent {} struct Account; }");
        assert!(own.is_some_and(|own| own.derives("DomainEvent") && own.derives("Debug") && !own.derives("Clone")));
        assert!(taken("mod a { enum AccountEvent {} } struct Account;").is_none());
        assert!(taken("struct Account; fn f() -> AccountEvent {}").is_none());
    }
}
