//! The aggregate: a user, who registers once.

use eventbus::{Never, prelude::*};

/// The command of a client: make me a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Register {
    pub name: String,
    pub email: String,
}

/// A user registered. The store gives an address, in any capitalisation, to one user only.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = User, type = "user_created", unique(email, normalize = str::to_lowercase))]
pub struct UserCreated {
    pub name: String,
    pub email: String,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(UserCreated))]
pub struct User {
    pub name: String,
    pub email: String,
}

impl Apply for User {
    fn apply(&mut self, UserEvent::UserCreated(created): &UserEvent) {
        self.name.clone_from(&created.name);
        self.email.clone_from(&created.email);
    }
}

impl User {
    /// Never refuses: that no other user has the address is for the store to tell.
    pub fn register(&self, Register { name, email }: Register) -> Result<UserCreated, Never> {
        Ok(UserCreated { name, email })
    }
}

#[cfg(test)]
mod tests {
    /// After a change of an event, `EVENTBUS_BLESS=1 cargo test -p examples` writes the file.
    #[test]
    fn stored_events_stay_readable() {
        eventbus::lock::check("src/bin/web/events.lock");
    }
}
