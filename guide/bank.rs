//! The accounts of a bank: the events and the aggregate that the first chapter writes, for blocks of later ones.

use eventbus::prelude::*;

/// An account was opened.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
pub struct Opened {
    /// The name of its owner.
    pub owner: String,
}

/// Money was paid in.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
pub struct Deposited {
    /// The amount.
    pub cents: i64,
}

/// Money was paid out.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
pub struct Withdrawn {
    /// The amount.
    pub cents: i64,
}

/// An account.
#[derive(Debug, Default, Serialize, Aggregate)]
#[aggregate(events(Opened, Deposited, Withdrawn))]
pub struct Account {
    /// Set once it was opened.
    pub is_open: bool,
    /// Its balance in cents.
    pub balance: i64,
}

impl Apply for Account {
    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Opened(_) => self.is_open = true,
            AccountEvent::Deposited(deposited) => self.balance += deposited.cents,
            AccountEvent::Withdrawn(withdrawn) => self.balance -= withdrawn.cents,
        }
    }
}

impl Account {
    /// Decides to open the account.
    ///
    /// # Errors
    /// A refusal if it is open.
    pub fn open(&self, owner: String) -> Result<Opened, &'static str> {
        if self.is_open { Err("the account is open already") } else { Ok(Opened { owner }) }
    }

    /// Decides to pay money in.
    ///
    /// # Errors
    /// A refusal if the account is not open.
    pub fn deposit(&self, cents: i64) -> Result<Deposited, &'static str> {
        if self.is_open { Ok(Deposited { cents }) } else { Err("the account is not open") }
    }

    /// Decides to pay money out.
    ///
    /// # Errors
    /// A refusal if the balance is too low.
    pub fn withdraw(&self, cents: i64) -> Result<Withdrawn, &'static str> {
        if cents > self.balance { Err("not enough money") } else { Ok(Withdrawn { cents }) }
    }
}
