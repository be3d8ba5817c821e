//! Linked handlers and projections that nothing runs are named in one warning at start.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use eventbus::{InMemoryEventStore, prelude::*};

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

/// What is logged while it is the default of this thread.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The warnings at the start of an app.
    async fn of(builder: eventbus::AppBuilder) -> Vec<String> {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .with_max_level(tracing::Level::WARN)
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        drop(builder.start().await.unwrap());
        drop(guard);
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains("does not run")).map(str::to_owned).collect()
    }
}

fn builder() -> eventbus::AppBuilder {
    App::builder().store(InMemoryEventStore::new())
}

#[tokio::test]
async fn linked_handlers_that_nothing_runs_are_named_in_one_warning() {
    let all = Log::of(builder()).await;
    let [line] = &all[..] else { panic!("{all:#?}") };
    for named in ["`announce`", "`bill`", "`parcels`", "idle_handlers.rs:"] {
        assert!(line.contains(named), "{named} is not in: {line}");
    }
    assert!(!line.contains("by_hand"), "{line}");

    let some = Log::of(builder().handler::<announce>().projection(Parcels)).await;
    let [line] = &some[..] else { panic!("{some:#?}") };
    assert!(line.contains("`bill`") && !line.contains("`announce`") && !line.contains("`parcels`"), "{line}");

    assert_eq!(Log::of(builder().discover()).await, Vec::<String>::new());
    assert_eq!(Log::of(builder().discover_groups(["projections"])).await, Vec::<String>::new());
}
