//! Runs the command as its users do, and compares what it shows.
#![allow(dead_code, reason = "each test file uses some of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

pub(crate) mod projections;

use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use eventbus::{HandlerError, prelude::*};
use serde_json::Value;

/// The time that a test waits for a line before it fails.
const LINE_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
pub(crate) struct OrderPlaced {
    pub(crate) cents: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
pub(crate) struct OrderShipped {
    pub(crate) parcel: String,
}

/// Gives each shipped order up at once.
#[handler(group = "mail", manual)]
pub(crate) async fn send(event: &OrderShipped) -> Result<(), HandlerError> {
    Err(HandlerError::permanent(format!("no mailbox for {}\nat all", event.parcel)))
}

/// The same, for orders of a stream that its application consumes.
#[handler(name = "send", group = "mail", stream = "orders", manual)]
pub(crate) async fn send_of_stream(event: &OrderShipped) -> Result<(), HandlerError> {
    send(event).await
}

/// What one run of the command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Returns the output of a command that is done, without ids and times.
    #[track_caller]
    pub(crate) fn masked(&self) -> String {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{}", self.out);
        mask(&self.out)
    }

    /// Returns the documents of the output.
    #[track_caller]
    pub(crate) fn documents(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{self:?}"))).collect()
    }

    /// Returns the one document of the output, without ids and times.
    #[track_caller]
    pub(crate) fn masked_json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        let masked = mask(&self.out);
        assert_eq!(masked.lines().count(), 1, "{self:?}");
        serde_json::from_str(&masked).unwrap()
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventbus"));
    command.args(arguments).stdin(Stdio::null());
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("EVENTBUS_") {
            command.env_remove(variable);
        }
    }
    command
}

/// Runs the command to its end.
pub(crate) fn eventbus(arguments: &[&str]) -> Ran {
    eventbus_with(arguments, &[])
}

/// Runs the command to its end, with variables of the environment.
pub(crate) fn eventbus_with(arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
    run(command(arguments).envs(variables.iter().copied()))
}

fn run(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// Runs the command to its end, with a text in a pipe as its standard input.
pub(crate) fn eventbus_piped(arguments: &[&str], input: &str) -> Ran {
    let (reader, mut writer) = std::io::pipe().unwrap();
    // the pipe has room for the text
    writer.write_all(input.as_bytes()).unwrap();
    drop(writer);
    run(command(arguments).stdin(reader))
}

/// Runs the command to its end, with an output whose reader has gone away, and returns its exit code.
pub(crate) fn eventbus_unread(arguments: &[&str]) -> Option<i32> {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command(arguments).stdout(writer).stderr(Stdio::null()).status().unwrap().code()
}

/// A command that runs on, the lines that it shows, and its notes.
pub(crate) struct Running {
    pub(crate) child: Child,
    lines: mpsc::Receiver<String>,
    notes: mpsc::Receiver<String>,
}

/// Returns the lines of an output as they are written.
fn lines(output: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

impl Running {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (lines, notes) = (lines(child.stdout.take().unwrap()), lines(child.stderr.take().unwrap()));
        Self { child, lines, notes }
    }

    /// Sends the signal of Ctrl-C.
    #[track_caller]
    pub(crate) fn interrupt(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    }

    /// Waits for the next line.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(LINE_TIMEOUT).expect("the command shows a line")
    }

    /// Waits for the next line of standard error.
    #[track_caller]
    pub(crate) fn note(&self) -> String {
        self.notes.recv_timeout(LINE_TIMEOUT).expect("the command says something")
    }

    /// Waits for the end of the command, which shows no further line, and returns its exit code.
    #[track_caller]
    pub(crate) fn exit_code(mut self) -> Option<i32> {
        assert_eq!(self.lines.recv_timeout(LINE_TIMEOUT), Err(mpsc::RecvTimeoutError::Disconnected), "it goes on");
        self.child.wait().unwrap().code()
    }

    /// Ends the command, and returns the lines of standard error that [`note`](Self::note) did not.
    pub(crate) fn end(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.notes.iter().collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Replaces ids, times and owners, and runs of spaces, which depend on their lengths.
pub(crate) fn mask(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-:._+".contains(c);
    let mut masked = String::new();
    for line in text.lines() {
        let (mut rest, mut shown) = (line, String::new());
        while !rest.is_empty() {
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            if end > 0 {
                shown.push_str(masked_word(&rest[..end]).unwrap_or(&rest[..end]));
            }
            let next = rest[end..].find(is_part).map_or(rest.len(), |next| end + next);
            shown.push_str(&rest[end..next]);
            rest = &rest[next..];
        }
        while shown.contains("   ") {
            shown = shown.replace("   ", "  ");
        }
        masked.push_str(shown.trim_end());
        masked.push('\n');
    }
    masked
}

fn masked_word(word: &str) -> Option<&'static str> {
    let parts: Vec<_> = word.split(':').collect();
    let is_hex = |text: &str| text.len() >= 6 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match word {
        word if word.len() == 36 && word.split('-').map(str::len).eq([8, 4, 4, 4, 12]) => Some("UUID"),
        word if word.len() >= 20 && word.starts_with("20") && word.ends_with('Z') => Some("TIME"),
        word if word.len() > 12 && word.split('-').count() == 2 && word.split('-').all(is_number) => Some("ENTRY"),
        _ if parts.len() == 3 && is_number(parts[1]) && is_hex(parts[2]) => Some("OWNER"),
        _ => None,
    }
}

/// Asserts that a document is as wanted, and shows both if not.
#[track_caller]
pub(crate) fn assert_json(actual: &Value, wanted: &Value) {
    let text = |value| serde_json::to_string_pretty(value).unwrap();
    assert_eq!(actual, wanted, "\nactual: {}\nwanted: {}", text(actual), text(wanted));
}
