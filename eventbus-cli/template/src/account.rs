//! The aggregate: an account, which refuses to be overdrawn.

use axum::http::StatusCode;
use eventbus::{axum::Problem, prelude::*};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
pub struct Deposited {
    pub cents: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
pub struct Withdrawn {
    pub cents: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Deposited, Withdrawn))]
pub struct Account {
    pub balance: u64,
}

impl Apply for Account {
    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Deposited(deposited) => self.balance += deposited.cents,
            AccountEvent::Withdrawn(withdrawn) => self.balance -= withdrawn.cents,
        }
    }
}

/// Why a decision is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the amount is zero")]
    Nothing,
    #[error("the account has only {balance} cents")]
    Overdrawn { balance: u64 },
    #[error("the balance is too large to count")]
    TooMuch,
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, refused.to_string())
    }
}

/// Decisions: each reads the state, and returns the event that happened or the reason why none did.
impl Account {
    pub fn deposit(&self, cents: u64) -> Result<Deposited, Refused> {
        match (cents, self.balance.checked_add(cents)) {
            (0, _) => Err(Refused::Nothing),
            (_, None) => Err(Refused::TooMuch),
            (cents, Some(_)) => Ok(Deposited { cents }),
        }
    }

    pub fn withdraw(&self, cents: u64) -> Result<Withdrawn, Refused> {
        match cents {
            0 => Err(Refused::Nothing),
            cents if cents > self.balance => Err(Refused::Overdrawn { balance: self.balance }),
            cents => Ok(Withdrawn { cents }),
        }
    }
}

#[cfg(test)]
mod tests {
    use eventbus::testkit::given;

    use super::*;

    #[test]
    fn an_account_is_not_overdrawn() {
        given::<Account>([Deposited { cents: 120 }])
            .when(|account| account.withdraw(100))
            .then([Withdrawn { cents: 100 }])
            .when(|account| account.withdraw(21))
            .then_error(|refused| *refused == Refused::Overdrawn { balance: 20 });
    }

    /// After a change of an event, `EVENTBUS_BLESS=1 cargo test` writes the file, which you commit.
    #[test]
    fn stored_events_stay_readable() {
        eventbus::lock::check("events.lock");
    }
}
