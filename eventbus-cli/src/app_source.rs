//! The application in whose binary a command runs.

use std::{future::Future, pin::Pin, sync::Arc};

use eventbus::{BoxError, Error, app::AppBuilder, bus::EventBus, store::EventStore};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::{error::CommandError, output::Progress};

/// Makes the application.
type MakeApp = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = Result<AppBuilder, BoxError>> + Send>> + Send>;

/// The application in whose binary the command runs; it is made when a command first needs it.
#[derive(derive_more::Debug)]
#[debug("AppSource")]
pub(crate) struct AppSource {
    /// Taken by the first command that needs the application.
    make: Mutex<Option<MakeApp>>,
    made: OnceCell<MadeApp>,
}

/// An application that was made, and is not started.
pub(crate) struct MadeApp {
    pub(crate) store: Option<Arc<dyn EventStore>>,
    pub(crate) bus: Option<Arc<dyn EventBus>>,
    /// Taken by a command that consumes it.
    pub(crate) builder: Mutex<Option<AppBuilder>>,
}

impl AppSource {
    pub(crate) fn new<F, R, E>(make: F) -> Self
    where
        F: FnOnce() -> R + Send + 'static,
        R: Future<Output = Result<AppBuilder, E>> + Send + 'static,
        E: Into<Error>,
    {
        let make: MakeApp = Box::new(move || {
            let made = make();
            Box::pin(async { made.await.map_err(|error| error.into().into_inner()) })
        });
        Self { make: Mutex::new(Some(make)), made: OnceCell::new() }
    }

    /// Makes the application, at the first call.
    pub(crate) async fn made(&self) -> Result<&MadeApp, CommandError> {
        let make = async {
            let make = self.make.lock().take();
            let make = make.ok_or_else(|| CommandError::fault("the application could not be made"))?;
            let builder = make().await.map_err(CommandError::of_app)?;
            let (store, bus) = (builder.given_store().cloned(), builder.given_bus().cloned());
            Ok(MadeApp { store, bus, builder: Mutex::new(Some(builder)) })
        };
        self.made.get_or_try_init(|| Progress::while_connecting(make)).await
    }
}
