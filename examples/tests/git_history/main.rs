//! The example `git-history`, run as a program on real repositories.

#[path = "../common/mod.rs"]
mod common;
mod generate;
mod program;

use std::{path::Path, process::Stdio};

use generate::Generator;
use program::{Folder, Repo, Run, example, git_is_installed};

/// A repository of so many generated commits, and what is to be shown of it.
fn generated(commits: u64) -> (Repo, Generator) {
    let repo = Repo::new();
    let mut generator = Generator::new();
    generator.commit_until(commits).send(&repo);
    let count = repo.git(&["rev-list", "--count", "HEAD"]);
    assert_eq!(
        count,
        generator.commits.to_string(),
        "the generator's own account"
    );
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
    for note in [
        "5 path(s) are kept quoted",
        "1 path(s) are longer",
        "have an author or message that is not UTF-8",
    ] {
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
fn an_import_that_is_killed_goes_on() {
    if !git_is_installed() {
        return;
    }
    let (repo, generator) = generated(4_000);
    let mut kills = 0;
    let mut found = 0;
    for _ in 0..3 {
        let mut busy = repo.import_until_busy("events.db");
        busy.child.kill().unwrap();
        let killed = busy.end();
        assert_eq!(killed.code, None, "{killed:#?}");
        assert!(killed.found() >= found, "{killed:#?}");
        found = killed.found();
        kills += 1;
    }
    let last = repo.import("events.db", &[]).succeeded();
    assert!(last.found() > found && last.found() < generator.commits);
    assert_eq!(last.found() + last.imported().0, generator.commits);
    assert_tables(&last, &generator);
    println!(
        "killed {kills} times, the last time after {} commits",
        last.found()
    );
}

#[test]
#[cfg(unix)]
fn ctrl_c_stops_cleanly() {
    if !git_is_installed() {
        return;
    }
    let (repo, generator) = generated(2_000);
    let busy = repo.import_until_busy("events.db");
    let kill = std::process::Command::new("kill")
        .args(["-INT", &busy.child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    let stopped = busy.end();
    assert_eq!(stopped.code, Some(130), "{stopped:#?}");
    assert!(
        stopped
            .stdout
            .ends_with("the same command goes on from there\n"),
        "{stopped:#?}"
    );

    let rest = repo.import("events.db", &[]).succeeded();
    assert_eq!(rest.found(), stopped.imported().0);
    assert_eq!(rest.found() + rest.imported().0, generator.commits);
    assert_tables(&rest, &generator);
}

#[test]
fn two_imports_at_once_store_nothing_twice() {
    if !git_is_installed() {
        return;
    }
    let (repo, generator) = generated(600);
    let start = || {
        let mut command = repo.importing("events.db", &[]);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    for child in [start(), start()] {
        let run = Run::of(child.wait_with_output().unwrap());
        let alone = run.stderr.contains("another import writes to this store");
        assert!(run.code == Some(0) || alone, "{run:#?}");
    }
    let last = repo.import("events.db", &[]).succeeded();
    assert_tables(&last, &generator);
}

#[test]
#[cfg(unix)]
fn half_a_commit_is_not_taken_for_a_whole_one() {
    use std::os::unix::fs::PermissionsExt;
    if !git_is_installed() {
        return;
    }
    let (repo, generator) = generated(200);
    // a git whose log breaks off between two changes of a commit
    let bin = repo.beside("bin");
    std::fs::create_dir(&bin).unwrap();
    let script = "#!/bin/sh\nPATH=${PATH#*:}\n\
        case \" $* \" in *\" log \"*) git \"$@\" | head -c LENGTH; exit 9;; esac\nexec git \"$@\"\n";
    let raw = [
        "log",
        "--reverse",
        "--topo-order",
        "-z",
        "--raw",
        "--no-abbrev",
        "-M50%",
    ];
    let format = "--format=tformat:%H%x00%P%x00%an%x00%ae%x00%ct%x00%s";
    let whole = repo.git(&[&raw[..], &["-l1000", "-c", "--combined-all-paths", format]].concat());
    let length = whole
        .match_indices("\0:100644")
        .map(|(at, _)| at + 1)
        .nth(60);
    // what is shown for a byte that is not UTF-8 is longer than the byte
    let shown = &whole[..length.unwrap()];
    let length = shown.len() - 2 * shown.matches('\u{fffd}').count();
    let git = bin.join("git");
    std::fs::write(&git, script.replace("LENGTH", &length.to_string())).unwrap();
    std::fs::set_permissions(&git, std::fs::Permissions::from_mode(0o755)).unwrap();

    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let broken = repo.importing("events.db", &[]).env("PATH", path).output();
    let broken = Run::of(broken.unwrap());
    assert_eq!(broken.code, Some(1), "{broken:#?}");
    assert!(broken.stderr.contains("`git log` failed"), "{broken:#?}");

    let rest = repo.import("events.db", &[]).succeeded();
    assert!(
        rest.found() > 0 && rest.found() < generator.commits,
        "{rest:#?}"
    );
    assert_tables(&rest, &generator);
}

#[test]
fn postgres_keeps_it_as_well() {
    if !git_is_installed() {
        return;
    }
    let (repo, mut generator) = generated(300);
    let database = common::Database::create();
    let import = || {
        let mut command = example();
        command
            .arg(&repo.path)
            .args(["--top", "1000000", "--store", &database.url]);
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
    // a clone, since somebody may commit meanwhile
    let repo = Repo::clone_of(own, &["--bare"]);
    let number = |text: String| text.parse::<u64>().unwrap();
    let commits = number(repo.git(&["rev-list", "--count", "HEAD"]));
    let raw = [
        "log",
        "--raw",
        "-c",
        "--root",
        "-M50%",
        "-l1000",
        "--format=",
    ];
    let changes = repo.git(&raw).lines().count() as u64;

    let run = repo.import("events.db", &[]).succeeded();
    assert_eq!(run.imported(), (commits, commits + changes));
    let rows = run.tables();
    let by_authors: u64 = rows
        .iter()
        .filter(|row| row.ends_with('>'))
        .filter_map(|row| row.split(' ').next()?.parse::<u64>().ok())
        .sum();
    assert_eq!(by_authors, commits, "every commit has one author");
    assert_eq!(repo.import("events.db", &[]).succeeded().imported(), (0, 0));
}

#[test]
fn rewritten_history_is_refused_or_imported_beside() {
    if !git_is_installed() {
        return;
    }
    let repo = Repo::new();
    for n in 0..5 {
        repo.commit("file", &format!("version {n}\n"));
    }
    repo.import("events.db", &[]).succeeded();
    repo.git(&["reset", "--quiet", "--hard", "HEAD~2"]);
    repo.commit("other", "other\n");

    let refused = repo.import("events.db", &[]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused
            .stderr
            .contains("(2 commits are not part of it any more)"),
        "{refused:#?}"
    );

    let accepted = repo.import("events.db", &["--accept-rewrite"]).succeeded();
    assert_eq!(
        accepted.imported(),
        (1, 3),
        "the commit, its file, the rewrite"
    );
    let again = repo.import("events.db", &[]).succeeded();
    assert_eq!(
        (again.found(), again.imported()),
        (6, (0, 0)),
        "accepted once for all"
    );

    // git has forgotten what it wrote first
    repo.commit("third", "third\n");
    repo.git(&["reflog", "expire", "--expire=now", "--all"]);
    repo.git(&["gc", "--quiet", "--prune=now"]);
    let next = repo.import("events.db", &[]).succeeded();
    assert_eq!((next.found(), next.imported()), (6, (1, 2)));

    let other = Repo::new();
    other.commit("file", "of another repository\n");
    let store = repo.beside("events.db");
    let refused = other.import(&store.display().to_string(), &[]);
    assert!(
        refused.stderr.contains("(its last commits are gone)"),
        "{refused:#?}"
    );
}

#[test]
fn a_shallow_clone_is_imported_with_a_note_and_not_when_it_gets_deeper() {
    if !git_is_installed() {
        return;
    }
    let (origin, _) = generated(60);
    let repo = Repo::clone_of(&origin.path, &["--depth=5", "--bare"]);
    let run = repo.import("events.db", &[]).succeeded();
    assert!(run.stdout.contains("note: a shallow clone"), "{run:#?}");
    assert!(run.imported().0 < 60);

    repo.git(&["fetch", "--quiet", "--unshallow"]);
    let refused = repo.import("events.db", &[]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused
            .stderr
            .contains("commits have appeared before those"),
        "{refused:#?}"
    );
}

#[test]
fn what_cannot_be_imported_is_explained() {
    if !git_is_installed() {
        return;
    }
    let folder = Folder::new();
    let said = |path: &Path, search_path: Option<&str>| {
        let mut command = example();
        command.arg(path).args(["--store", "memory"]);
        if let Some(search_path) = search_path {
            command.env("PATH", search_path);
        }
        command.env("GIT_CEILING_DIRECTORIES", folder.join(""));
        let run = Run::of(command.output().unwrap());
        assert_eq!((run.code, &*run.stdout), (Some(1), ""), "{run:#?}");
        run.stderr
    };
    let nowhere = folder.join("nowhere");
    assert!(said(&nowhere, None).contains("nowhere` is not a folder"));

    let plain = folder.join("plain");
    std::fs::create_dir(&plain).unwrap();
    let message = said(&plain, None);
    assert!(
        message.contains("plain` is not a git repository that git can read"),
        "{message}"
    );
    assert!(
        message.contains("not a git repository (or any"),
        "{message}"
    );

    let empty = Repo::new();
    assert!(said(&empty.path, None).contains("has no commits yet: there is nothing to import"));
    assert!(said(&empty.path, Some("/nowhere")).contains("git is not installed, or not in PATH"));
}
