//! Ctrl-C and SIGTERM: finish what is in hand, then end; a second one ends at once.

use std::io;

use tokio::sync::watch;

/// What a shell expects of a program that was interrupted.
pub const INTERRUPTED: u8 = 130;

/// Whether somebody wants us to stop. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// From now on a signal does not end the process by itself.
    pub fn on_signal() -> io::Result<Self> {
        let mut signals = Signals::listen()?;
        let (stop, requested) = watch::channel(false);
        tokio::spawn(async move {
            loop {
                signals.received().await;
                if stop.send_replace(true) {
                    std::process::exit(i32::from(INTERRUPTED));
                }
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

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    fn listen() -> io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    async fn received(&mut self) {
        self.0.recv().await;
    }
}
