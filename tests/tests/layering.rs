//! The layers of ARCHITECTURE.md: which modules may import which.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;

use workspace_tests::{
    modules::ModuleGraph,
    source::{PRODUCT, files, workspace},
};

/// The remaining circles of modules, `impl`s away from their type, and types whose fields child modules see. The
/// numbers only shrink.
const OPEN: &[(&str, usize, usize, usize)] = &[
    ("eventbus", 0, 8, 1),
    ("eventbus-derive", 0, 0, 0),
    ("eventbus-file", 0, 0, 0),
    ("eventbus-redis", 0, 3, 1),
    ("eventstore-postgres", 0, 0, 0),
    ("eventstore-sqlite", 0, 0, 0),
];

/// Returns `true` if the code imports from a module of its crate, by path or within the braces of a `use crate::{..}`.
fn imports(code: &str, module: &str) -> bool {
    let direct = ["crate::", "eventbus::"].iter().any(|root| code.contains(&format!("{root}{module}::")));
    let braced = code.split("use crate::{").skip(1).any(|rest| {
        let mut depth = 0;
        let item = |(at, c): (usize, char)| {
            depth += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            (depth < 0).then_some(at)
        };
        let end = rest.char_indices().find_map(item).unwrap_or(rest.len());
        top_level(&rest[..end]).iter().any(|path| *path == module || path.starts_with(&format!("{module}::")))
    });
    direct || braced
}

/// Returns the items of a braced import without nested braces.
fn top_level(list: &str) -> Vec<String> {
    let (mut items, mut depth) = (vec![String::new()], 0);
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(String::new()),
            _ if depth == 0 && !c.is_whitespace() => items.last_mut().unwrap().push(c),
            _ => {}
        }
    }
    items
}

fn assert_never_imports(folder: &str, forbidden: &[&str], except: &str) {
    let files = files(&format!("eventbus/src/{folder}"), &[".rs"]).unwrap();
    assert!(!files.is_empty(), "no file in {folder}");
    for file in files.iter().filter(|file| except.is_empty() || !file.path.contains(except)) {
        let code = file.code();
        for module in forbidden {
            assert!(!imports(&code, module), "{} imports `{module}`", file.path);
        }
    }
}

#[test]
fn the_domain_imports_nothing_of_the_crate() {
    assert_never_imports("domain", &["port", "support", "delivery", "runtime", "memory", "testkit", "axum"], "");
}

#[test]
fn ports_import_the_domain_only() {
    assert_never_imports("port", &["support", "delivery", "runtime", "memory", "testkit", "axum"], "");
}

#[test]
fn shared_parts_of_backends_import_domain_and_ports_only() {
    assert_never_imports("support", &["delivery", "runtime", "memory", "testkit", "axum"], "");
}

#[test]
fn the_delivery_engine_imports_domain_ports_and_shared_parts_only() {
    assert_never_imports("delivery", &["runtime", "memory", "testkit", "axum"], "");
}

#[test]
fn the_backends_in_memory_do_not_import_what_runs() {
    assert_never_imports("memory", &["runtime", "testkit", "axum"], "");
}

#[test]
fn only_the_app_names_the_backends_in_memory() {
    assert_never_imports("runtime", &["memory"], "runtime/app");
    assert_never_imports("runtime", &["testkit", "axum"], "");
}

#[test]
fn backend_crates_use_values_and_ports_not_what_runs() {
    let runtime = [
        "App",
        "AggregateRepository",
        "ProjectionHandle",
        "EventBusExt",
        "prelude",
        "InMemoryEventStore",
        "InMemoryEventBus",
    ];
    for backend in ["eventbus-file", "eventbus-redis", "eventstore-postgres", "eventstore-sqlite"] {
        for file in files(&format!("{backend}/src"), &[".rs"]).unwrap() {
            let code = file.code();
            let words: Vec<_> = code.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            for name in runtime {
                assert!(!words.contains(&name), "{} names `{name}`", file.path);
            }
        }
    }
}

#[test]
fn nothing_depends_on_examples_or_tests() {
    for package in PRODUCT {
        let manifest = fs::read_to_string(workspace().join(package).join("Cargo.toml")).unwrap();
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
        for forbidden in ["examples", "workspace-tests", "test-servers", "ui-tests"] {
            assert!(!dependencies.contains(forbidden), "{package} depends on {forbidden}");
        }
    }
}

#[test]
fn the_derive_refuses_the_fields_that_the_codec_reserves() {
    let source = workspace().join("eventbus-derive/src/domain_event/reserved.rs");
    let text = fs::read_to_string(source).unwrap();
    let list = text.split("const RESERVED").nth(1).unwrap().split("];").next().unwrap();
    let refused: Vec<_> = list.split('"').skip(1).step_by(2).collect();
    assert_eq!(refused, eventbus::RESERVED_FIELDS);
}

#[test]
fn the_check_itself_sees_every_form_of_import() {
    for importing in [
        "use crate::runtime::app::App;",
        "use crate::{\n    domain::name::Name,\n    runtime::{app, relay},\n};",
        "use crate::{runtime, port};",
        "fn f() { crate::runtime::app::start() }",
    ] {
        assert!(imports(importing, "runtime"), "{importing}");
    }
    for innocent in ["use crate::{domain::runtime_of, port::{runtime}};", "mod runtime;", "use super::runtime;"] {
        assert!(!imports(innocent, "runtime"), "{innocent}");
    }
}

#[test]
fn modules_form_no_circle_and_a_type_lies_in_one_file() {
    let mut wrong = Vec::new();
    for (package, circles, scattered_impls, open_types) in OPEN {
        let modules = ModuleGraph::load(package).unwrap();
        assert!(modules.uses.len() > 20, "{package} has {} modules", modules.uses.len());
        for (found, known) in
            [(modules.circles(), circles), (modules.scattered_impls, scattered_impls), (modules.open_types, open_types)]
        {
            if found.len() > *known {
                wrong.push(format!("{package}: {} of at most {known}:\n  {}", found.len(), found.join("\n  ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Reads modules given as path and text.
fn parse<'a>(modules: impl IntoIterator<Item = (&'a str, &'a str)>) -> ModuleGraph {
    let modules = modules.into_iter().map(|(path, text)| (path.to_owned(), text.to_owned()));
    ModuleGraph::parse(&modules.collect()).unwrap()
}

#[test]
fn the_check_itself_sees_every_form_of_circle() {
    for (back, forth) in [
        ("use crate::b::B;", "use crate::a::A;"),
        ("use super::b::B;", "fn f() { crate::a::a() }"),
        ("use crate::{b::{self}, c::C};", "use crate::a::{self, A as Other};"),
        ("use crate::b::*;", "macro_rules! m { () => { $crate::a::a() } }"),
        ("use crate::shown::B;", "fn f() { println!(\"{}\", crate::a::a()) }"),
    ] {
        let shown = ("shown", "pub(crate) use crate::b::B;");
        let modules = parse([("", ""), ("a", back), ("b", &format!("pub(crate) struct B; {forth}")), ("c", ""), shown]);
        assert_eq!(modules.circles().len(), 1, "{back} {forth}: {:?}", modules.uses);
    }
    let folder = parse([
        ("", ""),
        ("a", "use crate::b::c::C;"),
        ("b", ""),
        ("b/c", "pub struct C;"),
        ("b/d", "use crate::a::A;"),
    ]);
    assert_eq!(folder.circles().len(), 1, "the folder `b` and the file `a`");
    let straight = parse([
        ("", "mod a; mod b; pub use b::B;"),
        ("a", "use crate::B; use std::fmt; #[cfg(test)] mod tests { use crate::b::A; }"),
        ("b", "pub struct B; use serde::de; #[cfg(test)] use crate::a::A;"),
        ("b/c", "use super::B; use super::super::b::d::D;"),
        ("b/d", "pub struct D;"),
    ]);
    assert_eq!(straight.circles(), [""; 0]);
}

#[test]
fn the_check_itself_sees_scattered_impls_and_open_types() {
    let modules = parse([
        ("", ""),
        ("a", "pub struct A { x: u8, y: u8 } impl A { fn new() {} } impl A { fn again() {} }"),
        ("b", "use crate::a::A; impl A { fn more(&self) {} } impl Clone for A { fn clone(&self) -> A { todo!() } }"),
        ("c", "pub struct C { x: u8, pub y: u8 } impl C { fn get(&self) {} }"),
        ("c/d", "use super::C;"),
        (
            "e",
            "pub struct E(u8); impl E { fn get(&self) {} } pub struct R { pub a: u8, pub b: u8 } impl R { fn f() {} }",
        ),
        ("e/f", ""),
    ]);
    assert_eq!(modules.scattered_impls.len(), 2, "{:?}", modules.scattered_impls);
    assert_eq!(modules.open_types, ["`C` in `c`"]);
}
