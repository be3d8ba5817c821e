use eventbus::prelude::*;

#[derive(Debug, Clone)]
struct NoEvent {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(NoEvent))]
struct Account {}

impl Apply for Account {
    fn apply(&mut self, _event: &AccountEvent) {}
}

fn main() {}
