//! The example `git-history`, run as a program on real repositories.

#[path = "../common/mod.rs"]
mod common;
mod generate;
mod interrupted;
mod program;
mod refused;

use std::path::Path;

use generate::Generator;
use program::{Repo, Run, example, git_is_installed};

/// A repository of so many generated commits, and the expected output.
fn generated(commits: u64) -> (Repo, Generator) {
    let repo = Repo::new();
    let mut generator = Generator::new();
    generator.commit_until(commits).send(&repo);
    let count = repo.git(&["rev-list", "--count", "HEAD"]);
    assert_eq!(count, generator.commits.to_string(), "the generator's own account");
    (repo, generator)
}

/// Fails with the lines that differ.
fn assert_tables(run: &Run, generator: &Generator) {
    let (shown, expected) = (run.tables(), generator.expected());
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        let differing = these.iter().filter(|line| !those.contains(line));
        differing.take(10).cloned().collect()
    };
    let differing = (only(&shown, &expected), only(&expected, &shown));
    assert!(
        shown == expected,
        "shown but not expected: {:#?}\nexpected but not shown: {:#?}",
        differing.0,
        differing.1
    );
}

#[test]
fn five_thousand_commits_are_imported_once_each() {
    if !git_is_installed() {
        return;
    }
    let (repo, mut generator) = generated(5_200);
    let first = repo.import("events.db", &[]).succeeded();
    let commits = generator.commits;
    assert_eq!(first.imported(), (commits, commits + generator.file_events));
    assert_tables(&first, &generator);
    let tree = repo.git(&["ls-tree", "-r", "-z", "HEAD"]);
    let there = format!("{} still there)", tree.matches('\0').count());
    assert!(first.stdout.contains(&there), "{there}\n{}", first.stdout);
    for note in ["5 path(s) are kept quoted", "1 path(s) are longer", "have an author or message that is not UTF-8"] {
        assert!(first.stdout.contains(note), "{note}\n{}", first.stdout);
    }

    let second = repo.import("events.db", &[]).succeeded();
    assert_eq!((second.found(), second.imported()), (commits, (0, 0)));
    assert_tables(&second, &generator);

    let before = generator.file_events;
    generator.commit_until(commits + 10).send(&repo);
    let third = repo.import("events.db", &[]).succeeded();
    assert_eq!(third.found(), commits);
    assert_eq!(third.imported(), (10, 10 + generator.file_events - before));
    assert_tables(&third, &generator);
}

#[test]
fn postgres_keeps_it_as_well() {
    if !git_is_installed() {
        return;
    }
    let (repo, mut generator) = generated(300);
    let database = eventbus_test::postgres();
    let import = || {
        let mut command = example();
        command.arg(&repo.path).args(["--top", "1000000", "--store", database.url()]);
        Run::of(command.output().unwrap()).succeeded()
    };
    assert_eq!(import().imported().0, 300);
    generator.commit_until(310).send(&repo);
    let second = import();
    assert_eq!((second.found(), second.imported().0), (300, 10));
    assert_tables(&second, &generator);
}

#[test]
fn settings_and_environment_change_nothing() {
    if !git_is_installed() {
        return;
    }
    let (repo, generator) = generated(300);
    for (key, value) in [
        ("diff.renames", "false"),
        ("diff.relative", "true"),
        ("diff.ignoreSubmodules", "all"),
        ("log.showRoot", "false"),
        ("log.showSignature", "true"),
        ("log.diffMerges", "first-parent"),
        ("log.follow", "true"),
        ("log.decorate", "full"),
        ("color.ui", "always"),
        ("i18n.logOutputEncoding", "ISO-8859-1"),
        ("core.abbrev", "7"),
        ("core.quotePath", "true"),
    ] {
        repo.git(&["config", key, value]);
    }
    std::fs::create_dir_all(repo.path.join("folder-1")).unwrap();
    let output = example()
        .arg(repo.path.join("folder-1"))
        .args(["--top", "1000000", "--store", "memory"])
        .env("GIT_DIR", "/nowhere")
        .output()
        .unwrap();
    let run = Run::of(output).succeeded();
    assert_eq!(run.imported().0, generator.commits);
    assert_tables(&run, &generator);
}

#[test]
fn this_repository_is_imported() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let Some(own) = own.into_iter().find(|folder| folder.join(".git").exists()) else {
        return println!("not run: the project is not in a git checkout");
    };
    if !git_is_installed() {
        return;
    }
    // a clone, because a user may commit meanwhile
    let repo = Repo::clone_of(own, &["--bare"]);
    let number = |text: String| text.parse::<u64>().unwrap();
    let commits = number(repo.git(&["rev-list", "--count", "HEAD"]));
    let raw = ["log", "--raw", "-c", "--root", "-M50%", "-l1000", "--format="];
    let changes = repo.git(&raw).lines().count() as u64;

    let run = repo.import("events.db", &[]).succeeded();
    assert_eq!(run.imported(), (commits, commits + changes));
    let rows = run.tables();
    let by_authors: u64 =
        rows.iter().filter(|row| row.ends_with('>')).filter_map(|row| row.split(' ').next()?.parse::<u64>().ok()).sum();
    assert_eq!(by_authors, commits, "every commit has one author");
    assert_eq!(repo.import("events.db", &[]).succeeded().imported(), (0, 0));
}
