use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Deposited {}

#[derive(Debug, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(events(Deposited), type = "Account", event = AEvent, snapshot)]
struct A {}

impl Apply for A {
    fn apply(&mut self, _event: &AEvent) {}
}

#[derive(Debug, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(events(Deposited), type = "Account", event = BEvent, snapshot(version = 2))]
struct B {}

impl Apply for B {
    fn apply(&mut self, _event: &BEvent) {}
}

#[derive(Debug, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(events(Deposited), type = "Account", event = CEvent, snapshot(every = 0, versoin = 2))]
struct C {}

impl Apply for C {
    fn apply(&mut self, _event: &CEvent) {}
}

#[derive(Debug, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(events(Deposited), type = "Account", event = DEvent, snapshot(every = 100))]
struct D {
    #[serde(default, skip_serializing)]
    cents: u64,
    #[serde(rename = "own", default = "Default::default")]
    owner: String,
}

impl Apply for D {
    fn apply(&mut self, _event: &DEvent) {}
}

fn main() {}
