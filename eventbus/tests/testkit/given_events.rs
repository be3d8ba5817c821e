//! Projections and handlers: given events, then state or effects.

use std::sync::{Arc, Mutex};

use eventbus::{
    HandlerError,
    prelude::*,
    testkit::{Tables, given_events},
};

use crate::{
    failure::{async_failure_of, failure_of},
    orders::{OrderClosed, OrderCreated, ParcelShipped, created, shipped},
};

#[derive(Debug, Default)]
struct Parcels {
    by_order: Vec<String>,
    factor: u64,
}

#[derive(Debug, Clone)]
struct Factor(u64);

#[projection(name = "parcels", manual)]
impl Parcels {
    fn shipped(&mut self, event: &ParcelShipped, meta: &Metadata, State(factor): State<Factor>) {
        self.factor += factor.0;
        self.by_order.push(format!("{} {}", meta.aggregate_id(), event.tracking_number));
    }

    fn closed(&mut self, _event: &OrderClosed) -> Result<(), &'static str> {
        Err("closed orders are not counted")
    }
}

#[derive(Debug)]
struct Shelf;

#[projection(name = "shelf", manual)]
impl Shelf {
    fn shipped(&self, event: &ParcelShipped, tables: &mut Tables) {
        tables.row("parcels", &event.tracking_number);
    }
}

#[derive(Debug, Clone, Default)]
struct Mails(Arc<Mutex<Vec<String>>>);

#[handler(manual)]
async fn announce(event: &ParcelShipped, State(mails): State<Mails>, attempt: Attempt) -> Result<(), HandlerError> {
    if event.carrier == "none" {
        return Err(HandlerError::permanent("no carrier"));
    }
    mails.0.lock().unwrap().push(format!("{} {attempt}", event.tracking_number));
    Ok(())
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Member)]
struct Joined {
    name: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Member)]
struct Thanked {
    name: String,
    order: String,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Joined, Thanked))]
struct Member {
    name: String,
}

impl Apply for Member {
    fn apply(&mut self, event: &MemberEvent) {
        if let MemberEvent::Joined(joined) = event {
            self.name.clone_from(&joined.name);
        }
    }
}

#[handler(manual)]
async fn thank(event: &OrderCreated, meta: &Metadata, members: Repository<Member>) -> eventbus::Result<()> {
    let order = meta.aggregate_id().to_string();
    let thank = |member: &Member| Ok::<_, &str>(Thanked { name: member.name.clone(), order: order.clone() });
    members.update(&event.customer.parse()?, thank).await?;
    Ok(())
}

#[tokio::test]
async fn a_projection_gets_the_events_of_several_aggregates_in_order() {
    let parcels = given_events("o-1", (created(), [shipped("T-1"), shipped("T-2")]))
        .and("o-2", shipped("T-3"))
        .state(Factor(7))
        .project(Parcels::default())
        .await;
    assert_eq!(parcels.by_order, ["o-1 T-1", "o-1 T-2", "o-2 T-3"]);
    assert_eq!(parcels.factor, 21);
}

#[tokio::test]
async fn a_projection_that_fails_fails_the_test_with_the_event() {
    let text = async_failure_of(given_events("o-1", OrderClosed {}).project(Parcels::default())).await;
    let (place, text) = text.split_once(": ").unwrap();
    assert_eq!(text, "`parcels` failed at OrderClosed of Order/o-1: closed orders are not counted");
    assert!(place.contains("given_events.rs:"), "{place}");
    let text = async_failure_of(given_events("o-1", shipped("T-1")).project(Parcels::default())).await;
    assert!(text.contains("the application provides no `testkit::given_events::Factor`"), "{text}");
    let text = async_failure_of(given_events("o-1", shipped("T-1")).project(Shelf)).await;
    let (_, text) = text.split_once(": ").unwrap();
    assert_eq!(text, "`shelf` writes rows in a transaction of a store: start a `TestApp` on that store");
}

#[tokio::test]
async fn a_handler_is_called_with_each_event_that_it_takes() {
    let mails = Mails::default();
    let given = given_events("o-1", (created(), shipped("T-1"), OrderClosed {})).and("o-2", shipped("T-2"));
    given.state(mails.clone()).handle::<announce>().await.then_ok();
    assert_eq!(*mails.0.lock().unwrap(), ["T-1 1", "T-2 1"]);
}

fn without_carrier() -> ParcelShipped {
    ParcelShipped { carrier: "none".into(), ..shipped("T-9") }
}

#[tokio::test]
async fn the_error_of_a_handler_is_expected_or_fails_the_test() {
    let handled = async || given_events("o-1", without_carrier()).state(Mails::default()).handle::<announce>().await;
    handled().await.then_error(HandlerError::is_permanent);
    let failed = handled().await;
    let text = failure_of(|| failed.then_ok());
    assert_eq!(text, "`announce` failed at ParcelShipped of Order/o-1: no carrier");
    let failed = handled().await;
    let text = failure_of(|| failed.then_error(|error| !error.is_permanent()));
    assert_eq!(text, "`announce` failed at ParcelShipped of Order/o-1 with another error than expected: no carrier");
    let succeeded = given_events("o-1", shipped("T-1")).state(Mails::default()).handle::<announce>().await;
    assert_eq!(failure_of(|| succeeded.then_error(|_| true)), "`announce` succeeded, expected an error");
}

#[tokio::test]
async fn a_handler_that_would_not_run_fails_the_test() {
    let text = async_failure_of(given_events("o-1", OrderClosed {}).state(Mails::default()).handle::<announce>()).await;
    assert!(text.ends_with(": `announce` takes none of the given events, it takes: ParcelShipped"), "{text}");
    let text = async_failure_of(given_events("o-1", shipped("T-1")).handle::<announce>()).await;
    assert!(text.contains("given_events.rs:") && text.contains("`announce`") && text.contains("Mails"), "{text}");
}

#[tokio::test]
async fn what_a_handler_saves_is_compared() {
    let given = given_events("ada", Joined { name: "Ada".into() }).and("o-1", created());
    let thanked = |name: &str| Thanked { name: name.into(), order: "o-1".into() };
    given.clone().handle::<thank>().await.then_saved("ada", [thanked("Ada")]);
    let handled = given.clone().handle::<thank>().await;
    assert_eq!(handled.saved()[0].decode::<Thanked>().unwrap().order, "o-1");
    let text = failure_of(|| handled.then_saved("ada", [thanked("Bob")]));
    assert_eq!(
        text,
        r#"`thank` saved other events than expected (- expected, + saved, > first difference):
    Thanked of ada
> -   name: "Bob"
  +   name: "Ada"
      order: "o-1""#
    );
    let handled = given.handle::<thank>().await;
    let text = failure_of(|| handled.then_saved("bob", ()));
    assert!(text.ends_with("> + Thanked of ada\n  +   name: \"Ada\"\n  +   order: \"o-1\""), "{text}");
    let unknown = given_events("o-1", created()).handle::<thank>().await;
    let text = failure_of(|| unknown.then_saved("ada", ()));
    assert!(text.starts_with("`thank` failed at OrderCreated of Order/o-1: "), "{text}");
}
