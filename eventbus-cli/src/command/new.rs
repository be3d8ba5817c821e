//! `new`: makes a crate from the template.
//!
//! Invariant: it writes only into a folder that it has made, and never changes existing files.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use clap::Args;
use serde_json::json;

use crate::{
    error::{CommandError, ExitStatus},
    session::Session,
};

/// The files of the template, by their paths in the new crate; the manifest is made separately.
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

/// The manifest of a new crate: `source = "x"` stands for the source of the crate `x`.
const MANIFEST: &str = include_str!("../../template/manifest.toml");

/// The comment in a manifest about its paths.
const PATHS_ARE_LOCAL: &str = "\
# The crates of eventbus come from a folder that CI does not have: before you push, write `git = \"URL\"` in place of each
# `path = \"..\"`, with the URL of a repository of eventbus.
";

/// The name of the crate in the template's files.
const TEMPLATE_NAME: &str = "my-app";

/// Names that Rust or cargo uses.
const RESERVED: &str = "\
    abstract alloc as async await become box break build const continue core crate deps do dyn else enum examples extern \
    false final fn for gen if impl in incremental let loop macro match mod move mut override priv proc_macro pub ref \
    return self static std struct super test trait true try type typeof unsafe unsized use virtual where while yield";

/// Make a crate with an aggregate, a handler, a projection, an HTTP API, metrics, these commands, tests, a compose file and CI
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
    /// Takes eventbus from this checkout, by its path from the new crate: CI has it only at the same place.
    #[arg(long)]
    path: Option<PathBuf>,
    /// Takes eventbus from this repository.
    #[arg(long)]
    git: Option<String>,
}

fn cannot_write(path: &Path, error: &io::Error) -> CommandError {
    CommandError::fault(format!("cannot write {}: {error}", path.display()))
}

/// The source from which a new crate takes the crates of eventbus.
#[derive(Debug)]
enum CrateSource {
    /// A checkout, by its path from the new crate.
    Checkout(String),
    /// A repository, and a branch, a tag or a commit of it.
    Repository { url: String, rev: Option<String> },
}

impl CrateSource {
    /// Returns the source of the crate of this name, in the form of a manifest.
    fn of(&self, name: &str) -> String {
        match self {
            Self::Checkout(path) => format!("path = {:?}", format!("{path}/{name}")),
            Self::Repository { url, rev: None } => format!("git = {url:?}"),
            Self::Repository { url, rev: Some(rev) } => format!("git = {url:?}, rev = {rev:?}"),
        }
    }
}

impl NewArgs {
    pub(crate) fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        if session.is_dry_run() {
            self.check()?;
            let (folder, files) = (self.folder.display(), FILES.len() + 1);
            session.show_dry_run(&format!("make the folder {folder} with {files} files"))?;
            return Ok(ExitStatus::Done);
        }
        let source = self.make()?;
        let folder = self.folder.display().to_string();
        session.printer().show(&json!({ "folder": folder }), |_| format!("made {folder}: see its README.md\n"))?;
        if let CrateSource::Checkout(path) = source {
            let manifest = self.folder.join("Cargo.toml");
            session.printer().note(&format!(
                "note: {} takes eventbus from {path}, which CI does not have: before you push, write `git = \"URL\"` there \
                 in place of each `path`",
                manifest.display()
            ));
        }
        Ok(ExitStatus::Done)
    }

    /// Returns the name of the crate, and its source of eventbus.
    fn check(&self) -> Result<(String, CrateSource), CommandError> {
        let made = (self.crate_name()?, self.crate_source()?);
        match self.folder.exists() {
            true => Err(self.exists()),
            false => Ok(made),
        }
    }

    fn exists(&self) -> CommandError {
        CommandError::Usage(format!("{} exists already", self.folder.display()))
    }

    /// Makes the crate, and returns its source of eventbus. Files that were written before an error stay.
    fn make(&self) -> Result<CrateSource, CommandError> {
        let (name, source) = self.check()?;
        fs::create_dir(&self.folder).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => self.exists(),
            _ => cannot_write(&self.folder, &error),
        })?;
        for (path, text) in FILES {
            self.write(path, &named(text, &name))?;
        }
        self.write("Cargo.toml", &manifest(&name, &source))?;
        Ok(source)
    }

    fn crate_name(&self) -> Result<String, CommandError> {
        let name = self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_valid = name.starts_with(|first: char| first.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if !is_valid {
            return Err(CommandError::Usage(format!(
                "`{name}` cannot be the name of a crate: write letters, digits, `-` and `_`, a letter first"
            )));
        }
        let word = name.replace('-', "_");
        let is_dependency =
            |line: &str| line.split(['.', ' ']).next().is_some_and(|name| name.replace('-', "_") == word);
        let mut dependencies = MANIFEST.lines().skip_while(|line| *line != "[dependencies]");
        if RESERVED.split(' ').any(|reserved| reserved == word) || dependencies.any(is_dependency) {
            return Err(CommandError::Usage(format!(
                "`{name}` cannot be the name of the crate: it is a word of Rust or cargo, or a crate that the new one uses"
            )));
        }
        Ok(name)
    }

    fn crate_source(&self) -> Result<CrateSource, CommandError> {
        if let Some(path) = &self.source.path {
            let checkout = path.canonicalize().ok().filter(|path| path.join("eventbus/Cargo.toml").is_file());
            let checkout = checkout.ok_or_else(|| {
                let folder = path.display();
                CommandError::Usage(format!("{folder} is no checkout of eventbus: it has no eventbus/Cargo.toml"))
            })?;
            // the folder itself is not made yet
            let parent = self.folder.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new(".")).canonicalize();
            let parent = parent.map_err(|error| cannot_write(&self.folder, &error))?;
            let folder = parent.join(self.folder.file_name().unwrap_or_default());
            return Ok(CrateSource::Checkout(path_between(&folder, &checkout)));
        }
        let url = self.source.git.clone().unwrap_or_default();
        Ok(CrateSource::Repository { url, rev: self.rev.clone() })
    }

    fn write(&self, path: &str, text: &str) -> Result<(), CommandError> {
        let path = self.folder.join(path);
        let parent = path.parent().map_or(Ok(()), fs::create_dir_all);
        parent.and_then(|()| fs::write(&path, text)).map_err(|error| cannot_write(&path, &error))
    }
}

/// Returns a text of the template with the name of the new crate.
fn named(text: &str, name: &str) -> String {
    // the other order would find the name of the template within a new name such as `my_app2`
    text.replace(&TEMPLATE_NAME.replace('-', "_"), &name.replace('-', "_")).replace(TEMPLATE_NAME, name)
}

/// Returns the path from the folder `from` to the folder `to`, as `cargo add --path` writes it: with `/`, and valid on
/// each machine with the same relative locations. If they are on different drives, returns the whole path.
fn path_between(from: &Path, to: &Path) -> String {
    let shared = from.components().zip(to.components()).take_while(|(one, other)| one == other).count();
    if shared == 0 {
        return to.display().to_string();
    }
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    let steps = up.chain(to.components().skip(shared)).map(|step| step.as_os_str().to_string_lossy());
    steps.collect::<Vec<_>>().join("/")
}

fn manifest(name: &str, source: &CrateSource) -> String {
    let mut manifest = String::new();
    for line in named(MANIFEST, name).lines() {
        let placeholder =
            line.split_once("source = \"").and_then(|(before, rest)| Some((before, rest.split_once('"')?)));
        match placeholder {
            Some((before, (crate_name, after))) => manifest += &format!("{before}{}{after}\n", source.of(crate_name)),
            None => manifest += &format!("{line}\n"),
        }
        if line == "[dependencies]" && matches!(source, CrateSource::Checkout(_)) {
            manifest += PATHS_ARE_LOCAL;
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
        assert!(manifest.starts_with("[package]\nname = \"two-banks\"\n"), "{manifest}");
        let (_, sqlite) = manifest.split_once("\neventstore-sqlite = { path = \"").unwrap();
        let sqlite = sqlite.split('"').next().unwrap();
        assert!(sqlite.starts_with("../") && folder.join(sqlite).join("Cargo.toml").is_file(), "{manifest}");
        let from_git = new(&["x", "--git", "ssh://host/eventbus", "--rev", "v1"]);
        let expected = "eventbus = { git = \"ssh://host/eventbus\", rev = \"v1\", features = [\"axum\"] }\n";
        let text = super::manifest("x", &from_git.crate_source().unwrap());
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn a_checkout_is_found_from_the_new_crate() {
        for (folder, checkout, path) in [
            ("/work/my-app", "/work/eventbus", "../eventbus"),
            ("/work/apps/my-app", "/work/eventbus", "../../eventbus"),
            ("/home/ada/my-app", "/opt/eventbus", "../../../opt/eventbus"),
            ("/work/eventbus/my-app", "/work/eventbus", ".."),
        ] {
            assert_eq!(path_between(Path::new(folder), Path::new(checkout)), path);
        }
    }

    /// The comment in a manifest with paths: what it advises makes the manifest of `--git`.
    #[test]
    fn a_manifest_with_paths_says_how_to_name_a_repository() {
        let url = "https://host/eventbus";
        let of_checkout = super::manifest("x", &CrateSource::Checkout("../eventbus".into()));
        let (before, rest) = of_checkout.split_once(PATHS_ARE_LOCAL).unwrap();
        let changed = format!("{before}{rest}").lines().fold(String::new(), |changed, line| {
            let Some((start, rest)) = line.split_once("path = \"") else { return changed + line + "\n" };
            let (_, end) = rest.split_once('"').unwrap();
            changed + start + &format!("git = {url:?}") + end + "\n"
        });
        let of_repository = super::manifest("x", &CrateSource::Repository { url: url.into(), rev: None });
        assert_eq!(changed, of_repository);
        assert!(of_repository.contains(url) && !of_repository.contains("path"), "{of_repository}");
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

    /// Returns a file of the template.
    fn template_file(path: &str) -> &'static str {
        FILES.iter().find(|(written, _)| *written == path).unwrap().1
    }

    /// Returns the rows of a table with two columns in the README of a new crate.
    fn readme_table(heading: &str) -> Vec<(&'static str, &'static str)> {
        let (_, rows) = template_file("README.md").split_once(&format!("\n{heading}\n|---|---|\n")).unwrap();
        let cells = |row: &'static str| row.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | ");
        rows.lines().map_while(cells).collect()
    }

    #[test]
    fn the_readme_lists_the_variables_that_the_program_reads() {
        let sources = FILES.iter().filter(|(path, _)| path.starts_with("src/"));
        let read = sources.flat_map(|(_, text)| text.split("env::var(\"").skip(1));
        let read = read.map(|rest| rest.split('"').next().unwrap());
        // the log reads its level
        let due: BTreeSet<_> = read.chain(["RUST_LOG"]).collect();
        let listed = readme_table("| variable | without it |");
        assert_eq!(listed.iter().map(|(name, _)| name.trim_matches('`')).collect::<BTreeSet<_>>(), due);
        let without = |name: &str| listed.iter().find(|(listed, _)| listed.trim_matches('`') == name).unwrap().1;
        let main = template_file("src/main.rs");
        let file = without("DATABASE_URL").split('`').nth(1).unwrap();
        assert!(main.contains(&format!("app.store(SqliteEventStore::open(\"{file}\")")), "{file}");
        assert!(
            main.contains(&format!("warn!(\"DATABASE_URL is not set: the events are in the file {file}\")")),
            "{file}"
        );
        assert!(main.contains("consumer_name: env::var(\"EVENTBUS_CONSUMER_NAME\").ok()"));
        let address = without("LISTEN").trim_matches('`');
        assert!(main.contains(&format!("env::var(\"LISTEN\").unwrap_or_else(|_| \"{address}\".into())")), "{address}");
        // with the feature `env-filter` the log would show errors alone
        assert_eq!(without("RUST_LOG"), "`info`");
        assert!(main.contains("tracing_subscriber::fmt::init()"));
        assert!(MANIFEST.contains("\ntracing-subscriber = \"0.3\"\n"));
    }

    /// A process whose port is taken must not handle events.
    #[test]
    fn the_service_has_its_port_before_the_app_starts() {
        let (before, _) = template_file("src/main.rs").split_once(".start().await").unwrap();
        assert!(before.contains("TcpListener::bind(&address).await"), "{before}");
    }

    /// The library has the routes for probes and for Prometheus, the crate those for its clients.
    #[test]
    fn the_readme_lists_routes_that_the_service_has() {
        let router = template_file("src/routes.rs");
        let mut due = Vec::new();
        for (file, function) in [("health", "health_routes"), ("health", "status_routes"), ("metrics", "metrics_route")]
        {
            let source = fs::read_to_string(format!("{CHECKOUT}/eventbus/src/axum/{file}.rs")).unwrap();
            let body = source.split(&format!("\npub fn {function}<")).nth(1).unwrap().split("\n}\n").next().unwrap();
            let routes: Vec<_> = body.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
            assert!(!routes.is_empty(), "{function}");
            if router.contains(&format!(".merge({function}(")) {
                due.extend(routes.into_iter().map(|route| format!("`{route}`")));
            }
        }
        let listed = readme_table("| route | for |").into_iter().flat_map(|(routes, _)| routes.split(", "));
        assert_eq!(listed.collect::<Vec<_>>(), due);
        let asked = template_file("README.md").lines().filter_map(|line| line.strip_prefix("curl localhost:8000"));
        let asked: Vec<_> = asked.map(|rest| rest.split(' ').next().unwrap().replace("/ada/", "/{id}/")).collect();
        assert_eq!(asked.len(), 2, "{asked:?}");
        for route in asked {
            assert!(router.contains(&format!(".route(\"{route}\", ")), "{route}");
        }
    }

    #[test]
    fn the_readme_describes_each_source_of_the_crate() {
        let listed: BTreeSet<_> =
            readme_table("| file | what it holds |").into_iter().map(|(path, _)| path.trim_matches('`')).collect();
        let is_described =
            |path: &&str| *path != "src/lib.rs" && (path.starts_with("src/") || path.starts_with("tests/"));
        let sources = FILES.iter().map(|(path, _)| *path).filter(is_described);
        assert_eq!(listed, sources.chain(["events.lock"]).collect());
    }

    #[test]
    fn mistakes_are_named_and_nothing_is_written() {
        let parent = tempfile::tempdir().unwrap();
        let folder = |name: &str| parent.path().join(name).display().to_string();
        let error = |name: &str, path: &str| new(&[&folder(name), "--path", path]).make().unwrap_err().to_string();
        assert!(error("2banks", CHECKOUT).starts_with("`2banks` cannot be the name of a crate"));
        for reserved in ["fn", "macro", "deps", "eventbus", "eventbus_redis", "tokio", "proc-macro"] {
            assert!(error(reserved, CHECKOUT).ends_with("or a crate that the new one uses"), "{reserved}");
        }
        assert!(error("banks", parent.path().to_str().unwrap()).contains("is no checkout of eventbus"));
        fs::create_dir(parent.path().join("taken")).unwrap();
        assert!(
            error("operate", parent.path().to_str().unwrap()).contains("is no checkout of eventbus"),
            "a feature may have the crate's name"
        );
        assert!(error("taken", CHECKOUT).ends_with("taken exists already"));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(parent.path().join("taken")).unwrap().count(), 0);
    }

    /// The member of the workspace that runs the template's tests has the features and dependencies of a new crate.
    #[test]
    fn the_member_of_the_workspace_has_the_dependencies_of_the_template() {
        let names = |manifest: &str| {
            let lines = manifest.lines().skip_while(|line| *line != "[features]").filter(|line| line.contains('='));
            let name = |line: &str| line.split(['.', ' ']).next().unwrap_or_default().to_owned();
            lines.map(name).collect::<Vec<_>>()
        };
        let member = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/template/Cargo.toml"));
        assert_eq!(names(MANIFEST), names(member));
    }
}
