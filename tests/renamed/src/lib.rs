//! Programs of a crate that depends on `eventbus` under a different name: valid ones, and the errors without
//! `crate = ..`, see `tests/`.

use eventbus2::prelude::*;

/// An event of an account.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account, crate = eventbus2)]
pub struct Opened {
    /// The owner.
    pub owner: String,
}

/// An account.
#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Opened), crate = eventbus2)]
pub struct Account {
    /// The owner.
    pub owner: String,
}

impl Apply for Account {
    fn apply(&mut self, AccountEvent::Opened(opened): &AccountEvent) {
        self.owner.clone_from(&opened.owner);
    }
}

/// Greets the owner.
#[handler(manual, crate = eventbus2)]
pub async fn greet(event: &Opened, State(greeted): State<std::sync::Arc<std::sync::Mutex<Vec<String>>>>) {
    greeted.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(event.owner.clone());
}

/// The owners of all accounts.
#[derive(Debug, Default)]
pub struct Owners {
    /// Their names.
    pub names: Vec<String>,
}

#[projection(name = "owners", manual, crate = eventbus2)]
impl Owners {
    fn opened(&mut self, event: &Opened) {
        self.names.push(event.owner.clone());
    }
}
