//! The programs and tests of the first four chapters, in a crate of their own as a reader makes it; and the crates that all
//! chapters add.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use guide::CHAPTERS;
use serde_json::Value;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn chapter(name: &str) -> String {
    fs::read_to_string(workspace().join("guide/src").join(name)).unwrap()
}

/// Returns the block of a language with this number, from 1, as a reader copies it from the file.
fn block(chapter: &str, language: &str, number: usize) -> String {
    let block = chapter.split(&format!("```{language}")).nth(number).unwrap().split("```").next().unwrap();
    block.split_once('\n').unwrap().1.to_owned()
}

/// Returns a block without the lines that repeat a part of the program, which a reader leaves out.
fn without_repeated_lines(block: &str) -> String {
    let shown = block.lines().filter(|line| !line.starts_with("# "));
    shown.fold(String::new(), |text, line| text + line + "\n")
}

/// Returns the lines that a block shows below its commands.
fn printed(block: &str) -> Vec<&str> {
    block.lines().filter(|line| !line.starts_with('$')).collect()
}

/// Returns the lines of a manifest for the dependencies that commands add, or for those of tests.
fn dependencies(commands: &str, are_of_tests: bool) -> String {
    let commands = commands.lines().filter_map(|line| line.strip_prefix("cargo add "));
    let added = commands.map(|command| Added::parse(command.split('#').next().unwrap()));
    added.filter(|added| added.is_of_tests == are_of_tests).map(|added| added.line()).collect()
}

/// The crate of a reader, outside of the workspace.
struct ReadersCrate {
    folder: PathBuf,
}

impl ReadersCrate {
    /// Makes the crate `bank`, with the dependencies that these commands add.
    fn new(commands: &str) -> Self {
        let made = Self { folder: Path::new(env!("CARGO_TARGET_TMPDIR")).join("guide-newcomer") };
        if made.folder.exists() {
            fs::remove_dir_all(&made.folder).unwrap();
        }
        let [dependencies, of_tests] = [false, true].map(|are_of_tests| dependencies(commands, are_of_tests));
        let manifest = format!(
            "[package]\nname = \"bank\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n{dependencies}\n\
             [dev-dependencies]\n{of_tests}\n[workspace]\n\n[profile.dev]\ndebug = false\n"
        );
        made.write("Cargo.toml", &manifest);
        // the versions that this machine has already
        fs::copy(workspace().join("Cargo.lock"), made.folder.join("Cargo.lock")).unwrap();
        made
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Runs a command of cargo in the folder `current`, and returns what its programs print.
    fn cargo(&self, command: &str, arguments: &[&str], current: &Path) -> String {
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args([command, "--offline", "--quiet", "--manifest-path"])
            .arg(self.folder.join("Cargo.toml"))
            .args(arguments)
            // that of the README's newcomer, which has the same dependencies
            .env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("newcomer-target"))
            .env_remove("RUSTFLAGS")
            .current_dir(current);
        let output = cargo.output().unwrap();
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{text}{errors}");
        assert_eq!(errors, "", "a newcomer sees no warnings");
        text.into_owned()
    }

    /// Runs this program in the folder `current`, with arguments, and returns what it prints.
    fn run(&self, program: &str, arguments: &[&str], current: &Path) -> String {
        self.write("src/main.rs", program);
        self.cargo("run", &[&["--"][..], arguments].concat(), current)
    }
}

/// The crates that a command of a chapter adds.
#[derive(Debug, Default)]
struct Added {
    /// `serde`, `opentelemetry@0.33`, or a path.
    names: Vec<String>,
    features: Vec<String>,
    is_of_tests: bool,
}

impl Added {
    /// Parses the words after `cargo add`.
    fn parse(command: &str) -> Self {
        let (mut added, mut words) = (Self::default(), command.split_whitespace());
        while let Some(word) = words.next() {
            match word {
                "--dev" => added.is_of_tests = true,
                "--path" => added.names.extend(words.next().map(str::to_owned)),
                "--features" => added.features.extend(words.next().unwrap_or_default().split(',').map(str::to_owned)),
                option if option.starts_with('-') => panic!("another form of the command: {command}"),
                name => added.names.push(name.to_owned()),
            }
        }
        added
    }

    /// Returns the line of a manifest for the crate.
    fn line(&self) -> String {
        let [name] = &self.names[..] else { panic!("a command for each crate: {self:?}") };
        let features = &self.features;
        match name.strip_prefix("../eventbus/") {
            Some(folder) => {
                format!("{folder} = {{ path = {:?}, features = {features:?} }}\n", workspace().join(folder))
            }
            None => format!("{name} = {{ version = \"1\", features = {features:?} }}\n"),
        }
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
            let Added { names, features, .. } = Added::parse(command);
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

/// Replaces a part of a program that is there once.
fn replaced(program: &str, from: &str, to: &str) -> String {
    assert_eq!(program.matches(from).count(), 1, "{from} in {program}");
    program.replace(from, to)
}

/// Returns the program of the chapter on handlers after its repair.
fn repaired() -> String {
    replaced(&block(&chapter("handlers.md"), "rust", 1), "1_000", "10_000")
}

/// Returns that program with the projection of the next chapter.
fn with_totals() -> String {
    let [projection, lines] =
        [1, 2].map(|number| without_repeated_lines(&block(&chapter("projections.md"), "rust", number)));
    let program = replaced(&repaired(), "#[tokio::main]", &format!("{projection}\n#[tokio::main]"));
    let end = "    Ok(())\n}\n";
    program.strip_suffix(end).unwrap().to_owned() + &lines + end
}

/// Moves the events and the account into a library, as the chapter on tests says; returns it, and the program.
fn with_library(program: &str) -> (String, String) {
    let (uses, rest) = program.split_once("#[derive(").unwrap();
    let (moved, rest) = rest.split_once("#[handler(").unwrap();
    let mut library = format!("use eventbus::prelude::*;\n\n#[derive({moved}");
    for private in ["struct ", "owner: String }", "cents: i64 }", "fn open(", "fn deposit(", "fn withdraw("] {
        assert!(library.contains(private), "{private} in {library}");
        library = library.replace(private, &format!("pub {private}"));
    }
    (library, format!("{uses}use bank::*;\n\n#[handler({rest}"))
}

/// The programs that a reader copies: chapter, and number of the block.
const PROGRAMS: [(&str, usize); 3] = [("first-aggregate.md", 1), ("handlers.md", 1), ("projections.md", 3)];

#[test]
fn the_programs_that_a_reader_copies_are_complete() {
    for (name, number) in PROGRAMS {
        let program = block(&chapter(name), "rust", number);
        assert!(program.contains("async fn main() "), "{name}: {program}");
        assert_eq!(without_repeated_lines(&program), program, "{name}");
    }
}

#[test]
#[ignore = "compiles the crates anew, which takes long; `.ci/full` runs it"]
fn the_first_chapters_run_in_a_crate_of_their_own() {
    let [first, second, third, fourth] =
        ["first-aggregate.md", "handlers.md", "projections.md", "tests.md"].map(chapter);
    let bank = ReadersCrate::new(&(block(&first, "sh", 1) + &block(&fourth, "sh", 1)));
    let folder = tempfile::tempdir().unwrap();
    let shown = block(&first, "text", 1);
    for line in printed(&shown) {
        assert_eq!(bank.run(&block(&first, "rust", 1), &[], folder.path()), format!("{line}\n"));
    }
    assert_eq!(printed(&shown).len(), 2);

    let folder = tempfile::tempdir().unwrap();
    let text = bank.run(&block(&second, "rust", 1), &[], folder.path());
    let shown = block(&second, "text", 1);
    let due = printed(&shown);
    assert_eq!(text.lines().count(), due.len(), "{text}");
    for (line, due) in text.lines().zip(due) {
        let (begin, end) = due.split_once("..").unwrap_or((due, ""));
        assert!(line.starts_with(begin) && line.ends_with(end), "{line} instead of {due}");
    }
    let text = bank.run(&repaired(), &["replay"], folder.path());
    let shown = block(&second, "text", 2);
    // the handler may be faster than `main`
    let [lines, due] = [text.lines().collect::<BTreeSet<_>>(), printed(&shown).into_iter().collect()];
    assert_eq!(lines, due);

    let text = bank.run(&with_totals(), &["replay"], folder.path());
    assert_eq!(text.lines().collect::<Vec<_>>(), printed(&block(&third, "text", 1)));
    bank.write("examples/balances.rs", &block(&third, "rust", 3));
    let text = bank.cargo("run", &["--example", "balances"], folder.path());
    assert_eq!(text.lines().collect::<Vec<_>>(), printed(&block(&third, "text", 2)));

    let [in_main, of_a_day] = [1, 2].map(|number| without_repeated_lines(&block(&fourth, "rust", number)));
    let in_main = format!("\n#[cfg(test)]\nmod tests {{\n    use super::*;\n{in_main}}}\n");
    let (library, program) = with_library(&with_totals());
    bank.write("src/lib.rs", &library);
    bank.write("src/main.rs", &(program + &in_main));
    bank.write("tests/mail.rs", &("use bank::{Deposited, Opened};\n".to_owned() + &of_a_day));
    let text = bank.cargo("test", &[], folder.path());
    for passed in ["3 passed", "1 passed"] {
        assert_eq!(text.matches(passed).count(), 1, "{passed} in {text}");
    }
}

/// `fmt::init()` writes to standard output, where a command in the same binary writes its JSON.
#[test]
fn no_page_lets_the_log_write_to_standard_output() {
    let readmes = ["README.md", "eventbus/README.md", "eventbus-cli/README.md"].map(str::to_owned);
    for page in CHAPTERS.iter().map(|name| format!("guide/src/{name}")).chain(readmes) {
        let text = fs::read_to_string(workspace().join(&page)).unwrap();
        assert!(!text.contains("tracing_subscriber::fmt::init()"), "{page}");
    }
}
