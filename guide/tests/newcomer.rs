//! The programs of the first two chapters, in a crate of their own as a reader makes it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn chapter(name: &str) -> String {
    fs::read_to_string(workspace().join("guide/src").join(name)).unwrap()
}

/// Returns the first block of a language, without the lines that the book hides.
fn first_block(chapter: &str, language: &str) -> String {
    let block = chapter.split(&format!("```{language}")).nth(1).unwrap().split("```").next().unwrap();
    let shown = block.lines().skip(1).filter(|line| !line.starts_with("# "));
    shown.fold(String::new(), |text, line| text + line + "\n")
}

/// Returns the lines of a manifest for the dependencies that the chapter adds.
fn dependencies(commands: &str) -> String {
    let mut lines = String::new();
    for command in commands.lines().filter_map(|line| line.strip_prefix("cargo add ")) {
        let words: Vec<_> = command.split(' ').collect();
        let line = match words[..] {
            ["--path", path] => {
                let name = path.strip_prefix("../eventbus/").unwrap();
                format!("{name} = {{ path = {:?} }}\n", workspace().join(name))
            }
            [name, "--features", features] => {
                let features: Vec<_> = features.split(',').collect();
                format!("{name} = {{ version = \"1\", features = {features:?} }}\n")
            }
            _ => panic!("another form of the command: {command}"),
        };
        lines += &line;
    }
    lines
}

/// Makes the crate with this program, runs it in `folder`, and returns what it prints.
fn run(dependencies: &str, program: &str, folder: &Path) -> String {
    let bank = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guide-newcomer");
    fs::create_dir_all(bank.join("src")).unwrap();
    let manifest = format!(
        "[package]\nname = \"bank\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n{dependencies}\n\
         [workspace]\n\n[profile.dev]\ndebug = false\n"
    );
    fs::write(bank.join("Cargo.toml"), manifest).unwrap();
    fs::write(bank.join("src/main.rs"), program).unwrap();
    // the versions that this machine has already
    fs::copy(workspace().join("Cargo.lock"), bank.join("Cargo.lock")).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["run", "--offline", "--quiet", "--manifest-path"])
        .arg(bank.join("Cargo.toml"))
        // that of the README's newcomer, which has the same dependencies
        .env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("newcomer-target"))
        .env_remove("RUSTFLAGS")
        .current_dir(folder);
    let output = cargo.output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{errors}");
    assert_eq!(errors, "", "a newcomer sees no warnings");
    text.into_owned()
}

#[test]
fn the_first_chapters_lead_to_a_dead_letter() {
    let (first, second) = (chapter("first-aggregate.md"), chapter("handlers.md"));
    let dependencies = dependencies(&first_block(&first, "sh"));
    assert_eq!(dependencies.lines().count(), 4, "{dependencies}");
    let program = first_block(&first, "rust");
    let folder = tempfile::tempdir().unwrap();
    let shown = first_block(&first, "text");
    let printed: Vec<_> = shown.lines().filter(|line| !line.starts_with('$')).collect();
    for line in &printed {
        assert_eq!(run(&dependencies, &program, folder.path()), format!("{line}\n"));
    }
    assert_eq!(printed.len(), 2);

    // "in place of `main`"
    let (events, _) = program.split_once("#[tokio::main]").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let text = run(&dependencies, &(events.to_owned() + &first_block(&second, "rust")), folder.path());
    let shown = first_block(&second, "text");
    let due: Vec<_> = shown.lines().filter(|line| !line.starts_with('$')).collect();
    assert_eq!(text.lines().count(), due.len(), "{text}");
    for (line, due) in text.lines().zip(due) {
        let (begin, end) = due.split_once("..").unwrap_or((due, ""));
        assert!(line.starts_with(begin) && line.ends_with(end), "{line} instead of {due}");
    }
}
