//! A crate with strict lints.
#![deny(warnings, missing_docs, missing_debug_implementations, unreachable_pub)]
#![deny(unused_qualifications, unused_results, single_use_lifetimes, trivial_casts, let_underscore_drop)]
#![forbid(unsafe_code)]

use eventbus::prelude::*;

/// An account was opened.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
pub struct Opened {}

/// An account was closed.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
#[deprecated = "accounts stay open now"]
pub struct Closed {
    /// The reason.
    pub reason: String,
}

/// An account.
#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Opened, Closed))]
pub struct Account {
    is_open: bool,
}

impl Apply for Account {
    fn apply(&mut self, event: &AccountEvent) {
        self.is_open = matches!(event, AccountEvent::Opened(_));
    }
}

/// The audited events.
#[derive(Debug, DomainEvent)]
pub enum Audited {
    /// An account was opened.
    Opened(Opened),
}

/// Audits.
#[handler(group = "audit")]
pub async fn audit(_event: Audited, State(_log): State<String>) {}

/// Counts accounts.
#[derive(Debug, Default)]
pub struct Statistics {
    open: u64,
}

#[projection(name = "statistics")]
impl Statistics {
    fn opened(&mut self, _event: &Opened) {
        self.open += 1;
    }

    #[cfg(any())]
    fn closed(&mut self, _event: &Closed) {
        self.open -= 1;
    }
}
