use eventbus::{handler::EffectKey, prelude::*};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Deposited {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Withdrawn {}

struct PgConnection;

#[handler]
async fn handled_at_once(_events: &[Envelope<Deposited>]) {}

#[derive(Debug, Default)]
struct InMemory {}

#[projection(name = "in-memory")]
impl InMemory {
    fn deposited(&mut self, _events: &[Envelope<Deposited>]) {}
}

#[derive(Debug, Default)]
struct Elsewhere {}

#[projection(name = "elsewhere")]
impl Elsewhere {
    async fn deposited(&self, _events: &[Deposited]) {}
}

#[derive(Debug, Default)]
struct Rows {}

#[projection(name = "rows")]
impl Rows {
    async fn deposited(&self, _events: &[Envelope<Deposited>], _meta: &Metadata, _conn: &mut PgConnection) {}
    async fn withdrawn(&self, _events: &[Withdrawn], _meta: &Metadata, _key: EffectKey, _conn: &mut PgConnection) {}
}

#[derive(Debug, Default)]
struct Records {}

#[projection(name = "records")]
impl Records {
    async fn all(&self, _events: &[Envelope<Deposited>], _record: &RecordedEvent, _conn: &mut PgConnection) {}
    async fn changed(&self, _events: &mut [Withdrawn], _conn: &mut PgConnection) {}
}

fn main() {}
