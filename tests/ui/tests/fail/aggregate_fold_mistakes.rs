use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Deposited {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Deposited))]
struct Account {}

impl Apply for Account {
    fn apply(&mut self, _event: &AccountEvent) {}
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(fold_of = Account, type = "Account", typed_id, events(Deposited))]
struct Summary {}

impl Apply for Summary {
    fn apply(&mut self, _event: &SummaryEvent) {}
}

#[derive(Debug)]
struct Statement {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(fold_of = Statement, events(Deposited))]
struct Lines {}

impl Apply for Lines {
    fn apply(&mut self, _event: &LinesEvent) {}
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(fold_of = Itself, events(Deposited))]
struct Itself {}

impl Apply for Itself {
    fn apply(&mut self, _event: &ItselfEvent) {}
}

fn main() {}
