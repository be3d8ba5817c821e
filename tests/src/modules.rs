//! The modules of a crate: which uses which, and where the `impl`s of each type lie.
//!
//! Names are resolved as far as the layering tests need it: `use` trees, paths, and paths within macros, from `crate`,
//! `self`, `super`, a child module or an imported name, through re-exports to the module that defines the item. Method
//! calls make no arrow: the tests over `impl`s see to it that a method lies in the file of its type.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
};

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, Fields, Item, UseTree, Visibility,
    visit::{self, Visit},
};

use crate::source::files;

/// A module by its path from the root of its crate: `consumer/reader`; the root is empty.
pub type Module = String;

/// The modules of a crate, without unit tests.
#[derive(Debug)]
pub struct ModuleGraph {
    /// Each module with the modules that it uses, and one path by which it does. Modules within each other are left
    /// out: a folder is one noun.
    pub uses: BTreeMap<Module, BTreeMap<Module, String>>,
    /// Inherent `impl`s that lie in a different file than their type, or beside a second one of the same type.
    pub scattered_impls: Vec<String>,
    /// Types with methods and several fields, some of them private, in a module whose child modules see the fields.
    pub open_types: Vec<String>,
    /// Each module with the paths that it names of other crates.
    pub foreign: BTreeMap<Module, BTreeSet<Vec<String>>>,
    modules: CrateModules,
}

#[derive(Debug, Default)]
struct Source {
    /// The names that `use` imports, each with its path from the root of the crate; `*` for all of a module.
    imports: Vec<(String, Vec<String>)>,
    /// Paths that the code names, as written.
    paths: BTreeSet<Vec<String>>,
    types: BTreeMap<String, FieldsOfType>,
    /// The modules within the file; what they import counts as imported by the file.
    inline_modules: BTreeSet<String>,
    /// The types of inherent `impl`s, with the text of the head and the conditions under which it is compiled.
    impls: Vec<(Vec<String>, String)>,
}

#[derive(Debug, Default, Clone, Copy)]
struct FieldsOfType {
    count: usize,
    has_private: bool,
}

impl ModuleGraph {
    /// Reads the modules below `src` of a crate of the workspace.
    ///
    /// # Errors
    /// If a file cannot be read or is no Rust, with its path.
    pub fn load(package: &str) -> io::Result<Self> {
        let root = format!("{package}/src/");
        let mut sources = BTreeMap::new();
        for file in files(&format!("{package}/src"), &[".rs"])? {
            let path = file.path.strip_prefix(&root).unwrap_or(&file.path);
            if !path.starts_with("bin/") && path != "statuses.rs" {
                sources.insert(module_of(path), file.text);
            }
        }
        Self::parse(&sources)
    }

    /// Reads modules from their texts.
    ///
    /// # Errors
    /// If a text is no Rust, with its module.
    pub fn parse(texts: &BTreeMap<Module, String>) -> io::Result<Self> {
        let mut sources = BTreeMap::new();
        for (module, text) in texts {
            let file =
                syn::parse_file(text).map_err(|error| io::Error::other(format!("module `{module}`: {error}")))?;
            let mut reader = Reader { module: segments(module), ..Reader::default() };
            reader.visit_file(&file);
            sources.insert(module.clone(), reader.source);
        }
        let modules = CrateModules { sources };
        Ok(Self {
            uses: modules.uses(),
            scattered_impls: modules.scattered_impls(),
            open_types: modules.open_types(),
            foreign: modules.foreign(),
            modules,
        })
    }

    /// Returns the module that defines the item with this path from the root of the crate.
    #[must_use]
    pub fn defining_module(&self, path: &[String]) -> Option<Module> {
        self.modules.defining_module(path).map(|(module, _)| module)
    }

    /// Returns each circle of modules as a chain, with the path by which each module uses the next. Seen from outside,
    /// a folder counts as one module.
    #[must_use]
    pub fn circles(&self) -> Vec<String> {
        let mut found = Vec::new();
        let folders: BTreeSet<Vec<String>> = self
            .uses
            .keys()
            .flat_map(|module| {
                let segments = segments(module);
                (0..segments.len()).map(move |length| segments[..length].to_vec()).collect::<Vec<_>>()
            })
            .collect();
        for folder in folders {
            let mut entries: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
            for (from, uses) in &self.uses {
                let Some(entry) = entry_of(from, &folder) else { continue };
                for (to, path) in uses {
                    if let Some(used) = entry_of(to, &folder)
                        && used != entry
                    {
                        entries.entry(entry).or_default().entry(used).or_insert_with(|| format!("{from} uses {path}"));
                    }
                }
            }
            found.extend(
                shortest_circles(&entries).into_iter().map(|circle| format!("in `{}`: {circle}", folder.join("/"))),
            );
        }
        found
    }
}

/// Returns the entry of `folder` that holds `module`.
fn entry_of<'m>(module: &'m str, folder: &[String]) -> Option<&'m str> {
    let mut segments = module.split('/').filter(|segment| !segment.is_empty());
    folder.iter().all(|name| segments.next() == Some(name)).then(|| segments.next()).flatten()
}

/// Returns the entries that `start` uses, directly or indirectly, each with the entry before it on the way.
fn reach<'e>(entries: &BTreeMap<&'e str, BTreeMap<&'e str, String>>, start: &'e str) -> BTreeMap<&'e str, &'e str> {
    let mut before = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(entry) = queue.pop_front() {
        for used in entries.get(entry).into_iter().flat_map(BTreeMap::keys) {
            if !before.contains_key(used) {
                before.insert(*used, entry);
                queue.push_back(used);
            }
        }
    }
    before
}

/// Returns the shortest circle of each group of entries that use each other.
fn shortest_circles(entries: &BTreeMap<&str, BTreeMap<&str, String>>) -> Vec<String> {
    let reached: BTreeMap<&str, _> = entries.keys().map(|entry| (*entry, reach(entries, entry))).collect();
    let mut seen = BTreeSet::new();
    let mut circles = Vec::new();
    for (entry, before) in &reached {
        if !before.contains_key(entry) || seen.contains(entry) {
            continue;
        }
        let group: Vec<_> =
            before.keys().filter(|other| reached.get(*other).is_some_and(|back| back.contains_key(entry))).collect();
        seen.extend(group.iter().map(|other| **other));
        let mut row = vec![*entry];
        while let Some(previous) = before.get(row[row.len() - 1]).filter(|previous| *previous != entry) {
            row.push(previous);
        }
        row.push(entry);
        row.reverse();
        let arrows = row.windows(2).map(|pair| entries[pair[0]][pair[1]].as_str()).collect::<Vec<_>>().join(", ");
        circles.push(format!("{} modules use each other, as {} ({arrows})", group.len(), row.join(" -> ")));
    }
    circles
}

fn module_of(path: &str) -> Module {
    let path = path.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if matches!(path, "lib" | "main" | "mod") { String::new() } else { path.to_owned() }
}

fn segments(module: &str) -> Vec<String> {
    module.split('/').filter(|segment| !segment.is_empty()).map(str::to_owned).collect()
}

#[derive(Debug)]
struct CrateModules {
    sources: BTreeMap<Module, Source>,
}

impl CrateModules {
    /// Resolves a path as written in `module` to the module that defines its item.
    fn resolve(&self, module: &str, path: &[String]) -> Option<(Module, Option<String>)> {
        self.absolute(module, path).and_then(|path| self.defining_module(&path))
    }

    /// Returns the path from the root of the crate, unless it leads out of it.
    fn absolute(&self, module: &str, path: &[String]) -> Option<Vec<String>> {
        let own = segments(module);
        let first = path.first()?;
        let rest = &path[1..];
        match first.as_str() {
            "crate" | "$crate" => Some(rest.to_vec()),
            "self" => Some([&own, rest].concat()),
            "super" => {
                let mut own = own;
                let mut rest = path;
                while rest.first().is_some_and(|segment| segment == "super") {
                    own.pop()?;
                    rest = &rest[1..];
                }
                Some([&own, rest].concat())
            }
            name => {
                let child = [own, vec![name.to_owned()]].concat();
                if self.sources.contains_key(&child.join("/")) {
                    return Some([&child, rest].concat());
                }
                let source = self.sources.get(module)?;
                let import = source.imports.iter().find(|(imported, _)| imported == name)?;
                Some([&import.1, rest].concat())
            }
        }
    }

    /// Returns the module that defines the item with this path from the root of the crate, and the item's name there.
    fn defining_module(&self, path: &[String]) -> Option<(Module, Option<String>)> {
        self.follow_imports(path, &mut BTreeSet::new())
    }

    /// Follows imports to the definition, but not those of a name in `followed` again: modules import all of each other.
    fn follow_imports(
        &self,
        path: &[String],
        followed: &mut BTreeSet<(Module, String)>,
    ) -> Option<(Module, Option<String>)> {
        let length = (0..=path.len()).rev().find(|length| self.sources.contains_key(&path[..*length].join("/")))?;
        let module = path[..length].join("/");
        let Some(name) = path.get(length) else {
            return Some((module, None));
        };
        let source = &self.sources[&module];
        if path.len() > length + 1 && source.inline_modules.contains(name) {
            return self.follow_imports(&[&path[..length], &path[length + 1..]].concat(), followed);
        }
        if !source.types.contains_key(name) && followed.insert((module.clone(), name.clone())) {
            let exact = source.imports.iter().find(|(imported, _)| imported == name);
            if let Some((_, target)) = exact {
                return self.follow_imports(&[target, &path[length + 1..]].concat(), followed);
            }
            for (_, target) in source.imports.iter().filter(|(imported, _)| imported == "*") {
                let found = self.follow_imports(&[target, &path[length..]].concat(), followed);
                if let Some((module, Some(name))) = found
                    && self.sources[&module].types.contains_key(&name)
                {
                    return Some((module, Some(name)));
                }
            }
        }
        Some((module, Some(name.clone())))
    }

    fn uses(&self) -> BTreeMap<Module, BTreeMap<Module, String>> {
        let uses_of = |(module, source): (&Module, &Source)| {
            let mut uses = BTreeMap::new();
            let imported = source.imports.iter().map(|(_, path)| path.clone());
            let targets = imported.map(|path| (self.defining_module(&path), path));
            let named = source.paths.iter().map(|path| (self.resolve(module, path), path.clone()));
            for (target, path) in targets.chain(named) {
                let Some((target, _)) = target else { continue };
                let is_kin = is_within(&target, module) || is_within(module, &target);
                if !is_kin {
                    uses.entry(target).or_insert_with(|| path.join("::"));
                }
            }
            (module.clone(), uses)
        };
        self.sources.iter().map(uses_of).collect()
    }

    fn foreign(&self) -> BTreeMap<Module, BTreeSet<Vec<String>>> {
        let foreign_of = |(module, source): (&Module, &Source)| {
            let own = segments(module);
            let imported = source.imports.iter().map(|(_, path)| path.clone());
            let named =
                source.paths.iter().map(|path| self.absolute(module, path).unwrap_or([&own, &path[..]].concat()));
            let outside = imported.chain(named).filter(|path| {
                let entry = path.get(..=own.len()).filter(|entry| entry.starts_with(&own));
                entry.is_some_and(|entry| !self.sources.contains_key(&entry.join("/")))
            });
            (module.clone(), outside.map(|path| path[own.len()..].to_vec()).collect())
        };
        self.sources.iter().map(foreign_of).collect()
    }

    fn scattered_impls(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut heads = BTreeSet::new();
        for (module, source) in &self.sources {
            for (path, head) in &source.impls {
                let name = path.last().cloned().unwrap_or_default();
                let home = if path.len() == 1 && source.types.contains_key(&name) {
                    Some((module.clone(), Some(name.clone())))
                } else {
                    self.resolve(module, path)
                };
                match home {
                    Some((home, _)) if home != *module => {
                        found.push(format!("`{head}` lies in `{module}`, its type in `{home}`"));
                    }
                    Some(_) if !heads.insert((module.clone(), head.clone())) => {
                        found.push(format!("`{head}` stands twice in `{module}`"));
                    }
                    _ => {}
                }
            }
        }
        found
    }

    fn open_types(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (module, source) in &self.sources {
            let is_parent = self.sources.keys().any(|other| other != module && is_within(other, module));
            if !is_parent || module.is_empty() && source.types.is_empty() {
                continue;
            }
            for (name, fields) in &source.types {
                let has_methods = source.impls.iter().any(|(path, _)| path.last() == Some(name));
                if fields.has_private && fields.count > 1 && has_methods {
                    found.push(format!("`{name}` in `{module}`"));
                }
            }
        }
        found
    }
}

/// Returns `true` if `module` is `folder` or lies in it.
fn is_within(module: &str, folder: &str) -> bool {
    folder.is_empty() || module.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Returns `true` if an item is compiled for unit tests only.
#[must_use]
pub fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            let condition = list.tokens.to_string();
            condition.starts_with("test") || condition.starts_with("all (test") || condition.starts_with("all(test")
        }
        meta => meta.path().segments.last().is_some_and(|name| name.ident == "test"),
    })
}

/// Reads one file.
#[derive(Default)]
struct Reader {
    module: Vec<String>,
    /// The conditions of the modules within the file around the item that is read.
    conditions: Vec<String>,
    source: Source,
}

impl Reader {
    fn add_use(&mut self, tree: &UseTree, prefix: &[String]) {
        let join = |name: String| [prefix, &[name]].concat();
        match tree {
            UseTree::Path(path) => self.add_use(&path.tree, &join(path.ident.to_string())),
            UseTree::Name(name) if name.ident == "self" => {
                self.add_import(prefix.last().cloned().unwrap_or_default(), prefix);
            }
            UseTree::Name(name) => self.add_import(name.ident.to_string(), &join(name.ident.to_string())),
            UseTree::Rename(name) => self.add_import(name.rename.to_string(), &join(name.ident.to_string())),
            UseTree::Glob(_) => self.add_import("*".into(), prefix),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_use(tree, prefix)),
        }
    }

    /// Adds an import if its path leads into the crate itself: paths into other crates begin with no keyword and no
    /// module.
    fn add_import(&mut self, name: String, path: &[String]) {
        let absolute = match path.first().map(String::as_str) {
            Some("crate") => path[1..].to_vec(),
            Some("self") => [&self.module, &path[1..]].concat(),
            Some("super") => {
                let ups = path.iter().take_while(|segment| *segment == "super").count();
                let kept = self.module.len().saturating_sub(ups);
                [&self.module[..kept], &path[ups..]].concat()
            }
            // a child module; or a different crate, for which no module is found
            _ => [&self.module[..], path].concat(),
        };
        self.source.imports.push((name, absolute));
    }

    fn add_fields(&mut self, name: &syn::Ident, fields: &Fields) {
        let has_private = fields.iter().any(|field| matches!(field.vis, Visibility::Inherited));
        self.source.types.insert(name.to_string(), FieldsOfType { count: fields.len(), has_private });
    }

    /// Adds the paths in the tokens of a macro.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) if colons == 2 || path.is_empty() => {
                    path.push(name.to_string());
                    colons = 0;
                    continue;
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                    continue;
                }
                TokenTree::Group(group) => {
                    self.end_path(&mut path);
                    self.add_tokens(group.stream());
                }
                TokenTree::Ident(name) => {
                    self.end_path(&mut path);
                    path.push(name.to_string());
                }
                _ => self.end_path(&mut path),
            }
            colons = 0;
        }
        self.end_path(&mut path);
    }

    fn end_path(&mut self, path: &mut Vec<String>) {
        if path.len() > 1 {
            self.source.paths.insert(path.clone());
        }
        path.clear();
    }
}

impl<'a> Visit<'a> for Reader {
    fn visit_item(&mut self, item: &'a Item) {
        let attributes = match item {
            Item::Const(item) => &item.attrs,
            Item::Enum(item) => {
                // the fields of an enum are as visible as itself
                self.source.types.insert(item.ident.to_string(), FieldsOfType::default());
                &item.attrs
            }
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Macro(item) => &item.attrs,
            Item::Mod(item) => {
                if item.content.is_some() {
                    self.source.inline_modules.insert(item.ident.to_string());
                }
                &item.attrs
            }
            Item::Static(item) => &item.attrs,
            Item::Struct(item) => {
                self.add_fields(&item.ident, &item.fields);
                &item.attrs
            }
            Item::Trait(item) => {
                self.source.types.insert(item.ident.to_string(), FieldsOfType::default());
                &item.attrs
            }
            Item::Type(item) => {
                self.source.types.insert(item.ident.to_string(), FieldsOfType::default());
                &item.attrs
            }
            Item::Use(item) => {
                if !is_test(&item.attrs) {
                    self.add_use(&item.tree, &[]);
                }
                return;
            }
            _ => return visit::visit_item(self, item),
        };
        if is_test(attributes) {
            return;
        }
        if let Item::Impl(item) = item
            && item.trait_.is_none()
            && let syn::Type::Path(of) = &*item.self_ty
        {
            let path: Vec<_> = of.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            let (generics, of) = (&item.generics, &item.self_ty);
            let clause = &item.generics.where_clause;
            let head = quote::quote!(impl #generics #of #clause);
            self.source.impls.push((path, self.conditions.concat() + &head.to_string()));
        }
        let outside = self.conditions.len();
        if matches!(item, Item::Mod(_)) {
            let conditions = attributes.iter().filter(|attribute| attribute.path().is_ident("cfg"));
            self.conditions.extend(conditions.map(|attribute| quote::quote!(#attribute).to_string()));
        }
        visit::visit_item(self, item);
        self.conditions.truncate(outside);
    }

    fn visit_impl_item_fn(&mut self, function: &'a syn::ImplItemFn) {
        if !is_test(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        if path.segments.len() > 1 {
            self.source.paths.insert(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, used: &'a syn::Macro) {
        self.add_tokens(used.tokens.clone());
        visit::visit_macro(self, used);
    }
}
