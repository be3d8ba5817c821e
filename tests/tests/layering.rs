//! The layers of ARCHITECTURE.md: which modules may import which.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::LazyLock,
    thread,
};

use workspace_tests::{
    modules::ModuleGraph,
    source::{PRODUCT, workspace},
};

/// The layers of each crate, lowest first: a module uses modules of its own and of lower layers only. A folder counts as
/// one module.
const LAYERS: &[(&str, &[&[&str]])] = &[
    (
        "eventbus",
        &[
            &["domain"],
            &["port"],
            &["support"],
            &["delivery"],
            &["memory"],
            &["runtime"],
            &["axum"],
            &["lock"],
            &["testkit"],
        ],
    ),
    (
        "eventbus-cli",
        &[
            &["error", "output"],
            &["app_source", "connection", "dead_letter_action"],
            &["catalog", "doctor", "query", "transfer"],
            &["dashboard", "session"],
            &["command"],
            &["cli"],
            &["app_command"],
        ],
    ),
    (
        "eventbus-derive",
        &[
            &["misplaced", "mistakes", "serde_attributes", "text"],
            &["options", "parameters", "sets", "shared", "surroundings"],
            &["krate"],
            &["derived", "event_enum"],
            &["aggregate", "decision", "domain_event", "handler", "old_event", "projection"],
        ],
    ),
    (
        "eventbus-file",
        &[
            &["config", "coordination", "error", "event", "finished_events", "metrics", "names"],
            &["disk"],
            &["claim_store", "dead_letter_files", "folder", "id_shards", "log", "payload", "staged_event"],
            &["relay_records", "results"],
            &["inner"],
            &["coordinated_claims", "folder_check", "poll_backoff", "publish", "removal", "search"],
            &["claimed_event", "redis_coordination", "subscriber_broadcast"],
            &["queue"],
            &["bus", "relay"],
        ],
    ),
    (
        "eventbus-redis",
        &[
            &["script"],
            &["keys", "wire"],
            &["config"],
            &["command", "trace_context"],
            &["blocking_read"],
            &["entry_cursor", "inner"],
            &["group", "no_otel", "join", "otel", "trace", "trim", "unfinished"],
            &["dead_letters", "info", "publish", "relay"],
            &["consumer", "history", "streams"],
            &["bus"],
            &["ports"],
        ],
    ),
    (
        "eventbus-redis-core",
        &[
            &["entry_id", "hash_tag", "program", "reply", "script", "url", "validate"],
            &["error"],
            &["env_vars", "format", "no_tls", "server", "tls"],
            &["connection"],
        ],
    ),
    (
        "eventbus-test",
        &[
            &["actor", "name", "server"],
            &["error"],
            &["port", "url"],
            &["local", "no_local", "postgres", "redis"],
            &["internal"],
        ],
    ),
    (
        "eventstore-postgres",
        &[
            &[
                "config",
                "error",
                "identifier",
                "joint_pages",
                "migration_step",
                "schema",
                "statement_error",
                "stream_numbers",
                "url",
            ],
            &["connector", "gate", "last_fault", "on_pool", "record", "statement_pool"],
            &["pool", "statements"],
            &["columns", "filter_parameters", "notify", "resolve", "setup_session", "shard_saves"],
            &["migrate", "migration_lock", "preflight", "store_inner"],
            &["feed_page", "joint_page"],
            &["append", "open_append", "transaction"],
            &["shadow"],
            &["store"],
            &[
                "append_events",
                "boundaries",
                "checkpoint",
                "event_types",
                "feed",
                "handler_progress",
                "lease",
                "listings",
                "missing_events",
                "read",
                "transactions",
                "visit",
            ],
            &["snapshot"],
        ],
    ),
    (
        "eventstore-redis",
        &[
            &["keys", "script"],
            &["fault"],
            &["config", "error"],
            &["commands", "durability", "entry", "handler_fields", "notes", "value_change"],
            &["inner"],
            &["read"],
            &["feed"],
            &["append"],
            &["store"],
            &[
                "multi_stream_append",
                "checkpoint",
                "event_types",
                "handler_progress",
                "lease",
                "listings",
                "missing_events",
                "ports",
                "snapshot",
                "unique_values",
            ],
        ],
    ),
    (
        "eventstore-sqlite",
        &[
            &[
                "blocking",
                "config",
                "error",
                "files",
                "filter",
                "location",
                "member_locks",
                "migration_step",
                "query",
                "row",
                "schema",
                "slots",
            ],
            &["connection", "handler_table", "migrate", "search", "tag_rows", "value_rows"],
            &["checked_append", "shadow_databases", "tagged_positions"],
            &["readers", "writer"],
            &["store_inner"],
            &["transaction"],
            &["store"],
            &[
                "append",
                "boundaries",
                "multi_stream_append",
                "checkpoint",
                "event_types",
                "feed",
                "handler_progress",
                "lease",
                "listings",
                "missing_events",
                "read",
                "transactions",
                "unique_values",
                "visit",
            ],
            &["snapshot"],
        ],
    ),
];

/// The crates of the product that a crate names; the command line may name all.
const NAMES: &[(&str, &[&str])] = &[
    ("eventbus", &["eventbus_derive"]),
    ("eventbus-derive", &[]),
    ("eventbus-file", &["eventbus", "eventbus_redis_core"]),
    ("eventbus-redis", &["eventbus", "eventbus_redis_core"]),
    ("eventbus-redis-core", &["eventbus"]),
    ("eventbus-test", &[]),
    ("eventstore-postgres", &["eventbus"]),
    ("eventstore-redis", &["eventbus", "eventbus_redis_core"]),
    ("eventstore-sqlite", &["eventbus"]),
];

/// The modules of the core that drivers may name.
const FOR_DRIVERS: &[&str] = &["domain", "port", "support", "delivery"];

/// Returns the modules of a crate of the product. Each crate is read once, on a thread of its own: most of the time of these
/// tests goes into that.
fn modules_of(package: &str) -> &'static ModuleGraph {
    static GRAPHS: LazyLock<BTreeMap<&str, ModuleGraph>> = LazyLock::new(|| {
        thread::scope(|threads| {
            let load = |package: &'static str| (package, threads.spawn(move || ModuleGraph::load(package).unwrap()));
            let loading: Vec<_> = PRODUCT.iter().copied().map(load).collect();
            loading.into_iter().map(|(package, thread)| (package, thread.join().unwrap())).collect()
        })
    });
    &GRAPHS[package]
}

/// Returns the module or folder at the root of the crate that holds a module.
fn entry(module: &str) -> &str {
    module.split('/').next().unwrap_or_default()
}

/// Returns the uses that lead to a higher layer, and the differences between the modules and the table.
fn against_layers(modules: &ModuleGraph, layers: &[&[&str]]) -> Vec<String> {
    let layer_of = |module: &str| layers.iter().position(|layer| layer.contains(&entry(module)));
    let mut wrong = BTreeSet::new();
    for (from, uses) in modules.uses.iter().filter(|(from, _)| !from.is_empty()) {
        let Some(own) = layer_of(from) else {
            wrong.insert(format!("`{}` has no layer", entry(from)));
            continue;
        };
        let upward = uses.iter().filter(|(to, _)| layer_of(to).is_some_and(|layer| layer > own));
        wrong.extend(upward.map(|(_, path)| format!("`{from}` uses `{path}` of a higher layer")));
    }
    let exists = |entry: &str| modules.uses.contains_key(entry);
    wrong.extend(layers.concat().iter().filter(|entry| !exists(entry)).map(|entry| format!("`{entry}` is no module")));
    wrong.into_iter().collect()
}

/// Returns the names of a driver that the core defines outside of the modules for drivers.
fn against_core(driver: &ModuleGraph, core: &ModuleGraph) -> Vec<String> {
    let mut wrong = Vec::new();
    for (module, paths) in &driver.foreign {
        for path in paths.iter().filter(|path| path[0] == "eventbus") {
            let home = core.defining_module(&path[1..]).unwrap_or_default();
            if !FOR_DRIVERS.contains(&entry(&home)) && path[1..] != ["Uuid"] {
                wrong.push(format!("`{module}` names `{}` of `{home}`", path.join("::")));
            }
        }
    }
    wrong
}

#[test]
fn a_module_uses_its_own_and_lower_layers_only() {
    let packages: Vec<_> = LAYERS.iter().map(|(package, _)| *package).collect();
    assert_eq!(packages, PRODUCT);
    for (package, layers) in LAYERS {
        assert_eq!(against_layers(modules_of(package), layers), [""; 0], "{package}");
    }
}

#[test]
fn only_the_app_names_the_backends_in_memory() {
    let core = modules_of("eventbus");
    let below_app =
        core.uses.iter().filter(|(module, _)| entry(module) == "runtime" && !module.starts_with("runtime/app"));
    let memory = |(module, uses): (&String, &BTreeMap<String, String>)| {
        let path = uses.iter().find(|(used, _)| entry(used) == "memory")?.1;
        Some(format!("`{module}` uses `{path}`"))
    };
    assert_eq!(below_app.filter_map(memory).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn drivers_name_values_and_ports_of_the_core_and_no_different_driver() {
    let core = modules_of("eventbus");
    let product: Vec<_> = PRODUCT.iter().map(|package| package.replace('-', "_")).collect();
    for (package, names) in NAMES {
        let modules = modules_of(package);
        let named: BTreeSet<_> = modules.foreign.values().flatten().map(|path| path[0].as_str()).collect();
        let named: Vec<_> = named.into_iter().filter(|name| product.iter().any(|package| package == name)).collect();
        assert_eq!(named, *names, "{package}");
        assert_eq!(against_core(modules, core), [""; 0], "{package}");
    }
}

/// Returns the names that the items of a module export by `pub use`; modules and their names are left out.
fn exports(items: &[syn::Item]) -> BTreeSet<String> {
    fn leaves(tree: &syn::UseTree, names: &mut BTreeSet<String>) {
        match tree {
            syn::UseTree::Path(path) => leaves(&path.tree, names),
            syn::UseTree::Name(name) => drop(names.insert(name.ident.to_string())),
            syn::UseTree::Rename(name) => drop(names.insert(name.rename.to_string())),
            syn::UseTree::Glob(_) => drop(names.insert("*".into())),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, names)),
        }
    }
    let mut names = BTreeSet::new();
    for item in items {
        match item {
            syn::Item::Use(item) if matches!(item.vis, syn::Visibility::Public(_)) => leaves(&item.tree, &mut names),
            syn::Item::Type(item) if matches!(item.vis, syn::Visibility::Public(_)) => {
                names.insert(item.ident.to_string());
            }
            _ => {}
        }
    }
    names
}

/// A name that few applications need lies in the module of its subject.
#[test]
fn the_root_and_the_ports_hold_few_names() {
    for (file, most) in [("eventbus/src/lib.rs", 45), ("eventbus/src/port/mod.rs", 60)] {
        let text = fs::read_to_string(workspace().join(file)).unwrap();
        let names = exports(&syn::parse_file(&text).unwrap().items);
        assert!(names.len() > most / 2 && names.len() <= most, "{file}: {} names: {names:?}", names.len());
    }
    let items = syn::parse_file("pub use a::{B, c::{D as E, *}}; use f::G; mod h { pub use i::J; } pub type K = B;");
    assert_eq!(exports(&items.unwrap().items).into_iter().collect::<Vec<_>>(), ["*", "B", "E", "K"]);
}

#[test]
fn the_derive_refuses_the_fields_that_the_codec_reserves() {
    let source = workspace().join("eventbus-derive/src/domain_event/reserved.rs");
    let text = fs::read_to_string(source).unwrap();
    let list = text.split("const RESERVED").nth(1).unwrap().split("];").next().unwrap();
    let refused: Vec<_> = list.split('"').skip(1).step_by(2).collect();
    assert_eq!(refused, eventbus::event::RESERVED_FIELDS);
}

#[test]
fn modules_form_no_circle_and_a_type_lies_in_one_file() {
    let mut wrong: Vec<String> = Vec::new();
    for package in PRODUCT {
        let modules = modules_of(package);
        assert!(modules.uses.len() > 10, "{package} has {} modules", modules.uses.len());
        for found in [&modules.circles(), &modules.scattered_impls, &modules.open_types] {
            wrong.extend(found.iter().map(|found| format!("{package}: {found}")));
        }
    }
    assert_eq!(wrong, [""; 0]);
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
fn the_check_itself_sees_uses_of_a_higher_layer() {
    let layers: &[&[&str]] = &[&["a"], &["b", "c"]];
    // `shown` and `shown/x` import all of each other; `C` comes from a third module
    let shown = [("shown", "pub use crate::b::B; pub use x::*; pub use crate::c::*;"), ("shown/x", "use super::*;")];
    let texts = [("", ""), ("a", ""), ("b", "pub struct B;"), ("c", "pub struct C;")];
    for upward in [
        "use crate::b::B;",
        "use crate::shown::B;",
        "use crate::shown::C;",
        "use super::super::b;",
        "fn f() { m!(crate::b::f()) }",
    ] {
        let modules = parse(texts.into_iter().chain(shown).chain([("a/d", upward)]));
        let [upward, no_layer] = &against_layers(&modules, layers)[..] else { panic!("{upward}: {modules:?}") };
        assert!(upward.ends_with("of a higher layer") && no_layer == "`shown` has no layer", "{upward}, {no_layer}");
    }
    let modules = parse([("", "pub use a::A;"), ("a", "pub struct A;"), ("b", "use crate::{A, c::C};")]);
    assert_eq!(against_layers(&modules, layers), ["`c` is no module"]);
}

#[test]
fn the_check_itself_sees_names_of_the_core() {
    let core = parse([
        (
            "",
            "pub use domain::D; pub use runtime::*; pub mod prelude { pub use crate::D; } \
             pub mod app { pub use crate::runtime::Builder; } pub mod event { pub use crate::domain::Part; }",
        ),
        ("domain", "pub struct D; pub struct Part;"),
        ("runtime", "pub struct App; pub struct Builder;"),
    ]);
    for name in [
        "use eventbus::App;",
        "use eventbus::{D, App as Other};",
        "use eventbus::runtime::App;",
        "use eventbus::app::Builder;",
        "use eventbus::prelude::*;",
        "use eventbus::*;",
        "use eventbus as core; fn f() { core::App::new() }",
        "fn f() -> ::std::io::Result<::eventbus::App> {}",
        "fn f() { vec![eventbus::App::new()] }",
    ] {
        let driver = parse([("", "use eventbus::D;"), ("a", name)]);
        assert_ne!(against_core(&driver, &core), [""; 0], "{name}: {driver:?}");
    }
    let innocent =
        "use eventbus::{D, Uuid, domain, event::Part}; fn f() { D::new(domain::D) } #[cfg(test)] use eventbus::App;";
    assert_eq!(against_core(&parse([("", ""), ("a", innocent)]), &core), [""; 0]);
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
        ("g", "#[cfg(unix)] mod x { struct X; impl X {} } #[cfg(not(unix))] mod x { struct X; impl X {} }"),
    ]);
    assert_eq!(modules.scattered_impls.len(), 2, "{:?}", modules.scattered_impls);
    assert_eq!(modules.open_types, ["`C` in `c`"]);
}
