// An aggregate for programs whose mistake lies elsewhere.

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Opened {
    owner: String,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Opened))]
struct Account {
    owner: String,
}

impl Apply for Account {
    fn apply(&mut self, AccountEvent::Opened(opened): &AccountEvent) {
        self.owner.clone_from(&opened.owner);
    }
}
