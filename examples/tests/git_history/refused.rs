//! Repositories that the example refuses, and its messages.

use std::path::Path;

use crate::{
    generated,
    program::{Folder, Repo, Run, example, git_is_installed},
};

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
    assert!(refused.stderr.contains("(2 commits are not part of it any more)"), "{refused:#?}");

    let accepted = repo.import("events.db", &["--accept-rewrite"]).succeeded();
    assert_eq!(accepted.imported(), (1, 3), "the commit, its file, the rewrite");
    let again = repo.import("events.db", &[]).succeeded();
    assert_eq!((again.found(), again.imported()), (6, (0, 0)), "accepted once for all");

    // git has removed the first objects
    repo.commit("third", "third\n");
    repo.git(&["reflog", "expire", "--expire=now", "--all"]);
    repo.git(&["gc", "--quiet", "--prune=now"]);
    let next = repo.import("events.db", &[]).succeeded();
    assert_eq!((next.found(), next.imported()), (6, (1, 2)));

    let other = Repo::new();
    other.commit("file", "of another repository\n");
    let store = repo.beside("events.db");
    let refused = other.import(&store.display().to_string(), &[]);
    assert!(refused.stderr.contains("(its last commits are gone)"), "{refused:#?}");
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
    assert!(refused.stderr.contains("commits have appeared before those"), "{refused:#?}");
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
    assert!(message.contains("plain` is not a git repository that git can read"), "{message}");
    assert!(message.contains("not a git repository (or any"), "{message}");

    let empty = Repo::new();
    assert!(said(&empty.path, None).contains("has no commits yet: there is nothing to import"));
    assert!(said(&empty.path, Some("/nowhere")).contains("git is not installed, or not in PATH"));
}
