//! Ctrl-C and SIGTERM: stop between two windows; a second one ends at once.

use tokio::sync::watch;

/// What a shell expects of a program that was interrupted.
pub const INTERRUPTED: u8 = 130;

/// Whether somebody wants us to stop.
#[derive(Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    pub fn on_signal() -> Self {
        let (stop, requested) = watch::channel(false);
        tokio::spawn(async move {
            while received().await.is_ok() {
                if stop.send_replace(true) {
                    std::process::exit(i32::from(INTERRUPTED));
                }
            }
            // without signals nobody can ask; keep the sender, so that nobody seems to
            std::future::pending::<()>().await;
        });
        Self(requested)
    }

    /// What `work` returns, or nothing if somebody wants us to stop before.
    pub async fn unless<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            () = self.requested() => None,
            done = work => Some(done),
        }
    }

    pub async fn requested(&mut self) {
        if self.0.wait_for(|requested| *requested).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(unix)]
async fn received() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn received() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}
