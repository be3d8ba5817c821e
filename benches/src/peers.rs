//! The peers: other frameworks, each a program of its own below `peers`, built here before it is measured.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use eventbus::Result;

use crate::driver::{Contender, target_folder};

pub const ALL_NAMES: &str = "postgres-es,esrs,evento,disintegrate,sea-streamer,eventsource-py";

/// Another framework, and the workloads that it has.
struct Peer {
    name: &'static str,
    workloads: &'static [&'static str],
}

const ALL: &[Peer] = &[
    Peer { name: "postgres-es", workloads: &["save-1", "save-10", "load-100-save", "load-10000", "rebuild-memory"] },
    Peer { name: "esrs", workloads: &["save-1", "save-10", "load-100-save", "load-10000", "rebuild-memory"] },
    Peer { name: "evento", workloads: &["save-1", "save-10", "load-100-save"] },
    Peer { name: "disintegrate", workloads: &["save-1", "save-10", "load-100-save", "load-10000", "rebuild-memory"] },
    Peer { name: "sea-streamer", workloads: &["publish-1", "publish-100", "consume"] },
    Peer { name: PYTHON, workloads: &["save-1", "publish-1", "publish-100", "consume"] },
];

/// The peer that is a script.
const PYTHON: &str = "eventsource-py";
const PYTHON_NEEDED: (u32, u32) = (3, 13);

/// Builds those of these peers that have one of the workloads; an empty list of workloads stands for all. A peer that
/// cannot be built is reported and left out.
///
/// # Errors
/// If there is no peer of a name.
pub fn build(names: &[String], workloads: &[String]) -> Result<Vec<Contender>> {
    let mut contenders = Vec::new();
    for name in names {
        let peer = ALL.iter().find(|peer| peer.name == name);
        let peer = peer.ok_or_else(|| format!("no peer `{name}`; there are {ALL_NAMES}"))?;
        let is_measured = |workload: &&str| workloads.is_empty() || workloads.iter().any(|name| name == workload);
        if !peer.workloads.iter().any(is_measured) {
            continue;
        }
        match peer.build() {
            Ok(contender) => contenders.push(contender),
            Err(error) => eprintln!("the peer `{name}` is left out, it cannot be built: {error:?}"),
        }
    }
    Ok(contenders)
}

impl Peer {
    fn build(&self) -> Result<Contender> {
        let target = target_folder().join("peers").join(self.name);
        fs::create_dir_all(&target)?;
        let (program, arguments) = if self.name == PYTHON {
            let folder = folder("eventsource_py");
            (environment(&target, &folder)?, vec!["-B".into(), path(&folder.join("main.py"))])
        } else {
            let manifest = folder(self.name).join("Cargo.toml");
            let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut build = Command::new(cargo);
            build.args(["build", "--release", "--locked", "--manifest-path"]).arg(manifest);
            succeed(build.arg("--target-dir").arg(&target))?;
            (target.join("release").join(format!("{}-peer", self.name)), Vec::new())
        };
        Ok(Contender { label: self.name, program, arguments, workloads: Some(self.workloads), is_peer: true })
    }
}

fn folder(peer: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(peer)
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Makes a virtual environment of Python with a peer's requirements, unless it exists, and returns its interpreter.
fn environment(target: &Path, peer: &Path) -> Result<PathBuf> {
    let requirements = peer.join("requirements.txt");
    let (python, interpreter, stamp) = (installed_python()?, target.join("bin/python"), target.join("made-of"));
    let wanted = format!("{}\n{}", python.display(), fs::read_to_string(&requirements)?);
    if fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(interpreter);
    }
    succeed(Command::new(python).args(["-m", "venv", "--clear"]).arg(target))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    succeed(Command::new(&interpreter).args(pip).arg(requirements))?;
    fs::write(stamp, wanted)?;
    Ok(interpreter)
}

/// Finds a Python that is new enough, on the path or among those of pyenv.
fn installed_python() -> Result<PathBuf> {
    let (major, minor) = PYTHON_NEEDED;
    let named = (minor..minor + 5).map(|minor| PathBuf::from(format!("python{major}.{minor}")));
    let root = env::var_os("PYENV_ROOT").map(PathBuf::from);
    let root = root.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".pyenv")));
    let versions = root.and_then(|root| fs::read_dir(root.join("versions")).ok()).into_iter().flatten().flatten();
    let by_pyenv = versions.map(|version| version.path().join("bin/python3"));
    let test = format!("import sys, venv; sys.exit(sys.version_info < ({major}, {minor}))");
    let is_new_enough = |python: &PathBuf| {
        let test = Command::new(python).args(["-c", &test]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        test.is_ok_and(|status| status.success())
    };
    let python = [PathBuf::from("python3")].into_iter().chain(named).chain(by_pyenv).find(is_new_enough);
    Ok(python.ok_or_else(|| format!("no Python {major}.{minor} or newer is installed"))?)
}

/// Runs a command, whose output goes to the standard error: the table goes to the standard output.
fn succeed(command: &mut Command) -> Result<()> {
    let status = command.stdout(io::stderr()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} ended with {status}").into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload;

    #[test]
    fn the_workloads_of_each_peer_exist() {
        let names: Vec<_> = ALL.iter().map(|peer| peer.name).collect();
        assert_eq!(names.join(","), ALL_NAMES);
        for Peer { name, workloads } in ALL {
            for workload in *workloads {
                assert!(workload::find(workload).is_ok(), "{name}: {workload}");
            }
        }
    }

    #[test]
    fn an_unknown_peer_is_an_error() {
        let error = build(&["esr".into()], &[]).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("no peer `esr`") && error.contains("esrs"), "{error}");
    }
}
