//! Programs that must compile, under the lints of a new crate: each module is one.

mod conditional_methods;
mod decision_forms;
mod event_versions;
mod handler_called_directly;
mod handler_options;
mod handler_parameters;
mod inside_functions;
mod listed_under_another_name;
mod made_by_macro_rules;
mod own_enum_spans_aggregates;
mod public_aggregate_of_private_events;
mod raw_identifiers;
mod renamed_dependency;
mod second_fold_over_one_stream;
mod serde_attributes;
mod shadowed_names;
mod story;
// public, as its lints are about public items
pub mod strict_lints;
mod transactions;
mod unit_event;

use std::{collections::BTreeSet, fs};

#[test]
fn each_file_is_a_module() {
    let files = fs::read_dir("tests/pass").unwrap();
    let mut files: BTreeSet<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert!(files.remove("main.rs"));
    let modules =
        include_str!("main.rs").lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod "));
    assert_eq!(files, modules.map(|name| name.replace(';', ".rs")).collect());
}
