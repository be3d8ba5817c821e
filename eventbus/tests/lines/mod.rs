//! The log lines of one thread.
#![allow(clippy::unwrap_used, reason = "a helper of tests")]

use std::{
    io,
    sync::{Arc, LazyLock, Mutex},
};

use tracing::Dispatch;

/// The lines of a log.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Captures the log of this thread until the result is dropped.
    pub(crate) fn capture(&self, filter: &str) -> tracing::subscriber::DefaultGuard {
        // while there is only one subscriber, threads without one may switch a log line off for it, too
        static ANOTHER: LazyLock<Dispatch> =
            LazyLock::new(|| Dispatch::new(tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).finish()));
        LazyLock::force(&ANOTHER);
        let writer = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}
