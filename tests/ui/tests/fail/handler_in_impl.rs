use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

struct Mailer;

impl Mailer {
    #[handler]
    async fn on_opened(_event: &Opened) {}
}

fn main() {}
