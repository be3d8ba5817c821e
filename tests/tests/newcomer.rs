//! The README's quick start, copied into a crate of its own, becomes a running program unchanged.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Returns the first block of Rust in the README.
fn quick_start() -> String {
    let readme = fs::read_to_string(workspace().join("README.md")).unwrap();
    let block = readme.split("```rust").nth(1).unwrap();
    let code = block.split_once('\n').unwrap().1.split("```").next().unwrap();
    code.to_owned()
}

/// Makes the crate, with the dependencies that the README names, and its code.
fn make_crate(folder: &Path) {
    fs::create_dir_all(folder.join("src")).unwrap();
    fs::write(folder.join("src/main.rs"), quick_start()).unwrap();
    let path = |name: &str| workspace().join(name).display().to_string();
    let manifest = format!(
        "[package]\nname = \"newcomer\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n\
         eventbus = {{ path = {:?} }}\neventstore-sqlite = {{ path = {:?} }}\n\
         serde = {{ version = \"1\", features = [\"derive\"] }}\n\
         tokio = {{ version = \"1\", features = [\"macros\", \"rt-multi-thread\"] }}\n\n[workspace]\n\n\
         [profile.dev]\ndebug = false\n",
        path("eventbus"),
        path("eventstore-sqlite")
    );
    fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    // the versions that this machine has already
    fs::copy(workspace().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
}

#[test]
fn the_quick_start_runs_in_a_crate_of_its_own() {
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (folder, target) = (temporary.join("newcomer"), temporary.join("newcomer-target"));
    make_crate(&folder);
    let elsewhere = temporary.join(test_servers::unique_name("newcomer"));
    fs::create_dir_all(&elsewhere).unwrap();
    for balance in [120, 240] {
        let output = Command::new(env!("CARGO"))
            .args(["run", "--offline", "--quiet", "--manifest-path"])
            .arg(folder.join("Cargo.toml"))
            .env("CARGO_TARGET_DIR", &target)
            .env_remove("RUSTFLAGS")
            .current_dir(&elsewhere)
            .output()
            .unwrap();
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{text}{errors}");
        assert_eq!(errors, "", "a newcomer sees no warnings");
        assert!(text.contains(&format!("ada has {balance} cents")), "{text}");
        assert_eq!(text.matches("thank you, ada, for 120 cents").count(), 1, "{text}");
    }
    fs::remove_dir_all(elsewhere).unwrap();
}

#[test]
fn the_quick_start_is_short() {
    let code = quick_start();
    let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(lines <= 25, "{lines} lines of code");
}
