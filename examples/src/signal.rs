//! Ctrl-C and SIGTERM: finish what is in hand, then end; a second one ends at once.

use std::io;

use eventbus::shutdown_signal;
use tokio::sync::watch;

/// What a shell expects of a program that was interrupted.
pub const INTERRUPTED: u8 = 130;

/// Whether somebody wants us to stop. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// From now on a signal does not end the process by itself.
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

    /// What `work` returns, or nothing if somebody wants us to stop before.
    pub async fn unless<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            () = self.requested() => None,
            done = work => Some(done),
        }
    }

    /// Waits until somebody wants us to stop.
    pub async fn requested(&mut self) {
        if self.0.wait_for(|requested| *requested).await.is_err() {
            std::future::pending::<()>().await; // the runtime ends, and nobody can ask any more
        }
    }
}
