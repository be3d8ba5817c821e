//! A Python with the library in it, made once and kept in the target folder.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

/// What pip installs, beside the scripts.
const REQUIREMENTS: &str = "requirements.txt";

/// The folder of the scripts.
pub(crate) fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python")
}

/// The interpreter that has the library, or `None`, with the reason printed, where there is no Python 3.
///
/// # Panics
/// If the library cannot be installed: with what pip said.
pub(crate) fn interpreter() -> Option<&'static Path> {
    static INTERPRETER: OnceLock<Result<Option<PathBuf>, String>> = OnceLock::new();
    let made = INTERPRETER.get_or_init(|| {
        let Some(python) = installed_python() else {
            // past the capturing of the test's output
            let _ =
                writeln!(io::stderr(), "skipped, not run: tests with the Python library, because there is no python3");
            return Ok(None);
        };
        environment(&python).map(Some)
    });
    made.as_ref().unwrap_or_else(|error| panic!("{error}")).as_deref()
}

/// Which Python 3 this is.
fn installed_python() -> Option<String> {
    let asked = Command::new("python3").args(["-c", "import sys; print(sys.executable, sys.version)"]).output();
    let answer = asked.ok().filter(|answer| answer.status.success())?;
    String::from_utf8(answer.stdout).ok()
}

/// Makes the environment, unless it was made of the same things before.
fn environment(python: &str) -> Result<PathBuf, String> {
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (folder, requirements) = (temporary.join("python"), scripts().join(REQUIREMENTS));
    let (stamp, interpreter) = (folder.join("made-of"), folder.join("bin/python"));
    let wanted = python.to_owned() + &fs::read_to_string(&requirements).unwrap();
    let one_at_a_time = File::create(temporary.join("python.lock")).unwrap();
    one_at_a_time.lock().unwrap(); // until it is dropped, by whatever way
    if fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(interpreter);
    }
    succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
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
