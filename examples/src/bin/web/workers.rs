//! The workers, which start and stop with the application.
//!
//! Each is a consumer of the group with a bus of its own. The first one's app is also what requests are answered with: it
//! relays what is saved, and counts.

use std::{sync::Arc, time::Duration};

use eventbus::{App, AppBuilder, Result};
use futures_util::future::join_all;

use crate::{
    analytics::Analytics,
    backend::{Backends, Store},
    mail,
};

/// The name of a worker, for those who like to watch.
#[derive(Debug, Clone)]
pub struct Worker(Arc<str>);

impl Worker {
    pub fn says_mail_for(&self, recipient: &str) {
        println!("{}: a mail for {recipient}", self.0);
    }
}

/// All of them, running.
pub struct Workers {
    first: App,
    others: Vec<App>,
}

impl Workers {
    /// Starts them; `wait` is how long a request waits for a projection to include what was written.
    pub async fn start(backends: &Backends, wait: Duration) -> Result<Self> {
        let store = backends.open_store().await?;
        let first = worker(backends, &store, 0).await?;
        let first = first.projection_with(Analytics::default).wait_timeout(wait).start().await?;
        let mut others = Vec::new();
        for number in 1..backends.consumers() {
            others.push(worker(backends, &store, number).await?.without_relay().start().await?);
        }
        Ok(Self { first, others })
    }

    /// What requests are answered with.
    pub fn app(&self) -> &App {
        &self.first
    }

    pub fn apps(&self) -> impl Iterator<Item = &App> {
        [&self.first].into_iter().chain(&self.others)
    }

    /// Stops all of them; what they have in hand gets until `timeout`.
    pub async fn shutdown(&self, timeout: Duration) -> Result<()> {
        let ended = join_all(self.apps().map(|app| app.shutdown(timeout))).await;
        Ok(ended.into_iter().collect::<Result<(), _>>()?)
    }
}

async fn worker(backends: &Backends, store: &Store, number: usize) -> Result<AppBuilder> {
    let worker = Worker(backends.worker(number).into());
    let app = App::builder().store(Arc::clone(&store.events)).bus(backends.open_bus(number).await?).state(worker);
    Ok(mail::welcoming(app, store.kind))
}
