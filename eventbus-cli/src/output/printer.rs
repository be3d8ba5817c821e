//! The printer: writes the output of a command, as JSON or as text.

use std::io::{self, Write as _};

use serde::Serialize;
use time::OffsetDateTime;

use super::{Table, document::Document, printable};
use crate::error::CommandError;

/// Writes the output of a command to standard output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    is_json: bool,
    /// The time at which the command began to read.
    as_of: OffsetDateTime,
}

impl Printer {
    pub(crate) const fn new(is_json: bool, as_of: OffsetDateTime) -> Self {
        Self { is_json, as_of }
    }

    /// Returns `true` if the command shows JSON.
    pub(crate) const fn is_json(self) -> bool {
        self.is_json
    }

    /// The time at which the command began to read.
    pub(crate) const fn as_of(self) -> OffsetDateTime {
        self.as_of
    }

    /// Shows a document: as one line of JSON, or as the text that `text` makes of it.
    pub(crate) fn show<T: Serialize>(self, body: &T, text: impl FnOnce(&T) -> String) -> Result<(), CommandError> {
        let mut out = io::stdout().lock();
        if self.is_json {
            serde_json::to_writer(&mut out, &Document::new(self.as_of, body)).map_err(io::Error::from)?;
            out.write_all(b"\n")?;
        } else {
            out.write_all(text(body).as_bytes())?;
        }
        Ok(out.flush()?)
    }

    /// Shows a document with its own text, and with its own version and time in JSON.
    pub(crate) fn show_whole<T: Serialize + std::fmt::Display>(self, document: &T) -> Result<(), CommandError> {
        let mut out = io::stdout().lock();
        if self.is_json {
            serde_json::to_writer(&mut out, document).map_err(io::Error::from)?;
            out.write_all(b"\n")?;
        } else {
            write!(out, "{document}")?;
        }
        Ok(out.flush()?)
    }

    /// Shows a document in a foreign format, without our version and time.
    pub(crate) fn show_value(self, document: &serde_json::Value) -> Result<(), CommandError> {
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, document).map_err(io::Error::from)?;
        out.write_all(b"\n")?;
        Ok(out.flush()?)
    }

    /// Shows a document whose text is a table.
    pub(crate) fn show_table<T: Serialize>(
        self,
        body: &T,
        table: impl FnOnce(&T) -> Table,
    ) -> Result<(), CommandError> {
        self.show(body, |body| table(body).to_text())
    }

    /// Writes a line about the work to standard error.
    pub(crate) fn note(self, line: &str) {
        // a note that cannot be written is lost, and the work goes on
        let _ = writeln!(io::stderr(), "{}", printable(line));
    }
}
