//! Imports that are killed, stopped, cut off or concurrent.

use std::process::Stdio;

use crate::{
    assert_tables, generated,
    program::{Run, git_is_installed},
};

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
    println!("killed {kills} times, the last time after {} commits", last.found());
}

#[test]
#[cfg(unix)]
fn ctrl_c_stops_cleanly() {
    if !git_is_installed() {
        return;
    }
    let (repo, generator) = generated(2_000);
    let busy = repo.import_until_busy("events.db");
    let kill = std::process::Command::new("kill").args(["-INT", &busy.child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let stopped = busy.end();
    assert_eq!(stopped.code, Some(130), "{stopped:#?}");
    assert!(stopped.stdout.ends_with("the same command goes on from there\n"), "{stopped:#?}");

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
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for child in [start(), start()] {
        let run = Run::of(child.wait_with_output().unwrap());
        let alone = run.stderr.contains("a second import writes to this store");
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
    let raw = ["log", "--reverse", "--topo-order", "-z", "--raw", "--no-abbrev", "-M50%"];
    let format = "--format=tformat:%H%x00%P%x00%an%x00%ae%x00%ct%x00%s";
    let whole = repo.git(&[&raw[..], &["-l1000", "-c", "--combined-all-paths", format]].concat());
    let length = whole.match_indices("\0:100644").map(|(at, _)| at + 1).nth(60);
    // the displayed form of a byte that is not UTF-8 is longer than the byte
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
    assert!(rest.found() > 0 && rest.found() < generator.commits, "{rest:#?}");
    assert_tables(&rest, &generator);
}
