use eventbus2::prelude::*;

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

#[handler]
async fn greet(event: &Opened) {
    println!("{}", event.owner);
}

#[derive(Debug, Default)]
struct Owners {
    names: Vec<String>,
}

#[projection(name = "owners")]
impl Owners {
    fn opened(&mut self, event: &Opened) {
        self.names.push(event.owner.clone());
    }
}

fn main() {
    let _ = App::builder().handler::<greet>().projection(Owners::default());
}
