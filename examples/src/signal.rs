//! Ctrl-C and SIGTERM: the first one lets the program finish its work in flight, a second one ends it at once.

use std::io;

use eventbus::shutdown_signal;
use tokio::sync::watch;

/// The exit status that a shell expects of an interrupted program.
pub const INTERRUPTED: u8 = 130;

/// A request to stop. Clones share it.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Handles signals from now on; a first signal no longer ends the process.
    pub fn on_signal() -> io::Result<Self> {
        let first = shutdown_signal()?;
        let (stop, requested) = watch::channel(false);
        tokio::spawn(async move {
            first.await;
            let second = shutdown_signal();
            stop.send_replace(true);
            if let Ok(second) = second {
                second.await;
                std::process::exit(i32::from(INTERRUPTED));
            }
        });
        Ok(Self(requested))
    }

    /// Returns the output of `work`, or `None` if the stop is requested first.
    pub async fn unless<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        // a stop cancels the work at its next await point
        tokio::select! {
            () = self.requested() => None,
            done = work => Some(done),
        }
    }

    /// Waits until the stop is requested.
    pub async fn requested(&mut self) {
        if self.0.wait_for(|requested| *requested).await.is_err() {
            std::future::pending::<()>().await; // the sender is gone: no request can follow
        }
    }
}
