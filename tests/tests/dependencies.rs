//! What a user compiles: a library brings its layers and its driver, and neither the command line nor its dependencies.
//!
//! `cargo tree` resolves the features, as it does for an application. It sees normal and build dependencies only.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    sync::LazyLock,
};

use workspace_tests::source::{PRODUCT, workspace};

/// A crate that users depend on, and the crates that it brings.
struct Library {
    name: &'static str,
    /// Crates of this repository, itself included.
    own: &'static [&'static str],
    /// Those of [`DRIVERS`].
    drivers: &'static [&'static str],
    /// Those of [`OF_COMMAND_LINE`] that it brings with all its optional features.
    on_request: &'static [&'static str],
}

const LIBRARIES: &[Library] = &[
    Library { name: "eventbus", own: &["eventbus", "eventbus-derive"], drivers: &[], on_request: &["axum"] },
    Library { name: "eventbus-derive", own: &["eventbus-derive"], drivers: &[], on_request: &[] },
    Library {
        name: "eventbus-file",
        own: &["eventbus", "eventbus-derive", "eventbus-file"],
        drivers: &[],
        on_request: OF_TLS,
    },
    Library {
        name: "eventbus-redis",
        own: &["eventbus", "eventbus-derive", "eventbus-redis", "eventbus-redis-core"],
        drivers: &["redis"],
        on_request: OF_TLS,
    },
    Library {
        name: "eventbus-redis-core",
        own: &["eventbus", "eventbus-derive", "eventbus-redis-core"],
        drivers: &["redis"],
        on_request: OF_TLS,
    },
    Library { name: "eventbus-test", own: &["eventbus-test"], drivers: &["redis", "sqlx"], on_request: &[] },
    Library {
        name: "eventstore-postgres",
        own: &["eventbus", "eventbus-derive", "eventstore-postgres"],
        drivers: &["sqlx"],
        on_request: OF_TLS,
    },
    Library {
        name: "eventstore-redis",
        own: &["eventbus", "eventbus-derive", "eventbus-redis-core", "eventstore-redis"],
        drivers: &["redis"],
        on_request: OF_TLS,
    },
    Library {
        name: "eventstore-sqlite",
        own: &["eventbus", "eventbus-derive", "eventstore-sqlite"],
        drivers: &["rusqlite"],
        on_request: &[],
    },
];

const DRIVERS: &[&str] = &["redis", "rusqlite", "sqlx"];

/// What the command line depends on, and no library does by default.
const OF_COMMAND_LINE: &[&str] = &["axum", "clap", "clap_complete", "indicatif", "ipnet", "maud", "subtle", "zstd"];

/// What TLS has in common with the command line.
const OF_TLS: &[&str] = &["subtle"];

const COMMAND_LINE: &str = "eventbus-cli";

/// The names of crates that are compiled together.
#[derive(Debug, Default)]
struct Tree {
    own: BTreeSet<String>,
    foreign: BTreeSet<String>,
}

impl Tree {
    /// Asks cargo for a crate and all that it depends on, directly or not.
    fn of(package: &str, options: &[&str]) -> Self {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["tree", "--offline", "--locked", "--quiet", "--package", package, "--edges", "normal,build"]);
        cargo.args(["--prefix", "none", "--format", "{p}"]).args(options).current_dir(workspace());
        let output = cargo.output().unwrap();
        assert!(output.status.success(), "{package}: {}", String::from_utf8_lossy(&output.stderr));
        Self::parse(std::str::from_utf8(&output.stdout).unwrap())
    }

    /// Reads lines such as `serde v1.0.0` and `eventbus v0.1.0 (/folder/eventbus) (*)`: only crates of this repository
    /// have a folder.
    fn parse(lines: &str) -> Self {
        let mut tree = Self::default();
        for line in lines.lines().filter(|line| !line.is_empty()) {
            let (name, rest) = line.split_once(" v").unwrap_or_else(|| panic!("no version: {line}"));
            let names = if rest.contains(['/', '\\']) { &mut tree.own } else { &mut tree.foreign };
            names.insert(name.to_owned());
        }
        tree
    }

    /// Returns the crates of a list that are in the tree, in the order of the list.
    fn of_list(&self, list: &[&'static str]) -> Vec<&'static str> {
        list.iter().copied().filter(|name| self.foreign.contains(*name)).collect()
    }
}

/// The trees of the libraries with their default features: cargo takes its time.
static BY_DEFAULT: LazyLock<BTreeMap<&str, Tree>> =
    LazyLock::new(|| LIBRARIES.iter().map(|library| (library.name, Tree::of(library.name, &[]))).collect());

#[test]
fn a_library_brings_its_layers_and_its_driver_and_no_part_of_the_command_line() {
    let names: Vec<_> = LIBRARIES.iter().map(|library| library.name).collect();
    assert_eq!(names, PRODUCT.iter().copied().filter(|name| *name != COMMAND_LINE).collect::<Vec<_>>());
    for library in LIBRARIES {
        let tree = &BY_DEFAULT[library.name];
        assert!(tree.own.iter().eq(library.own), "{}: {:?}", library.name, tree.own);
        assert_eq!(tree.of_list(DRIVERS), library.drivers, "{}", library.name);
        assert_eq!(tree.of_list(OF_COMMAND_LINE), [""; 0], "{}", library.name);
    }
}

#[test]
fn optional_features_bring_what_they_are_for_and_never_the_command_line() {
    for library in LIBRARIES {
        let tree = Tree::of(library.name, &["--all-features"]);
        assert_eq!(tree.of_list(OF_COMMAND_LINE), library.on_request, "{}", library.name);
        assert!(!tree.own.contains(COMMAND_LINE), "{}", library.name);
    }
}

/// So the list misses no dependency, and the trees show those that are there.
#[test]
fn the_list_holds_what_the_command_line_alone_depends_on() {
    let of_libraries: BTreeSet<_> = BY_DEFAULT.values().flat_map(|tree| tree.foreign.iter().cloned()).collect();
    let direct = Tree::of(COMMAND_LINE, &["--all-features", "--depth", "1"]).foreign;
    let alone: Vec<_> = direct.difference(&of_libraries).collect();
    assert_eq!(alone, OF_COMMAND_LINE);
    let all = Tree::of(COMMAND_LINE, &["--all-features"]);
    assert_eq!(all.of_list(DRIVERS), DRIVERS);
    assert!(all.own.contains(COMMAND_LINE), "{all:?}");
}

#[test]
fn names_are_read_from_every_form_of_line() {
    let tree = Tree::parse(
        "eventbus v0.1.0 (/folder/eventbus)\nserde v1.0.229\nserde v1.0.229 (*)\n\n\
         eventbus-derive v0.1.0 (proc-macro) (/folder/eventbus-derive) (*)\nasync-trait v0.1.92 (proc-macro)\n\
         a v1.0.0 (C:\\folder\\a)\n",
    );
    assert!(tree.own.iter().eq(["a", "eventbus", "eventbus-derive"]), "{tree:?}");
    assert!(tree.foreign.iter().eq(["async-trait", "serde"]), "{tree:?}");
}
