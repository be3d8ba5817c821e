use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

struct PgConnection;

struct SqliteTransaction;

#[handler]
async fn with_metadata(_event: &Opened, _meta: Metadata) {}

#[handler]
async fn with_record(_event: &Opened, _record: RecordedEvent) {}

#[handler]
async fn with_connection(_event: &Opened, _connection: PgConnection) {}

#[handler]
async fn with_shared_connection(_event: &Opened, _connection: &PgConnection) {}

#[handler]
async fn with_transaction(_event: &Opened, _transaction: &SqliteTransaction) {}

#[handler]
async fn with_state(_event: &Opened, _state: &State<String>) {}

#[handler]
async fn with_attempt(_event: &Opened, _attempt: &Attempt) {}

#[handler]
async fn with_mutable_metadata(_event: &Opened, _meta: &mut Metadata) {}

fn main() {}
