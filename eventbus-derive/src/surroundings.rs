//! The surroundings of a macro's item: its source file, and the manifest of its crate.
//!
//! Invariant: a file that cannot be read or parsed is no mistake. The surroundings only let one message of ours replace
//! several of rustc's.

use std::{
    env, fs,
    path::{Path as FilePath, PathBuf},
};

use proc_macro2::Ident;
use syn::{Attribute, Block, ImplItem, Item, ItemStruct, Meta, Path, Stmt, Token, TraitItem, punctuated::Punctuated};

use crate::{parameters::contains, text};

/// Returns `true` if the function stands in an `impl` block or a trait, as far as its file shows.
pub(crate) fn is_in_a_block(function: &Ident) -> bool {
    // a function in a block is indented, so most files need no parsing
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

/// The places of functions with `#[handler]` and one name.
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

/// A struct or enum that has a wanted name already, with the traits that it derives.
pub(crate) struct Taken {
    derives: Vec<String>,
}

impl Taken {
    /// Returns `true` if the type derives a trait of this name.
    pub(crate) fn derives(&self, name: &str) -> bool {
        self.derives.iter().any(|derived| derived == name)
    }
}

/// Finds the struct or enum `name` in the module of the item `beside`, as far as their file shows. `beside` derives
/// `Aggregate` or `Decision`; types and modules that are compiled conditionally do not count, as they may be left out.
pub(crate) fn type_beside(beside: &Ident, name: &Ident) -> Option<Taken> {
    if !proc_macro::is_available() {
        return None;
    }
    let source = source()?;
    let (beside, name) = (text::name_of(beside), text::name_of(name));
    // hardly any file has one, and files without it need no parsing
    if !["enum", "struct"].iter().any(|word| source.contains(&format!("{word} {name}"))) {
        return None;
    }
    taken_in(&syn::parse_file(&source).ok()?.items, &beside, &name)
}

fn taken_in(items: &[Item], beside: &str, name: &str) -> Option<Taken> {
    let named = |name: &str| {
        let attrs = items.iter().find_map(|item| match item {
            Item::Enum(item) if item.ident == name && item.generics.params.is_empty() => Some(&item.attrs),
            Item::Struct(item) if item.ident == name && item.generics.params.is_empty() => Some(&item.attrs),
            _ => None,
        });
        attrs.filter(|attrs| !is_conditional(attrs)).map(|attrs| Taken { derives: derives(attrs) })
    };
    let has_owner = named(beside).is_some_and(|owner| owner.derives("Aggregate") || owner.derives("Decision"));
    if let Some(taken) = named(name).filter(|_| has_owner) {
        return Some(taken);
    }
    items.iter().find_map(|item| match item {
        Item::Mod(module) if !is_conditional(&module.attrs) => taken_in(&module.content.as_ref()?.1, beside, name),
        _ => None,
    })
}

fn is_conditional(attrs: &[Attribute]) -> bool {
    attrs.iter().any(|attribute| attribute.path().is_ident("cfg"))
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

/// Finds the first field of the struct `name` whose type has the word `Rc`, as far as its file shows. Returns `None` if
/// the file has several structs of this name, or an `unsafe impl`, which may vouch for the type.
pub(crate) fn field_with_rc(name: &Ident) -> Option<String> {
    if !proc_macro::is_available() {
        return None;
    }
    let source = source().filter(|source| source.contains("Rc<") && !source.contains("unsafe impl"))?;
    field_with_rc_in(&syn::parse_file(&source).ok()?.items, &text::name_of(name))
}

fn field_with_rc_in(items: &[Item], name: &str) -> Option<String> {
    let mut structs = Vec::new();
    structs_called(items, name, &mut structs);
    let [only] = structs[..] else {
        return None;
    };
    let (place, field) = only.fields.iter().enumerate().find(|(_, field)| contains(&field.ty, "Rc"))?;
    Some(field.ident.as_ref().map_or_else(|| place.to_string(), text::name_of))
}

fn structs_called<'i>(items: &'i [Item], name: &str, found: &mut Vec<&'i ItemStruct>) {
    for item in items {
        match item {
            Item::Struct(item) if item.ident == name => found.push(item),
            Item::Mod(module) => {
                let items = module.content.as_ref().map_or(&[][..], |(_, items)| items);
                structs_called(items, name, found);
            }
            _ => {}
        }
    }
}

/// Returns the name under which the compiled crate depends on `eventbus`, if it is a different one.
pub(crate) fn renamed() -> Option<String> {
    if !proc_macro::is_available() {
        return None;
    }
    let folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?);
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).ok()?;
    renamed_in(&manifest, || workspace_of(&folder))
}

/// Reads the manifest of the workspace that a folder is in.
fn workspace_of(folder: &FilePath) -> Option<String> {
    let mut manifests = folder.ancestors().filter_map(|folder| fs::read_to_string(folder.join("Cargo.toml")).ok());
    manifests.find(|manifest| manifest.lines().any(|line| line.trim().starts_with("[workspace")))
}

/// A dependency in a manifest.
#[derive(Default)]
struct Dependency {
    name: String,
    /// Set if the manifest lists it for the members of a workspace, and not for the crate itself.
    is_of_workspace: bool,
    /// Set if its package is `eventbus`.
    is_eventbus: bool,
    /// Set if it inherits the workspace's entry.
    is_inherited: bool,
}

fn renamed_in(manifest: &str, workspace: impl FnOnce() -> Option<String>) -> Option<String> {
    let all = dependencies(manifest)?;
    let own = || all.iter().filter(|dependency| !dependency.is_of_workspace);
    if own().any(|dependency| dependency.name == "eventbus") {
        return None;
    }
    let is_inherited = |listed: &[Dependency], name: &str| {
        listed.iter().any(|listed| listed.is_of_workspace && listed.is_eventbus && listed.name == name)
    };
    let renamed = own().find(|dependency| dependency.is_eventbus).or_else(|| {
        own().any(|dependency| dependency.is_inherited).then_some(())?;
        let listed = dependencies(&workspace()?)?;
        own().find(|dependency| dependency.is_inherited && is_inherited(&listed, &dependency.name))
    })?;
    Some(renamed.name.replace('-', "_"))
}

/// Parses the dependencies in a manifest; `None` for the manifest of `eventbus` itself.
fn dependencies(manifest: &str) -> Option<Vec<Dependency>> {
    let (mut section, mut found) = (String::new(), Vec::<Dependency>::new());
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.split(']').next().unwrap_or_default().to_owned();
        }
        let (key, value) = line.split_once('=').unwrap_or_default();
        let (key, value) = (key.trim(), value.split_whitespace().collect::<String>());
        if section == "package" && key == "name" && value == r#""eventbus""# {
            return None;
        }
        // `name = { .. }`, `name.key = ..`, or `key = ..` in a section of its own
        let (name, key) = match section.split_once("dependencies.") {
            Some((_, name)) => (name, key),
            None if !section.ends_with("dependencies") || key.is_empty() => continue,
            None => key.split_once('.').unwrap_or((key, "")),
        };
        let name = name.trim().trim_matches('"');
        let is_of_workspace = section.starts_with("workspace");
        let same = |known: &Dependency| known.name == name && known.is_of_workspace == is_of_workspace;
        let place = found.iter().position(same).unwrap_or_else(|| {
            found.push(Dependency { name: name.to_owned(), is_of_workspace, ..Dependency::default() });
            found.len() - 1
        });
        let says = |wanted: &str, text: &str| {
            (key == wanted && value.starts_with(text))
                || (key.is_empty() && value.contains(&format!("{wanted}={text}")))
        };
        found[place].is_eventbus |= says("package", r#""eventbus""#);
        found[place].is_inherited |= says("workspace", "true");
    }
    Some(found)
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
            assert_eq!(renamed_in(manifest, || None).as_deref(), name, "{manifest}");
        }
    }

    #[test]
    fn a_rename_of_the_workspace_is_found_in_each_way_to_inherit_it() {
        let workspace = "[workspace]\n[workspace.dependencies]\nevents = { package = \"eventbus\", path = \"e\" }\n\
                         eventbus-redis = \"1\"";
        for (manifest, name) in [
            ("[dependencies]\nevents.workspace = true", Some("events")),
            ("[dependencies]\nevents = { workspace = true, features = [\"axum\"] }", Some("events")),
            ("[dev-dependencies.events]\nworkspace = true", Some("events")),
            ("[dependencies]\nevents = \"1\"", None),
            ("[dependencies]\neventbus-redis.workspace = true", None),
            ("[dependencies]\nevents.workspace = true\neventbus = \"1\"", None),
        ] {
            assert_eq!(renamed_in(manifest, || Some(workspace.into())).as_deref(), name, "{manifest}");
            let of_both = format!("{manifest}\n{workspace}");
            assert_eq!(renamed_in(&of_both, || Some(of_both.clone())).as_deref(), name, "{of_both}");
        }
        let sections = "[workspace.dependencies.events]\npackage = \"eventbus\"";
        let inherits = "[dependencies]\nevents.workspace = true";
        assert_eq!(renamed_in(inherits, || Some(sections.into())).as_deref(), Some("events"));
    }

    #[test]
    fn a_field_that_cannot_be_shared_is_found_by_the_name_of_its_struct() {
        let field = |source: &str| field_with_rc_in(&syn::parse_file(source).unwrap().items, "Totals");
        assert_eq!(field("mod a { struct Totals { a: u8, b: Vec<Rc<u8>> } }").as_deref(), Some("b"));
        assert_eq!(field("struct Totals(u8, std::rc::Rc<u8>);").as_deref(), Some("1"));
        assert_eq!(field("struct Totals { a: Arc<u8> } struct Other { b: Rc<u8> }"), None);
        assert_eq!(field("struct Totals { b: Rc<u8> } mod a { struct Totals {} }"), None, "either could be meant");
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
        let owner = "#[derive(Debug, eventbus::Aggregate)] struct Account;";
        let own = taken(&format!(
            "mod a {{ #[derive(Debug)] #[derive(eventbus::DomainEvent)] enum AccountEvent {{}} {owner} }}"
        ));
        assert!(own.is_some_and(|own| own.derives("DomainEvent") && own.derives("Debug") && !own.derives("Clone")));
        for free in [
            "mod a { enum AccountEvent {} }",
            "mod a { struct Account; enum AccountEvent {} }",
            "#[cfg(feature = \"a\")] enum AccountEvent {}",
            "fn f() -> AccountEvent {}",
        ] {
            assert!(taken(&format!("{free} {owner}")).is_none(), "{free}");
        }
        assert!(taken(&format!("#[cfg(test)] mod a {{ enum AccountEvent {{}} {owner} }}")).is_none());
    }
}
