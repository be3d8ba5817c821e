//! The signals that stop a program.

use std::io;

#[cfg(not(unix))]
pub(super) use self::elsewhere::Signals;
#[cfg(unix)]
pub(super) use self::unix::Signals;

/// Waits for SIGTERM or SIGINT (Ctrl-C), which from this call on no longer end the process by themselves.
///
/// That stays so after the wait: if a second signal is to end the process at once, call it again and exit.
/// [`App::run_until_signal`](crate::App::run_until_signal) waits by itself; this function is for programs that have
/// more to stop, such as a web service (feature `axum`).
///
/// # Errors
/// If the process cannot listen for signals.
///
/// # Panics
/// Outside of a Tokio runtime with I/O enabled, such as that of `#[tokio::main]`.
///
/// # Examples
/// ```no_run
/// # use std::time::Duration;
/// # async fn work() {}
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> eventbus::Result<()> {
/// let app = eventbus::App::builder().discover().start().await?;
/// let stop = eventbus::shutdown_signal()?;
/// tokio::select! {
///     () = stop => {}
///     () = work() => {}
/// }
/// Ok(app.shutdown(Duration::from_secs(30)).await?)
/// # }
/// ```
pub fn shutdown_signal() -> io::Result<impl Future<Output = ()> + Send> {
    let signals = Signals::listen()?;
    Ok(async {
        let signal = signals.received().await;
        tracing::info!(signal, "stopping");
    })
}

#[cfg(unix)]
mod unix {
    use std::io;

    use tokio::signal::unix::{Signal, SignalKind, signal};

    pub(in crate::runtime::app) struct Signals {
        terminate: Signal,
        interrupt: Signal,
    }

    impl Signals {
        pub(in crate::runtime::app) fn listen() -> io::Result<Self> {
            Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
        }

        /// Waits for one of them and returns its name.
        pub(in crate::runtime::app) async fn received(mut self) -> &'static str {
            tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
            }
        }
    }
}

#[cfg(not(unix))]
mod elsewhere {
    use std::io;

    use tokio::signal::windows::{CtrlC, ctrl_c};

    pub(in crate::runtime::app) struct Signals(CtrlC);

    impl Signals {
        pub(in crate::runtime::app) fn listen() -> io::Result<Self> {
            ctrl_c().map(Self)
        }

        pub(in crate::runtime::app) async fn received(mut self) -> &'static str {
            self.0.recv().await;
            "Ctrl-C"
        }
    }
}
