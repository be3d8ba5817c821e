//! The aggregate: a user, who registers once.
//!
//! Invariant: the id is derived from the email address, so that one address is one stream. Two requests with one
//! address then append the first event of the same stream, and the store accepts one of them: no table of addresses, no
//! second write, no moment in between. In return the address cannot change. A service with changeable addresses
//! reserves each address by a stream of its own, and appends to both streams in one transaction of the store.

use eventbus::prelude::*;
use uuid::Uuid;

/// A user registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = User, type = "user_created")]
pub struct UserCreated {
    pub name: String,
    pub email: String,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(UserCreated))]
pub struct User {
    pub name: String,
    pub email: String,
    is_registered: bool,
}

impl Apply for User {
    fn apply(&mut self, UserEvent::UserCreated(created): &UserEvent) {
        self.name.clone_from(&created.name);
        self.email.clone_from(&created.email);
        self.is_registered = true;
    }
}

/// The email address is registered already.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a user with this email address is registered already")]
pub struct AlreadyRegistered;

impl User {
    /// Decides whether a user can register.
    pub fn register(&self, registration: &UserCreated) -> Result<UserCreated, AlreadyRegistered> {
        if self.is_registered { Err(AlreadyRegistered) } else { Ok(registration.clone()) }
    }
}

/// Returns the id of the user with this email address, in any capitalisation.
///
/// It is a UUID, so that services that know no other ids can read the stream too.
pub fn id_of(email: &str) -> AggregateId {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("mailto:{}", email.to_lowercase()).as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_one_user_however_it_is_written() {
        assert_eq!(id_of("Ada@Example.com"), id_of("ada@example.com"));
        assert_ne!(id_of("ada@example.com"), id_of("grace@example.com"));
        // a stored user is found by this id, so it must never change
        assert_eq!(id_of("ada@example.com").as_str(), "3d21f9ee-d85e-5a10-bda2-dff7da80567a");
    }

    /// After a change of an event, `EVENTBUS_BLESS=1 cargo test -p examples` writes the file.
    #[test]
    fn stored_events_stay_readable() {
        eventbus::lock::check("src/bin/web/events.lock");
    }

    #[test]
    fn nobody_registers_twice() {
        let registration = UserCreated { name: "Ada".into(), email: "ada@example.com".into() };
        let mut user = AggregateRoot::<User>::new(id_of(&registration.email));
        user.record(user.register(&registration).unwrap());
        assert_eq!((user.name.as_str(), user.email.as_str()), ("Ada", "ada@example.com"));
        assert_eq!(user.register(&registration), Err(AlreadyRegistered));
    }
}
