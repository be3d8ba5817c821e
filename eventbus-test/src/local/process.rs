//! Starting and signalling processes of servers.

use std::{
    env,
    fs::{self, File},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::run_folder::RunFolder;
use crate::{error::Error, server::Server};

/// Long enough for a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(5);
const SHOWN_LINES: usize = 20;

/// Starts a server and waits until `is_ready` returns `true` for its process id. Its output goes to the log in its
/// folder.
pub(crate) fn start(
    server: Server,
    command: &mut Command,
    run: &RunFolder,
    is_ready: impl Fn(u32) -> bool,
) -> Result<Child, Error> {
    let doing = format!("start {server}");
    let log = run.log();
    let output = File::create(&log).and_then(|file| Ok((file.try_clone()?, file)));
    let (stdout, stderr) = output.map_err(Error::io(format!("write {}", log.display())))?;
    // a group of its own: a signal to the test's group must not reach it
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).current_dir("/").process_group(0);
    let mut child = command.spawn().map_err(Error::io(doing))?;
    if becomes_ready(&mut child, is_ready) {
        return Ok(child);
    }
    end(&mut child);
    let end = tail(&fs::read_to_string(&log).unwrap_or_default());
    Err(Error::NotReady { server, log: run.keep_log(server.key()), end })
}

fn becomes_ready(child: &mut Child, is_ready: impl Fn(u32) -> bool) -> bool {
    wait_until(|| is_ready(child.id()) || has_ended(child)) && !has_ended(child)
}

/// Returns `true` if the process has ended, or its state is unknown.
pub(crate) fn has_ended(child: &mut Child) -> bool {
    !matches!(child.try_wait(), Ok(None))
}

/// Kills a process and waits until it is gone.
pub(crate) fn end(child: &mut Child) {
    // both can only fail because it is gone already
    let _ = child.kill();
    let _ = child.wait();
}

/// Returns the first program of that name on the PATH.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Sends a signal other than KILL; the shell's `kill` is there even where no such program is installed.
pub(crate) fn signal(child: &Child, signal: &str) -> Result<(), Error> {
    let script = format!("kill -{signal} {}", child.id());
    let output = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).output();
    let output = output.map_err(Error::io(&script))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Failed { program: script, output: String::from_utf8_lossy(&output.stderr).into_owned() })
}

/// Returns `true` if the process is stopped by a signal.
pub(crate) fn is_paused(child: &Child) -> bool {
    let state = match fs::read_to_string(format!("/proc/{}/stat", child.id())) {
        Ok(stat) => stat.rsplit(") ").next().unwrap_or_default().to_owned(),
        Err(_) => shown_state(child).unwrap_or_default(),
    };
    state.starts_with('T')
}

fn shown_state(child: &Child) -> Option<String> {
    let output = Command::new("ps").args(["-o", "stat=", "-p", &child.id().to_string()]).output().ok()?;
    String::from_utf8(output.stdout).ok()
}

/// Polls until `condition` holds; returns `false` if it does not in time.
pub(crate) fn wait_until(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Returns the last lines of an output.
pub(crate) fn tail(output: &str) -> String {
    let lines: Vec<_> = output.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}
