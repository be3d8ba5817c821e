//! A session: the connections and the printer of one run of a command.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::Arc,
};

use eventbus::{app::AppBuilder, clock::SharedClock, store::EventStore};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{OnceCell, oneshot};

use crate::{
    app_source::{AppSource, MadeApp},
    connection::{ConnectionSettings, OpenBus, OpenStore},
    error::{CommandError, ExitStatus},
    output::{Printer, Progress},
};

/// The state of one run of a command: connections, which are opened when first needed, the printer, and whether it may
/// change data.
#[derive(Debug)]
pub(crate) struct Session {
    settings: ConnectionSettings,
    printer: Printer,
    clock: SharedClock,
    is_confirmed: bool,
    is_dry_run: bool,
    app: Option<AppSource>,
    store: OnceCell<OpenStore>,
    bus: OnceCell<OpenBus>,
}

/// The decision about a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consent {
    /// Make the change.
    Given,
    /// Only report what would be changed.
    DryRun,
}

impl Session {
    pub(crate) fn new(
        settings: ConnectionSettings,
        clock: SharedClock,
        (is_json, is_confirmed, is_dry_run): (bool, bool, bool),
        app: Option<AppSource>,
    ) -> Self {
        let printer = Printer::new(is_json, clock.now());
        let (store, bus) = Default::default();
        Self { settings, printer, clock, is_confirmed, is_dry_run, app, store, bus }
    }

    pub(crate) const fn settings(&self) -> &ConnectionSettings {
        &self.settings
    }

    pub(crate) const fn clock(&self) -> &SharedClock {
        &self.clock
    }

    pub(crate) const fn printer(&self) -> Printer {
        self.printer
    }

    /// Returns a printer whose documents have the present time.
    pub(crate) fn printer_now(&self) -> Printer {
        Printer::new(self.printer.is_json(), self.clock.now())
    }

    /// Returns `true` if the command only reports what it would change.
    pub(crate) const fn is_dry_run(&self) -> bool {
        self.is_dry_run
    }

    /// Returns `true` if the command runs in the binary of an application, which knows its event types.
    pub(crate) const fn is_in_app(&self) -> bool {
        self.app.is_some()
    }

    /// Returns the application if it stands for what the settings do not name; `None` outside of its binary.
    async fn app_instead_of(&self, named: Option<&String>) -> Result<Option<&MadeApp>, CommandError> {
        match &self.app {
            Some(app) if named.is_none() => app.made().await.map(Some),
            _ => Ok(None),
        }
    }

    /// Takes the application, to use its handlers or projections, regardless of the store in the settings.
    ///
    /// # Errors
    /// [`CommandError::Fault`] if it cannot be made, or the command is not in its binary.
    pub(crate) async fn take_app(&self) -> Result<AppBuilder, CommandError> {
        let none = || CommandError::fault("there is no application in this program");
        let made = self.app.as_ref().ok_or_else(none)?.made().await?;
        made.builder.lock().take().ok_or_else(none)
    }

    /// Returns the store of the application, unless the settings name one.
    async fn app_store(&self) -> Result<Option<Arc<dyn EventStore>>, CommandError> {
        let app = self.app_instead_of(self.settings.store.as_ref()).await?;
        Ok(app.and_then(|app| app.store.clone()))
    }

    /// Opens the store.
    pub(crate) async fn store(&self) -> Result<Arc<dyn EventStore>, CommandError> {
        if let Some(store) = self.app_store().await? {
            return Ok(store);
        }
        let open = || Progress::while_connecting(OpenStore::open(&self.settings));
        Ok(self.store.get_or_try_init(open).await?.shared())
    }

    /// Opens the store, if the settings name one, or the application has one.
    pub(crate) async fn optional_store(&self) -> Result<Option<Arc<dyn EventStore>>, CommandError> {
        match self.settings.store {
            Some(_) => self.store().await.map(Some),
            None => self.app_store().await,
        }
    }

    /// Opens the bus; without one, the handlers of the store.
    pub(crate) async fn bus(&self) -> Result<&OpenBus, CommandError> {
        let open = async {
            let app = self.app_instead_of(self.settings.bus.as_ref()).await?;
            // a bus on Redis is shown while the store is away
            let store = match self.settings.bus {
                Some(_) => self.optional_store().await.ok().flatten(),
                None => self.optional_store().await?,
            };
            let open = async {
                match app.and_then(|app| app.bus.as_ref()) {
                    Some(bus) => OpenBus::attach(bus, store.as_ref()).await,
                    None => OpenBus::open(&self.settings, store.as_ref()).await,
                }
            };
            Progress::while_connecting(open).await
        };
        self.bus.get_or_try_init(|| open).await
    }

    /// Shows a document, and ends the command.
    pub(crate) fn show<T: Serialize>(
        &self,
        body: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<ExitStatus, CommandError> {
        self.printer.show(body, text)?;
        Ok(ExitStatus::Done)
    }

    /// Says what the command has not found or done, and ends it.
    pub(crate) fn finding(&self, text: &str) -> Result<ExitStatus, CommandError> {
        self.printer.note(text);
        Ok(ExitStatus::Finding)
    }

    /// Closes the connections that were opened.
    pub(crate) async fn close(self) {
        drop(self.bus);
        if let Some(store) = self.store.into_inner() {
            store.close().await;
        }
    }

    /// Reports what a dry run would do; with `--json`, also as a document.
    ///
    /// # Errors
    /// [`CommandError::Output`] if standard output cannot be written.
    pub(crate) fn show_dry_run(&self, would: &str) -> Result<(), CommandError> {
        self.note_dry_run(would);
        self.printer.show(&json!({ "dry_run": true, "would": would }), |_| String::new())
    }

    fn note_dry_run(&self, would: &str) {
        self.printer.note(&format!("dry run: {would}; nothing is changed"));
    }

    /// Asks whether to make the change that `question` describes, and returns `true` if the answer is yes. A dry run
    /// [reports](Self::show_dry_run) what it would do.
    ///
    /// # Errors
    /// As for [`confirm`](Self::confirm).
    pub(crate) async fn may_change(&self, question: &str) -> Result<bool, CommandError> {
        if self.is_dry_run {
            self.show_dry_run(question)?;
            return Ok(false);
        }
        self.confirm(question).await.map(|consent| consent == Consent::Given)
    }

    /// Asks whether to make the change that `question` describes, unless `--yes` or `--dry-run` answers.
    ///
    /// # Errors
    /// [`CommandError::NotConfirmed`] if the answer is no, or there is no terminal for the question.
    pub(crate) async fn confirm(&self, question: &str) -> Result<Consent, CommandError> {
        if self.is_dry_run {
            self.note_dry_run(question);
            return Ok(Consent::DryRun);
        }
        if self.is_confirmed {
            return Ok(Consent::Given);
        }
        if !io::stdin().is_terminal() {
            self.printer.note(&format!("{question}?"));
            return Err(CommandError::NotConfirmed);
        }
        write!(io::stderr(), "{question}? [y/N] ")?;
        // on its own thread, for which no runtime waits: so Ctrl-C can end the command
        let (answered, answer) = oneshot::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            // a command that has ended takes no answer
            let _ = answered.send(io::stdin().read_line(&mut line).map(|_| line));
        });
        let answer = answer.await.map_err(io::Error::other)??;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(Consent::Given),
            _ => Err(CommandError::NotConfirmed),
        }
    }
}
