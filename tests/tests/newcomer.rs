//! The README's quick start, copied into a crate of its own, becomes a running program unchanged; so do, of the page of
//! the crate, the program that reads its rows, and the tests. Beside it: a binary of several crates.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The page of the crate `eventbus` on the registry.
const CRATE_PAGE: &str = "eventbus/README.md";

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Returns the first block of a language below a heading of a file.
fn first_block_below(file: &str, heading: &str, language: &str) -> String {
    let text = fs::read_to_string(workspace().join(file)).unwrap();
    let section = text.split(&format!("\n## {heading}\n")).nth(1).unwrap();
    let block = section.split(&format!("```{language}")).nth(1).unwrap();
    let code = block.split_once('\n').unwrap().1.split("```").next().unwrap();
    code.to_owned()
}

fn quick_start() -> String {
    first_block_below("README.md", "Quick start", "rust")
}

/// Returns the lines of a manifest for the crates that a block of `cargo add` adds.
fn dependencies(commands: &str) -> String {
    let mut lines = String::new();
    for command in commands.lines().map(|line| line.strip_prefix("cargo add ").unwrap()) {
        let (mut source, mut features) = (String::new(), Vec::new());
        let mut words = command.split('#').next().unwrap().split_whitespace();
        while let Some(word) = words.next() {
            match word {
                "--dev" => {}
                "--path" => {
                    let name = words.next().unwrap().strip_prefix("../eventbus/").unwrap();
                    source = format!("{name} = {{ path = {:?}", workspace().join(name));
                }
                "--features" => features.extend(words.next().unwrap().split(',')),
                name => source = format!("{name} = {{ version = \"1\""),
            }
        }
        lines += &format!("{source}, features = {features:?} }}\n");
    }
    lines
}

/// Makes a program with this code and the dependencies that the README names.
fn make_crate(folder: &Path, code: &str) {
    make_crate_beside(folder, "newcomer", "main.rs", code, &[]);
}

/// Makes a crate of this name, with this code in a file of `src`, that depends on crates in folders beside its own.
fn make_crate_beside(folder: &Path, name: &str, file: &str, code: &str, neighbours: &[&str]) {
    fs::create_dir_all(folder.join("src")).unwrap();
    fs::write(folder.join("src").join(file), code).unwrap();
    let neighbours: String = neighbours.iter().map(|name| format!("{name} = {{ path = \"../{name}\" }}\n")).collect();
    let dependencies_of_all = dependencies(&first_block_below("README.md", "Quick start", "sh"));
    let of_tests = dependencies(&first_block_below(CRATE_PAGE, "Testing", "sh"));
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n\
         {dependencies_of_all}{neighbours}\n[dev-dependencies]\n{of_tests}\n[workspace]\n\n\
         [profile.dev]\ndebug = false\n"
    );
    fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    // the versions that this machine has already
    fs::copy(workspace().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
}

/// Returns the command `cargo` with an argument, for the crate in this folder.
fn cargo(command: &str, folder: &Path) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args([command, "--offline", "--quiet", "--manifest-path"])
        .arg(folder.join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", temporary().join("newcomer-target"))
        .env_remove("RUSTFLAGS");
    cargo
}

/// Runs the command, which passes without a warning, and returns what it prints.
fn output_of(cargo: &mut Command) -> String {
    let output = cargo.output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{errors}");
    assert_eq!(errors, "", "a newcomer sees no warnings");
    text.into_owned()
}

fn temporary() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

#[test]
#[ignore = "compiles the crates anew, which takes long; `.ci/full` runs it"]
fn the_quick_start_runs_in_a_crate_of_its_own() {
    let folder = temporary().join("newcomer");
    make_crate(&folder, &quick_start());
    let elsewhere = temporary().join(eventbus_test::unique_name("newcomer"));
    fs::create_dir_all(&elsewhere).unwrap();
    for balance in [120, 240] {
        let text = output_of(cargo("run", &folder).current_dir(&elsewhere));
        assert!(text.contains(&format!("ada has {balance} cents")), "{text}");
        assert_eq!(text.matches("thank you, ada, for 120 cents").count(), 1, "{text}");
    }
    make_crate(&folder, &first_block_below(CRATE_PAGE, "Effects that happen once", "rust"));
    for _run in 0..2 {
        let text = output_of(cargo("run", &folder).current_dir(&elsewhere));
        assert_eq!(text, "ada has 240 cents\n");
    }
    fs::remove_dir_all(elsewhere).unwrap();
}

#[test]
#[ignore = "compiles the crates with other features, which takes long; `.ci/full` runs it"]
fn the_tests_of_the_crate_page_pass_in_a_crate_of_their_own() {
    let folder = temporary().join("newcomer-tests");
    make_crate(&folder, &(quick_start() + &first_block_below(CRATE_PAGE, "Testing", "rust")));
    let text = output_of(&mut cargo("test", &folder));
    assert!(text.contains("4 passed"), "{text}");
}

#[test]
#[ignore = "compiles five crates, which takes long; `.ci/full` runs it"]
fn a_crate_that_the_binary_does_not_name_is_missed_at_the_start() {
    const EVENT: &str = r#"
        use eventbus::prelude::*;
        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Order")]
        pub struct OrderCreated {}
    "#;
    const HANDLER: &str = "
        #[eventbus::handler]
        async fn log(_event: &eventbus::RecordedEvent) {}
    ";
    const MAIN: &str = r#"
        #[tokio::main]
        async fn main() {
            let app = eventbus::App::builder().discover().expect_crates(["my-orders", "billing"]);
            match app.start().await {
                Ok(_) => println!("started"),
                Err(error) => println!("{error}"),
            }
        }
    "#;
    let folder = temporary().join("newcomer-crates");
    make_crate_beside(&folder.join("my-orders"), "my-orders", "lib.rs", EVENT, &[]);
    make_crate_beside(&folder.join("billing"), "billing", "lib.rs", HANDLER, &[]);
    let shop = folder.join("shop");
    for (named, missed) in [("my_orders billing", None), ("billing", Some("my_orders")), ("my_orders", Some("billing"))]
    {
        let uses: String = named.split(' ').map(|name| format!("use {name} as _;\n")).collect();
        make_crate_beside(&shop, "shop", "main.rs", &(uses + MAIN), &["my-orders", "billing"]);
        let text = output_of(&mut cargo("run", &shop));
        match missed {
            None => assert_eq!(text, "started\n"),
            Some(missed) => assert!(text.contains(&format!("add `use {missed} as _;` to main.rs")), "{text}"),
        }
    }
}

#[test]
fn the_crate_page_begins_with_the_same_program() {
    for language in ["sh", "rust"] {
        let due = first_block_below("README.md", "Quick start", language);
        assert_eq!(first_block_below(CRATE_PAGE, "Quick start", language), due);
    }
}

#[test]
fn the_quick_start_is_short() {
    let code = quick_start();
    let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(lines <= 25, "{lines} lines of code");
}
