//! The programs of the first two chapters, in a crate of their own as a reader makes it; and the crates that all chapters
//! add.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

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

/// The crates that a command of a chapter adds.
#[derive(Debug, Default)]
struct Added {
    /// `serde`, `opentelemetry@0.33`, or a path.
    names: Vec<String>,
    features: Vec<String>,
}

impl Added {
    /// Parses the words after `cargo add`.
    fn parse(command: &str) -> Self {
        let (mut added, mut words) = (Self::default(), command.split_whitespace());
        while let Some(word) = words.next() {
            match word {
                "--dev" => {}
                "--path" => added.names.extend(words.next().map(str::to_owned)),
                "--features" => added.features.extend(words.next().unwrap_or_default().split(',').map(str::to_owned)),
                option if option.starts_with('-') => panic!("another form of the command: {command}"),
                name => added.names.push(name.to_owned()),
            }
        }
        added
    }
}

/// The manifests of the workspace, as `cargo metadata` reads them.
struct Manifests(Value);

impl Manifests {
    fn read() -> Self {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["metadata", "--no-deps", "--format-version", "1", "--offline", "--manifest-path"]);
        let output = cargo.arg(workspace().join("Cargo.toml")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self(serde_json::from_slice(&output.stdout).unwrap())
    }

    fn package(&self, name: &str) -> Option<&Value> {
        self.0["packages"].as_array()?.iter().find(|package| package["name"] == name)
    }

    /// Returns the features that a chapter may name of a crate: of one of this repository those of its manifest, of any
    /// other those with which the guide is compiled. `None` if there is no such crate.
    fn features_of(&self, name: &str) -> Option<BTreeSet<&str>> {
        if let Some(folder) = name.strip_prefix("../eventbus/") {
            let package = self.package(folder)?;
            assert_eq!(package["manifest_path"].as_str(), workspace().join(folder).join("Cargo.toml").to_str());
            return Some(package["features"].as_object()?.keys().map(String::as_str).collect());
        }
        let (name, version) = name.split_once('@').map_or((name, None), |(name, version)| (name, Some(version)));
        let found = self.package("guide")?["dependencies"].as_array()?.iter().find(|dependency| {
            dependency["name"] == name && version.is_none_or(|version| dependency["req"] == format!("^{version}"))
        })?;
        Some(found["features"].as_array()?.iter().filter_map(Value::as_str).collect())
    }
}

#[test]
fn the_crates_and_features_that_the_chapters_add_exist() {
    let (manifests, mut checked) = (Manifests::read(), 0);
    let folders = ["guide/src", "guide/src/moving"].map(|folder| fs::read_dir(workspace().join(folder)).unwrap());
    let files = folders.into_iter().flatten().map(|entry| entry.unwrap().path());
    for file in files.filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(&file).unwrap();
        for command in text.split("cargo add ").skip(1).filter_map(|rest| rest.split(['\n', '`', '#']).next()) {
            let place = format!("{}: `cargo add {}`", file.display(), command.trim());
            let Added { names, features } = Added::parse(command);
            for name in names {
                let known = manifests.features_of(&name).unwrap_or_else(|| panic!("{place}: no `{name}`"));
                let unknown = features.iter().find(|feature| !known.contains(feature.as_str()));
                assert_eq!(unknown, None, "{place}: `{name}` has no such feature, of {known:?}");
                checked += 1;
            }
        }
    }
    assert!(checked > 15, "{checked}");
}

#[test]
#[ignore = "compiles the crates anew, which takes long; `.ci/full` runs it"]
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
