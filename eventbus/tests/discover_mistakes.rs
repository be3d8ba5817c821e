//! Every mistake that only a whole program can make is reported at once, with both places in the source.

use eventbus::{
    InMemoryEventBus, InMemoryEventStore, app::StartMistake, handler::StateMap, port::FromTransaction, prelude::*,
};

struct OtherStore;

impl FromTransaction<OtherStore> for std::net::TcpStream {
    type Transaction = Self;
    fn from_transaction(transaction: &mut Self) -> &mut Self {
        transaction
    }
}

mod first {
    use super::*;

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate_type = "Account")]
    pub(crate) struct Opened {}

    #[handler]
    pub(crate) async fn on(_event: &Opened) {}
}

mod second {
    use super::*;

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate_type = "Shop")]
    pub(crate) struct Opened {}

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate_type = "Shop")]
    pub(crate) struct Closed {}

    #[handler]
    pub(crate) async fn on(_event: &Opened, State(_missing): State<u8>) {}
}

#[handler]
async fn reserve(_event: &first::Opened, _connection: &mut std::net::TcpStream) {}

#[handler(manual, stream = "orders")]
async fn of_orders(_event: &first::Opened) {}

struct Given(u8);

#[projection(name = "given")]
impl Given {
    fn opened(&mut self, _event: &first::Opened) {
        self.0 += 1;
    }
}

#[derive(Default)]
struct Twin;

#[projection(name = "twin")]
impl Twin {
    fn opened(&self, _event: &first::Opened) {}
}

#[derive(Default)]
struct OtherTwin;

#[projection(name = "twin")]
impl OtherTwin {
    fn opened(&self, _event: &second::Opened) {}
}

#[tokio::test]
async fn every_mistake_is_reported_at_once() {
    let error = App::builder().discover().start().await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("the app cannot start for 6 reasons:\n  - "), "{text}");
    assert_eq!(format!("{error:?}"), text);
    let place = format!("({}:", file!());
    let lines: Vec<_> = text.lines().skip(1).collect();
    for expected in [
        [
            "two events have the wire type `Opened`: discover_mistakes::first::Opened",
            " and discover_mistakes::second::Opened",
        ],
        ["two handlers named `on`: ", "; set `#[handler(name = \"..\")]` on one"],
        ["two projections named `twin`: ", "; set another `name` on one"],
        ["`on` ", "takes `State<u8>`, but the builder has no `.state(..)` of that type"],
        [
            "`reserve` ",
            "takes the connection of another store (`&mut` of a `TcpStream`), but this app's store lends none",
        ],
        ["projection `given` ", "has no `Default`; give the builder one: `.projection(..)`"],
    ] {
        let matching = lines.iter().filter(|line| expected.iter().all(|part| line.contains(part)));
        let matching: Vec<_> = matching.collect();
        assert_eq!(matching.len(), 1, "{expected:?} in\n{text}");
        assert!(matching[0].contains(file!()), "{} names no place", matching[0]);
    }
    assert!(lines.iter().filter(|line| line.contains(&place)).count() >= 4, "{text}");
    let duplicates = |mistake: &&StartMistake| matches!(mistake, StartMistake::DuplicateHandler { first, second, .. } if first.line < second.line);
    assert_eq!(error.mistakes().iter().filter(duplicates).count(), 1, "both places are named, the upper one first");
}

struct Stateful;

#[projection(name = "stateful", manual)]
impl Stateful {
    fn opened(&mut self, _event: &first::Opened, State(_missing): State<u16>) {}

    fn closed(&mut self, _event: &second::Closed, State(_missing): State<u16>) {}
}

#[tokio::test]
async fn mistakes_of_projections_are_found_in_whatever_order_they_are_given() {
    let app = App::builder().projection(Twin).projection(Stateful).projection(OtherTwin);
    let error = app.start().await.unwrap_err();
    assert!(
        matches!(
            error.mistakes(),
            [
                StartMistake::DuplicateEventType { .. },
                StartMistake::DuplicateProjection { name: "twin", first, second },
                StartMistake::MissingState { name: "stateful", state: "u16", .. },
            ] if first.line < second.line
        ),
        "{error}"
    );
}

#[tokio::test]
async fn without_discover_the_events_that_the_app_takes_are_checked() {
    let app = App::builder().handler::<first::on>().projection(Twin).start().await.unwrap();
    app.shutdown(std::time::Duration::from_secs(5)).await.unwrap();
    let error = App::builder().handler::<first::on>().projection(OtherTwin).start().await.unwrap_err();
    assert!(
        matches!(
            error.mistakes(),
            [StartMistake::DuplicateEventType { first, second }]
                if first.rust_type.ends_with("first::Opened") && second.rust_type.ends_with("second::Opened")
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_handler_of_a_stream_that_the_app_does_not_consume_is_a_mistake() {
    let error = App::builder().handler::<of_orders>().start().await.unwrap_err();
    assert!(matches!(error.mistakes(), [StartMistake::UnknownStream { stream: "orders", .. }]), "{error}");
    assert!(error.to_string().contains("`.consume(\"orders\", bus)` (it has: none)"), "{error}");
    let other = App::builder().consume("parcels", InMemoryEventBus::new()).handler::<of_orders>();
    let error = other.start().await.unwrap_err();
    assert!(error.to_string().contains("(it has: parcels)"), "{error}");
}

#[tokio::test]
async fn a_handler_without_a_stream_in_an_app_that_only_consumes_streams_is_a_mistake() {
    let builder = || App::builder().consume("orders", InMemoryEventBus::new()).handler::<first::on>();
    let error = builder().start().await.unwrap_err();
    assert!(matches!(error.mistakes(), [StartMistake::NoStream { name: "on", .. }]), "{error}");
    assert!(error.to_string().contains("with one of them (orders)"), "{error}");
    for app in [builder().bus(InMemoryEventBus::new()), builder().store(InMemoryEventStore::new())] {
        app.start().await.unwrap().shutdown(std::time::Duration::from_secs(5)).await.unwrap();
    }
}

#[tokio::test]
async fn a_bus_that_an_app_neither_publishes_on_nor_consumes_is_a_mistake() {
    let builder = || App::builder().store(InMemoryEventStore::new()).handler::<first::on>().without_relay();
    let bus = InMemoryEventBus::new();
    for without_use in [builder(), builder().consume("orders", bus.clone())] {
        let error = without_use.bus(bus.clone()).start().await.unwrap_err();
        assert!(matches!(error.mistakes(), [StartMistake::BusWithoutUse]), "{error}");
    }
    let app = builder().bus(bus.clone()).consume("orders", bus).handler::<of_orders>().start().await.unwrap();
    app.shutdown(std::time::Duration::from_secs(5)).await.unwrap();
    let app = builder().start().await.unwrap();
    app.shutdown(std::time::Duration::from_secs(5)).await.unwrap();
}

#[test]
fn a_bus_without_an_app_reports_them_too() {
    let error = InMemoryEventBus::new().subscribe_discovered(&StateMap::new()).unwrap_err();
    let is_duplicate = |mistake: &StartMistake| matches!(mistake, StartMistake::DuplicateHandler { name: "on", .. });
    assert_eq!(error.mistakes().len(), 3, "{error}");
    assert_eq!(error.mistakes().iter().filter(|mistake| is_duplicate(mistake)).count(), 1, "{error}");
}
