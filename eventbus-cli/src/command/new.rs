//! `new`: makes a crate from the template.
//!
//! Invariant: it writes into a folder that it has made; what exists is never changed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;

use crate::{
    error::{CommandError, ExitStatus},
    session::Session,
};

/// The files of the template, by their paths in the new crate; the manifest is made apart.
const FILES: &[(&str, &str)] = &[
    (".github/workflows/ci.yml", include_str!("../../template/.github/workflows/ci.yml")),
    (".gitignore", include_str!("../../template/gitignore")),
    ("README.md", include_str!("../../template/README.md")),
    ("compose.yaml", include_str!("../../template/compose.yaml")),
    ("events.lock", include_str!("../../template/events.lock")),
    ("rustfmt.toml", include_str!("../../template/rustfmt.toml")),
    ("src/account.rs", include_str!("../../template/src/account.rs")),
    ("src/balances.rs", include_str!("../../template/src/balances.rs")),
    ("src/lib.rs", include_str!("../../template/src/lib.rs")),
    ("src/main.rs", include_str!("../../template/src/main.rs")),
    ("src/receipts.rs", include_str!("../../template/src/receipts.rs")),
    ("src/routes.rs", include_str!("../../template/src/routes.rs")),
    ("tests/service.rs", include_str!("../../template/tests/service.rs")),
];

/// The manifest of a new crate: `source = "x"` stands for where the crate `x` is.
const MANIFEST: &str = include_str!("../../template/manifest.toml");

/// The name that the template's files have for the crate.
const TEMPLATE_NAME: &str = "my-app";

/// Names that Rust or cargo uses.
const RESERVED: &str = "\
    alloc as async await break build const continue core crate deps dyn else enum examples extern false fn for gen \
    if impl in incremental let loop match mod move mut proc_macro pub ref return self static std struct super test \
    trait true try type unsafe use where while yield";

/// Make a crate with an aggregate, a handler, a projection, an HTTP API, tests, a compose file and CI
#[derive(Debug, Clone, Args)]
pub(crate) struct NewArgs {
    /// The folder of the new crate, which is made; its last part names the crate.
    folder: PathBuf,
    #[command(flatten)]
    source: SourceArgs,
    /// With `--git`: a branch, a tag or a commit.
    #[arg(long, requires = "git")]
    rev: Option<String>,
}

#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
struct SourceArgs {
    /// Takes eventbus from this checkout.
    #[arg(long)]
    path: Option<PathBuf>,
    /// Takes eventbus from this repository.
    #[arg(long)]
    git: Option<String>,
}

/// The crate could not be made.
#[derive(Debug, thiserror::Error)]
enum NewCrateError {
    /// The name cannot be that of a crate.
    #[error("`{name}` cannot be the name of a crate: write letters, digits, `-` and `_`, a letter first")]
    InvalidName {
        /// The last part of the folder.
        name: String,
    },
    /// The name means something else in the new crate.
    #[error(
        "`{name}` cannot be the name of the crate: it is a word of Rust or cargo, or a crate that the new one uses"
    )]
    ReservedName {
        /// The last part of the folder.
        name: String,
    },
    /// The folder exists already.
    #[error("{} exists already", folder.display())]
    Exists {
        /// The folder that was to be made.
        folder: PathBuf,
    },
    /// The folder is no checkout of eventbus.
    #[error("{} is no checkout of eventbus: it has no eventbus/Cargo.toml", folder.display())]
    NoCheckout {
        /// The argument of `--path`.
        folder: PathBuf,
    },
    /// A file or folder could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

impl From<NewCrateError> for CommandError {
    fn from(error: NewCrateError) -> Self {
        match error {
            NewCrateError::Write { .. } => Self::fault(error),
            _ => Self::Usage(error.to_string()),
        }
    }
}

/// Returns where the crate of a name is, as a manifest says it.
type SourceOf = Box<dyn Fn(&str) -> String>;

#[derive(Debug, Serialize)]
struct Made {
    folder: String,
}

impl NewArgs {
    pub(crate) fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        if session.is_dry_run() {
            let (folder, files) = (self.folder.display(), FILES.len() + 1);
            session.printer().note(&format!("dry run: make the folder {folder} with {files} files"));
            return Ok(ExitStatus::Done);
        }
        let made = Made { folder: self.make()?.display().to_string() };
        session.printer().show(&made, |made| format!("made {}: see its README.md\n", made.folder))?;
        Ok(ExitStatus::Done)
    }

    /// Makes the crate, and returns its folder. Files that were written before an error stay.
    fn make(&self) -> Result<&Path, NewCrateError> {
        let name = self.crate_name()?;
        let sources = self.sources()?;
        let exists = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => NewCrateError::Exists { folder: self.folder.clone() },
            _ => NewCrateError::Write { path: self.folder.clone(), source: error },
        };
        fs::create_dir(&self.folder).map_err(exists)?;
        for (path, text) in FILES {
            self.write(path, &named(text, &name))?;
        }
        self.write("Cargo.toml", &manifest(&name, &sources))?;
        Ok(&self.folder)
    }

    fn crate_name(&self) -> Result<String, NewCrateError> {
        let name = self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_valid = name.starts_with(|first: char| first.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if !is_valid {
            return Err(NewCrateError::InvalidName { name });
        }
        let is_dependency = |line: &str| line.split(['.', ' ']).next() == Some(&*name);
        let word = name.replace('-', "_");
        if RESERVED.split(' ').any(|reserved| reserved == word) || MANIFEST.lines().any(is_dependency) {
            return Err(NewCrateError::ReservedName { name });
        }
        Ok(name)
    }

    /// Returns what writes into a manifest where a crate is.
    fn sources(&self) -> Result<SourceOf, NewCrateError> {
        if let Some(folder) = &self.source.path {
            let checkout = folder.canonicalize().ok().filter(|path| path.join("eventbus/Cargo.toml").is_file());
            let checkout = checkout.ok_or_else(|| NewCrateError::NoCheckout { folder: folder.clone() })?;
            return Ok(Box::new(move |of| format!("path = {:?}", checkout.join(of).display().to_string())));
        }
        let git = format!("git = {:?}", self.source.git.as_deref().unwrap_or_default());
        let rev = self.rev.as_ref().map(|rev| format!(", rev = {rev:?}")).unwrap_or_default();
        Ok(Box::new(move |_| format!("{git}{rev}")))
    }

    fn write(&self, path: &str, text: &str) -> Result<(), NewCrateError> {
        let path = self.folder.join(path);
        let parent = path.parent().map_or(Ok(()), fs::create_dir_all);
        parent.and_then(|()| fs::write(&path, text)).map_err(|source| NewCrateError::Write { path, source })
    }
}

/// Returns a text of the template with the name of the new crate.
fn named(text: &str, name: &str) -> String {
    // the other order would find the name of the template within a new name such as `my_app2`
    text.replace(&TEMPLATE_NAME.replace('-', "_"), &name.replace('-', "_")).replace(TEMPLATE_NAME, name)
}

fn manifest(name: &str, source_of: &SourceOf) -> String {
    let mut manifest = String::new();
    for line in named(MANIFEST, name).lines() {
        let placeholder =
            line.split_once("source = \"").and_then(|(before, rest)| Some((before, rest.split_once('"')?)));
        match placeholder {
            Some((before, (of, after))) => manifest += &format!("{before}{}{after}\n", source_of(of)),
            None => manifest += &format!("{line}\n"),
        }
    }
    manifest
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: NewArgs,
    }

    fn new(arguments: &[&str]) -> NewArgs {
        Cli::parse_from(["new"].iter().chain(arguments)).args
    }

    const TEMPLATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/template");
    const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

    #[test]
    fn a_crate_has_its_name_and_sources() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("two-banks");
        new(&[folder.to_str().unwrap(), "--path", CHECKOUT]).make().unwrap();
        let main = fs::read_to_string(folder.join("src/main.rs")).unwrap();
        assert!(main.contains("use two_banks::{app, routes::router};") && !main.contains("my"), "{main}");
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        let checkout = Path::new(CHECKOUT).canonicalize().unwrap();
        assert!(manifest.starts_with("[package]\nname = \"two-banks\"\n"), "{manifest}");
        let sqlite = format!("eventstore-sqlite = {{ path = \"{}\" }}\n", checkout.join("eventstore-sqlite").display());
        assert!(manifest.contains(&sqlite), "{manifest}");
        let from_git = new(&["x", "--git", "ssh://host/eventbus", "--rev", "v1"]);
        let expected = "eventbus = { git = \"ssh://host/eventbus\", rev = \"v1\", features = [\"axum\"] }\n";
        let text = super::manifest("x", &from_git.sources().unwrap());
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn a_name_may_hold_that_of_the_template() {
        assert_eq!(named("my-app my_app::app", "my_app2"), "my_app2 my_app2::app");
        assert_eq!(named("my-app my_app::app", "my-app-2"), "my-app-2 my_app_2::app");
    }

    #[test]
    fn each_file_of_the_template_is_written() {
        let mut files = Vec::new();
        let mut folders = vec![PathBuf::from(TEMPLATE)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        let name = |path: &PathBuf| path.strip_prefix(TEMPLATE).unwrap().to_str().unwrap().to_owned();
        let files: BTreeSet<_> = files.iter().map(name).collect();
        // the manifest is made apart, and git would read a `.gitignore` of the template
        let own = |path: &str| if path == ".gitignore" { "gitignore".to_owned() } else { path.to_owned() };
        let written: BTreeSet<_> =
            FILES.iter().map(|(path, _)| own(path)).chain(["manifest.toml".to_owned()]).collect();
        assert_eq!((files, FILES.len() + 1), (written.clone(), written.len()));
    }

    #[test]
    fn mistakes_are_named_and_nothing_is_written() {
        let parent = tempfile::tempdir().unwrap();
        let folder = |name: &str| parent.path().join(name).display().to_string();
        let error = |name: &str, path: &str| new(&[&folder(name), "--path", path]).make().unwrap_err().to_string();
        assert!(error("2banks", CHECKOUT).starts_with("`2banks` cannot be the name of a crate"));
        for reserved in ["fn", "deps", "eventbus", "tokio", "proc-macro"] {
            assert!(error(reserved, CHECKOUT).ends_with("or a crate that the new one uses"), "{reserved}");
        }
        assert!(error("banks", parent.path().to_str().unwrap()).contains("is no checkout of eventbus"));
        fs::create_dir(parent.path().join("taken")).unwrap();
        assert!(error("taken", CHECKOUT).ends_with("taken exists already"));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(parent.path().join("taken")).unwrap().count(), 0);
    }

    /// The member of the workspace that runs the template's tests has the dependencies of a new crate.
    #[test]
    fn the_member_of_the_workspace_has_the_dependencies_of_the_template() {
        let names = |manifest: &str| {
            let lines = manifest.lines().skip_while(|line| *line != "[dependencies]").filter(|line| line.contains('='));
            let name = |line: &str| line.split(['.', ' ']).next().unwrap_or_default().to_owned();
            lines.map(name).collect::<Vec<_>>()
        };
        let member = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/template/Cargo.toml"));
        assert_eq!(names(MANIFEST), names(member));
    }
}
