use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

#[derive(Clone)]
struct Mailer;

#[handler]
async fn by_value(_event: &Opened, _mailer: Mailer) {}

#[handler]
async fn by_reference(_event: &Opened, _mailer: &Mailer) {}

#[handler]
async fn by_mutable_reference(_event: &Opened, _mailer: &mut Mailer) {}

#[handler]
async fn several(_event: &Opened, _a: Mailer, _meta: Metadata, _b: &State<Mailer>) {}

fn main() {}
