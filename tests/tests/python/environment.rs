//! A Python for each release of the library, made once and kept in the target folder.

macro_rules! with_each_release {
    ($test:ident) => {
        mod $test {
            #[tokio::test]
            async fn with_0_8() {
                if let Some(python) = crate::environment::interpreter(crate::environment::Release::V0_8) {
                    super::$test(python).await;
                }
            }

            #[tokio::test]
            async fn with_0_15() {
                if let Some(python) = crate::environment::interpreter(crate::environment::Release::V0_15) {
                    super::$test(python).await;
                }
            }
        }
    };
}

use std::{
    env,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

/// A release of the library.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Release {
    V0_8,
    V0_15,
}

impl Release {
    /// Returns its name in file names.
    const fn name(self) -> &'static str {
        match self {
            Self::V0_8 => "0.8",
            Self::V0_15 => "0.15",
        }
    }

    /// The lowest minor version of Python 3 that it runs on.
    const fn needs(self) -> u32 {
        match self {
            Self::V0_8 => 11,
            Self::V0_15 => 13,
        }
    }
}

/// Returns the folder of the scripts.
pub(crate) fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python")
}

/// Returns the interpreter with a release of the library; prints a reason and returns `None` if there is no Python for
/// it.
///
/// # Panics
/// If the library cannot be installed, with pip's output.
pub(crate) fn interpreter(release: Release) -> Option<&'static Path> {
    static INTERPRETERS: [OnceLock<Result<Option<PathBuf>, String>>; 2] = [OnceLock::new(), OnceLock::new()];
    let made = INTERPRETERS[release as usize].get_or_init(|| {
        let Some((python, version)) = installed_python(release) else {
            // past the captured output of the test
            let (name, minor) = (release.name(), release.needs());
            let _ = writeln!(
                io::stderr(),
                "skipped, not run: tests with release {name} of the Python library, because there is no Python 3.{minor} \
                 or later"
            );
            return Ok(None);
        };
        environment(release, &python, &version).map(Some)
    });
    made.as_ref().unwrap_or_else(|error| panic!("{error}")).as_deref()
}

/// Returns an interpreter for a release, from the path or from pyenv, and its version.
fn installed_python(release: Release) -> Option<(PathBuf, String)> {
    let named = (release.needs()..release.needs() + 5).map(|minor| PathBuf::from(format!("python3.{minor}")));
    let root = env::var_os("PYENV_ROOT").map(PathBuf::from);
    let root = root.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".pyenv")))?;
    let versions = fs::read_dir(root.join("versions")).into_iter().flatten().flatten();
    let mut by_pyenv: Vec<_> = versions.map(|version| version.path().join("bin/python3")).collect();
    by_pyenv.sort();
    let mut candidates = std::iter::once(PathBuf::from("python3")).chain(named).chain(by_pyenv);
    candidates.find_map(|python| {
        let ask = "import sys, venv; print(sys.version_info.minor, sys.executable, sys.version)";
        let asked = Command::new(&python).args(["-c", ask]).output();
        let answer = String::from_utf8(asked.ok().filter(|answer| answer.status.success())?.stdout).ok()?;
        let minor: u32 = answer.split(' ').next()?.parse().ok()?;
        (minor >= release.needs()).then_some((python, answer))
    })
}

/// Makes the environment, unless one of the same release and version exists.
fn environment(release: Release, python: &Path, version: &str) -> Result<PathBuf, String> {
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = temporary.join(format!("python-{}", release.name()));
    let requirements = scripts().join(format!("requirements-{}.txt", release.name()));
    let (stamp, interpreter) = (folder.join("made-of"), folder.join("bin/python"));
    let wanted = version.to_owned() + &fs::read_to_string(&requirements).unwrap();
    let one_at_a_time = File::create(temporary.join(format!("python-{}.lock", release.name()))).unwrap();
    one_at_a_time.lock().unwrap(); // held until the file is dropped
    if fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(interpreter);
    }
    succeed(Command::new(python).args(["-m", "venv", "--clear"]).arg(&folder))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    succeed(Command::new(&interpreter).args(pip).arg(requirements))?;
    fs::write(stamp, wanted).unwrap();
    Ok(interpreter)
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let Output { status, stdout, stderr } = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}\n{}{}", said(&stdout), said(&stderr))) }
}
