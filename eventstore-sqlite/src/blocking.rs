//! Work that blocks, away from the tasks of the runtime.

use tokio::{runtime::Handle, task::JoinError};

/// Runs `f` on a thread that may block; without a tokio runtime, right here.
///
/// # Errors
/// [`JoinError`] if the runtime shuts down first.
pub(crate) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    match Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(f).await,
        Err(_) => Ok(f()),
    }
}
