//! One warning at the start names the linked handlers and projections that no app runs.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod lines;

use eventbus::{InMemoryEventStore, prelude::*};
use lines::Lines;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Parcel")]
struct Sent {}

#[handler]
async fn announce(_: &Sent) {}

#[handler]
async fn bill(_: &Sent) {}

#[handler(manual)]
async fn by_hand(_: &Sent) {}

#[derive(Debug, Default)]
struct Parcels;

#[projection(name = "parcels")]
impl Parcels {
    fn sent(&mut self, _: &Sent) {}
}

/// The warnings at the start of an app.
async fn warnings(builder: eventbus::app::AppBuilder) -> Vec<String> {
    let lines = Lines::default();
    let guard = lines.capture("warn");
    drop(builder.start().await.unwrap());
    drop(guard);
    lines.text().lines().filter(|line| line.contains("does not run")).map(str::to_owned).collect()
}

fn builder() -> eventbus::app::AppBuilder {
    App::builder().store(InMemoryEventStore::new())
}

#[tokio::test]
async fn linked_handlers_that_nothing_runs_are_named_in_one_warning() {
    let all = warnings(builder()).await;
    let [line] = &all[..] else { panic!("{all:#?}") };
    for named in ["`announce`", "`bill`", "`parcels`", "idle_handlers.rs:"] {
        assert!(line.contains(named), "{named} is not in: {line}");
    }
    assert!(!line.contains("by_hand"), "{line}");

    let some = warnings(builder().handler::<announce>().projection(Parcels)).await;
    let [line] = &some[..] else { panic!("{some:#?}") };
    assert!(line.contains("`bill`") && !line.contains("`announce`") && !line.contains("`parcels`"), "{line}");

    assert_eq!(warnings(builder().discover()).await, Vec::<String>::new());
    assert_eq!(warnings(builder().discover_groups(["projections"])).await, Vec::<String>::new());
}
