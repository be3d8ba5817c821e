//! The aggregate: a user, who registers once.

use eventbus::prelude::*;

/// A user registered. The store gives an address, in any capitalisation, to one user only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, DomainEvent)]
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

#[cfg(test)]
mod tests {
    /// After a change of an event, `EVENTBUS_BLESS=1 cargo test -p examples` writes the file.
    #[test]
    fn stored_events_stay_readable() {
        eventbus::lock::check("src/bin/web/events.lock");
    }
}
