//! The log of this test binary.

use std::{
    io,
    sync::{Mutex, Once},
};

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Lines;

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins to record the log of this test binary.
pub(crate) fn keep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing_subscriber::fmt().with_ansi(false).with_writer(|| Lines).init());
}

/// The lines of the log that hold all of the texts.
pub(crate) fn lines(texts: &[&str]) -> Vec<String> {
    let log = String::from_utf8(LINES.lock().unwrap().clone()).unwrap();
    log.lines().filter(|line| texts.iter().all(|text| line.contains(text))).map(Into::into).collect()
}
