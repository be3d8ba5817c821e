//! Two releases of a projection that share its rows, of which the newer one knows one more event type.

use std::{sync::atomic::Ordering, time::Duration};

use eventbus::{
    Name, NewEvent, Position,
    port::{EventStore as _, Leases},
    prelude::*,
    projection::ProjectionError,
    testkit::{Fault, TableStore},
};

use crate::{
    gated::GatedStore,
    lines::Lines,
    rows::{Mood, OrderRows, ROLE, append},
    wait::until,
};

/// The rows of the projection `order-rows` as an older release keeps them, without shipments.
mod old {
    use eventbus::{prelude::*, testkit::Tables};

    use crate::orders::OrderCreated;

    #[derive(Default)]
    pub struct Rows;

    #[projection(name = "order-rows", tables("order_rows"), key = "order_id")]
    impl Rows {
        fn created(&self, event: &OrderCreated, meta: &Metadata, tables: &mut Tables) {
            let id = meta.aggregate_id().to_string();
            let row = tables.row("order_rows", &id);
            row.insert("order_id".into(), id);
            row.insert("customer".into(), event.customer_id.clone());
            row.insert("events".into(), "1".into());
        }
    }
}

/// The same projection after a change of its method.
mod changed {
    use eventbus::{prelude::*, testkit::Tables};

    use crate::orders::OrderCreated;

    #[derive(Default)]
    pub struct Rows;

    #[projection(name = "order-rows", tables("order_rows"), version = 2)]
    impl Rows {
        fn created(&self, _event: &OrderCreated, meta: &Metadata, tables: &mut Tables) {
            tables.row("order_rows", meta.aggregate_id().as_str()).insert("version".into(), "2".into());
        }
    }
}

/// The projection after a change of its name.
mod with_new_name {
    use eventbus::{prelude::*, testkit::Tables};

    use crate::orders::OrderCreated;

    #[derive(Default)]
    pub struct Rows;

    #[projection(name = "renamed-rows", tables("fresh_rows", "order_rows"))]
    impl Rows {
        fn created(&self, _event: &OrderCreated, meta: &Metadata, tables: &mut Tables) {
            tables.row("fresh_rows", meta.aggregate_id().as_str());
            tables.row("order_rows", meta.aggregate_id().as_str()).insert("name".into(), "new".into());
        }
    }
}

/// Both releases of a projection that names no tables.
mod nameless {
    pub mod old {
        use eventbus::{prelude::*, testkit::Tables};

        use crate::orders::OrderCreated;

        #[derive(Default)]
        pub struct Rows;

        #[projection(name = "nameless")]
        impl Rows {
            fn created(&self, event: &OrderCreated, tables: &mut Tables) {
                tables.row("customers", &event.customer_id);
            }
        }
    }

    pub mod named {
        use eventbus::{prelude::*, testkit::Tables};

        use crate::orders::{OrderCreated, OrderShipped};

        #[derive(Default)]
        pub struct Rows;

        #[projection(name = "nameless", tables("customers", "parcels"))]
        impl Rows {
            fn created(&self, event: &OrderCreated, tables: &mut Tables) {
                tables.row("customers", &event.customer_id);
            }

            fn shipped(&self, event: &OrderShipped, tables: &mut Tables) {
                tables.row("parcels", &event.tracking_number);
            }
        }
    }

    pub mod new {
        use eventbus::{prelude::*, testkit::Tables};

        use crate::orders::{OrderCreated, OrderShipped};

        #[derive(Default)]
        pub struct Rows;

        #[projection(name = "nameless")]
        impl Rows {
            fn created(&self, event: &OrderCreated, tables: &mut Tables) {
                tables.row("customers", &event.customer_id);
            }

            fn shipped(&self, event: &OrderShipped, tables: &mut Tables) {
                tables.row("parcels", &event.tracking_number);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rows_that_an_operator_accepts_go_on_without_what_was_passed_by() {
    let store = TableStore::new();
    let old = run(&store, nameless::old::Rows).await;
    let position = save(&store, 5).await;
    old.projected::<nameless::old::Rows>(position).await.unwrap();
    assert!(!old.accept_missed_events::<nameless::old::Rows>("nothing is missing").await.unwrap());
    stop(old).await;
    let new = run(&store, nameless::new::Rows).await;
    let last = save(&store, 1).await;
    let stopped = new.projected::<nameless::new::Rows>(last).await.map(drop).unwrap_err();
    assert!(stopped.to_string().contains("app.accept_missed_events"), "{stopped}");
    assert!(new.accept_missed_events::<nameless::new::Rows>("made up for by hand").await.unwrap());
    new.projected::<nameless::new::Rows>(last).await.unwrap();
    assert_eq!(store.tables().await.rows("parcels").len(), 1, "what came since then");
    assert!(!new.accept_missed_events::<nameless::new::Rows>("again").await.unwrap());
    stop(new).await;
    // nor does the next start stop
    let next = run(&store, nameless::new::Rows).await;
    next.projected::<nameless::new::Rows>(save(&store, 1).await).await.unwrap();
    stop(next).await;
}

async fn run<P: eventbus::projection::Projection>(store: &TableStore, projection: P) -> App {
    let app = App::builder().store(store.clone()).state(crate::rows::Mood::default()).projection(projection);
    app.lease(Duration::from_secs(1)).without_relay().start().await.unwrap()
}

async fn save(store: &TableStore, orders: usize) -> Position {
    let mut last = Position::START;
    for _ in 0..orders {
        last = crate::rows::save(store, "ada", 2).await;
    }
    last
}

/// The number of events that the rows count.
async fn counted(store: &TableStore) -> u64 {
    let rows = store.tables().await.rows("order_rows");
    rows.iter().map(|(_, row)| row.get("events").map_or(0, |events| events.parse::<u64>().unwrap())).sum()
}

async fn stop(app: App) {
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn rows_that_a_former_version_made_are_a_warning_at_each_start_until_they_are_rebuilt() {
    let (lines, store) = (Lines::default(), TableStore::new());
    let _here = lines.capture("eventbus=warn");
    let warnings = || {
        let warning = "rows of `order-rows` were made by version 1, this release has 2: `rebuild order-rows` makes them \
                       anew";
        lines.text().matches(warning).count()
    };
    let old = run(&store, old::Rows).await;
    until("its version is noted", async || store.notes().unwrap().load_note(&ROLE).await.unwrap().is_some()).await;
    stop(old).await;
    stop(run(&store, changed::Rows).await).await;
    let old = run(&store, old::Rows).await;
    old.projected::<old::Rows>(save(&store, 2).await).await.unwrap();
    stop(old).await;
    assert_eq!(warnings(), 0, "there were no rows: {}", lines.text());
    for start in 1..=2 {
        let new = run(&store, changed::Rows).await;
        new.projected::<changed::Rows>(save(&store, 1).await).await.unwrap();
        stop(new).await;
        assert_eq!(warnings(), start, "{}", lines.text());
    }
    let new = run(&store, changed::Rows).await;
    new.rebuild::<changed::Rows>().await.unwrap();
    new.projected::<changed::Rows>(save(&store, 1).await).await.unwrap();
    stop(new).await;
    let rebuilt = warnings();
    let new = run(&store, changed::Rows).await;
    new.projected::<changed::Rows>(save(&store, 1).await).await.unwrap();
    stop(new).await;
    assert_eq!(warnings(), rebuilt, "{}", lines.text());
}

#[tokio::test(start_paused = true)]
async fn a_renamed_projection_warns_that_it_begins_anew_on_the_old_rows() {
    let lines = Lines::default();
    let _here = lines.capture("eventbus=warn");
    let warnings = || lines.text().matches("projection `renamed-rows` has no checkpoint").count();
    let with_rows = async || {
        let store = TableStore::new();
        let old = run(&store, old::Rows).await;
        old.projected::<old::Rows>(save(&store, 2).await).await.unwrap();
        stop(old).await;
        store
    };
    let store = with_rows().await;
    assert_eq!(lines.text().matches("has no checkpoint").count(), 0, "there were no rows: {}", lines.text());
    for _ in 1..=2 {
        let new = run(&store, with_new_name::Rows).await;
        new.projected::<with_new_name::Rows>(save(&store, 1).await).await.unwrap();
        stop(new).await;
        assert_eq!(warnings(), 1, "the second start has a checkpoint: {}", lines.text());
    }
    let warning = "projection `renamed-rows` has no checkpoint, but its table `order_rows` has rows: it begins with the first \
                   event and adds to them; if it was renamed, stop the process and give it its former name; `rebuild \
                   renamed-rows` makes the rows anew";
    assert!(lines.text().contains(warning), "{}", lines.text());
    let store = with_rows().await;
    let command = App::builder().store(store.clone()).projection(with_new_name::Rows).standalone().unwrap();
    command.rebuild("renamed-rows", |_| {}).await.unwrap();
    assert_eq!(warnings(), 1, "a rebuild replaces the rows: {}", lines.text());
    // a table that both write
    let store = with_rows().await;
    let both = App::builder().store(store.clone()).projection(old::Rows).projection(with_new_name::Rows);
    let both = both.without_relay().start().await.unwrap();
    both.projected::<with_new_name::Rows>(save(&store, 1).await).await.unwrap();
    stop(both).await;
    assert_eq!(warnings(), 1, "{}", lines.text());
}

#[tokio::test(start_paused = true)]
async fn a_newer_release_takes_over_and_makes_up_for_what_the_older_one_passed_by() {
    let store = TableStore::new();
    let old = run(&store, old::Rows).await;
    let position = save(&store, 100).await;
    old.projected::<old::Rows>(position).await.unwrap();
    assert_eq!(counted(&store).await, 100, "it knows nothing of the 200 shipments");

    let new = run(&store, OrderRows).await;
    save(&store, 10).await;
    until("nothing is missing", async || counted(&store).await == 330).await;
    assert!(new.projections().await.unwrap().iter().all(|status| status.stopped.is_none()));
    // the older release continues, and does not take the lease back
    let position = save(&store, 10).await;
    new.projected::<OrderRows>(position).await.unwrap();
    tokio::time::sleep(Duration::from_secs(300)).await;
    let position = save(&store, 10).await;
    new.projected::<OrderRows>(position).await.unwrap();
    assert_eq!(counted(&store).await, 390);
    stop(old).await;
    stop(new).await;
}

#[tokio::test(start_paused = true)]
async fn a_newer_release_that_is_away_for_a_moment_is_waited_for() {
    let store = TableStore::new();
    let new = run(&store, OrderRows).await;
    let old = run(&store, old::Rows).await;
    let position = save(&store, 10).await;
    new.projected::<OrderRows>(position).await.unwrap();
    stop(new).await;
    let position = save(&store, 10).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let new = run(&store, OrderRows).await;
    new.projected::<OrderRows>(position).await.unwrap();
    assert_eq!(counted(&store).await, 60);
    // the older release does not wait for one that stays away
    stop(new).await;
    let position = save(&store, 10).await;
    old.projected::<old::Rows>(Position::START).await.unwrap();
    until("the older release feeds it", async || counted(&store).await == 70).await;
    old.projected::<old::Rows>(position).await.unwrap();
    // and a rebuild adds the events that it passed by
    let new = run(&store, OrderRows).await;
    until("nothing is missing", async || counted(&store).await == 90).await;
    stop(old).await;
    stop(new).await;
}

#[tokio::test(start_paused = true)]
async fn a_type_of_which_nothing_was_passed_by_needs_no_rebuild() {
    let store = TableStore::new();
    let old = run(&store, old::Rows).await;
    let created = crate::rows::save(&store, "ada", 0).await;
    old.projected::<old::Rows>(created).await.unwrap();
    stop(old).await;
    // rows that a rebuild would remove
    let mut transaction = eventbus::port::Transactions::begin(&store).await.unwrap();
    let tables: &mut eventbus::testkit::Tables =
        eventbus::port::FromTransaction::<TableStore>::take(Some(transaction.as_any_mut())).unwrap();
    tables.row("order_rows", "kept").insert("events".into(), "1000".into());
    transaction.commit().await.unwrap();
    let new = run(&store, OrderRows).await;
    let position = crate::rows::save(&store, "ada", 1).await;
    new.projected::<OrderRows>(position).await.unwrap();
    assert_eq!(counted(&store).await, 1_003);
    stop(new).await;
}

#[tokio::test(start_paused = true)]
async fn a_projection_that_nothing_can_rebuild_stops_and_says_what_it_misses() {
    let store = TableStore::new();
    let old = run(&store, nameless::old::Rows).await;
    let position = save(&store, 5).await;
    old.projected::<nameless::old::Rows>(position).await.unwrap();
    stop(old).await;
    let new = run(&store, nameless::new::Rows).await;
    let stopped = new.projected::<nameless::new::Rows>(save(&store, 1).await).await.map(drop).unwrap_err();
    assert!(matches!(&stopped, ProjectionError::MissedEvents { types, .. } if types == "OrderShipped"), "{stopped:?}");
    for part in ["nameless", "OrderShipped", "app.rebuild", &format!("position {position}")] {
        assert!(stopped.to_string().contains(part), "{stopped}");
    }
    assert!(store.tables().await.rows("parcels").is_empty());
    stop(new).await;
    // a release that names its tables rebuilds them by itself
    let named = run(&store, nameless::named::Rows).await;
    named.projected::<nameless::named::Rows>(save(&store, 1).await).await.map(drop).unwrap();
    until("nothing is missing", async || store.tables().await.rows("parcels").len() == 1).await;
    stop(named).await;
    // a release with as few types continues
    let lines = Lines::default();
    let _here = lines.capture("eventbus=warn");
    let old = run(&store, nameless::old::Rows).await;
    let stream = eventbus::StreamId::new(Name::from_static("Order"), AggregateId::new());
    let news = vec![NewEvent::from_event(&crate::orders::created("bob", 1.0)).unwrap()];
    let position = append(&store, &stream, news).await;
    let went_on = old.projected::<nameless::old::Rows>(position).await.map(drop);
    if went_on.is_err() {
        until("it goes on after a minute", async || old.projected::<nameless::old::Rows>(position).await.is_ok()).await;
    }
    assert_eq!(lines.text().matches("knew more event types than this one").count(), 1, "{}", lines.text());
    stop(old).await;
}

/// Fails if the newer release goes on with those copies: they lack the events that the older one does not know.
#[tokio::test(start_paused = true)]
async fn copies_that_a_release_with_fewer_types_has_left_behind_are_made_anew() {
    let store = TableStore::new();
    let old = run(&store, old::Rows).await;
    let last = save(&store, 10).await;
    old.projected::<old::Rows>(last).await.unwrap();
    // its copies are complete, and the store is unavailable when they are to replace the rows
    let rebuild = old.rebuild::<old::Rows>().on_progress(|now| {
        if now.events == 10 {
            store.commits.fail_next(Fault::Unavailable, 6);
        }
    });
    rebuild.await.unwrap_err();
    store.commits.clear();
    stop(old).await;
    let new = run(&store, OrderRows).await;
    until("nothing is missing", async || counted(&store).await == 30).await;
    stop(new).await;
}

/// The live rows go on as ever while an attempt at the rebuild waits for its lease.
#[tokio::test(start_paused = true)]
async fn a_projection_that_stops_beside_a_long_rebuild_goes_on_when_an_operator_skips_the_event() {
    const LONG: Duration = Duration::from_secs(600);
    let store = TableStore::new();
    let old = run(&store, old::Rows).await;
    let last = crate::rows::save(&store, "ada", 1).await;
    old.projected::<old::Rows>(last).await.unwrap();
    stop(old).await;
    let rebuild = Name::from_static("rebuild:order-rows");
    let of_other = store.seize_lease(&rebuild, &Name::from_static("other"), LONG).await.unwrap();
    let new = App::builder().store(store.clone()).state(Mood::refusing(u32::MAX)).projection(OrderRows);
    let new = new.lease(LONG).without_relay().start().await.unwrap();
    let refused = crate::rows::save(&store, "bad", 0).await;
    let stopped = new.projected::<OrderRows>(refused).await.map(drop).unwrap_err();
    assert!(matches!(stopped, ProjectionError::Stopped { .. }), "{stopped:?}");
    new.skip_event::<OrderRows>(refused, "a test").await.unwrap();
    let next = crate::rows::save(&store, "ada", 0).await;
    new.projected::<OrderRows>(next).await.unwrap();
    store.release_lease(&of_other).await.unwrap();
    until("nothing is missing", async || counted(&store).await == 3).await;
    stop(new).await;
}

/// Both releases of a projection whose event type is renamed between them.
mod renamed {
    pub mod before {
        use eventbus::{prelude::*, testkit::Tables};

        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Account", type = "MoneyAdded")]
        pub struct Deposited {}

        #[derive(Default)]
        pub struct Rows;

        #[projection(name = "deposits", tables("deposits"), manual)]
        impl Rows {
            fn deposited(&self, _event: &Deposited, meta: &Metadata, tables: &mut Tables) {
                tables.row("deposits", meta.event_id().to_string());
            }
        }
    }

    pub mod after {
        use eventbus::{prelude::*, testkit::Tables};

        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Account", type = "MoneyDeposited", was("MoneyAdded"))]
        pub struct Deposited {}

        #[derive(Default)]
        pub struct Rows;

        #[projection(name = "deposits", tables("deposits"), manual)]
        impl Rows {
            fn deposited(&self, _event: &Deposited, meta: &Metadata, tables: &mut Tables) {
                tables.row("deposits", meta.event_id().to_string());
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_that_renames_an_event_type_goes_on_at_once_and_rebuilds_nothing() {
    use renamed::{after, before};
    let lines = Lines::default();
    let _here = lines.capture("eventbus::runtime::projection=warn");
    let store = TableStore::new();
    let stream = eventbus::StreamId::parse("Account", "a-1").unwrap();
    let first = append(&store, &stream, vec![NewEvent::from_event(&before::Deposited {}).unwrap()]).await;
    let old = run(&store, before::Rows).await;
    old.projected::<before::Rows>(first).await.unwrap();
    let new = run(&store, after::Rows).await;
    let second = append(&store, &stream, vec![NewEvent::from_event(&after::Deposited {}).unwrap()]).await;
    new.projected::<after::Rows>(second).await.unwrap();
    assert_eq!(store.tables().await.rows("deposits").len(), 2);
    stop(old).await;
    stop(new).await;
    let again = run(&store, after::Rows).await;
    let third = append(&store, &stream, vec![NewEvent::from_event(&after::Deposited {}).unwrap()]).await;
    again.projected::<after::Rows>(third).await.unwrap();
    assert_eq!(store.tables().await.rows("deposits").len(), 3);
    assert_eq!(lines.text(), "", "no rebuild");
    stop(again).await;
}

/// Fails if the retries of a rebuild, which fails at the same event, keep the lease: no second process could handle it,
/// and this one would not retry it.
#[tokio::test(start_paused = true)]
async fn a_projection_that_stops_while_it_is_rebuilt_releases_its_lease_and_goes_on_later() {
    let store = TableStore::new();
    let old = run(&store, old::Rows).await;
    let position = save(&store, 5).await;
    old.projected::<old::Rows>(position).await.unwrap();
    stop(old).await;
    let lines = Lines::default();
    let _here = lines.capture("eventbus=warn");
    let mood = Mood::refusing(u32::MAX);
    let new = crate::rows::app(&store, &mood).await;
    let position = crate::rows::save(&store, "bad", 0).await;
    new.projected::<OrderRows>(position).await.map(drop).unwrap_err();
    until("the lease is released", async || store.lease_of(&ROLE).await.unwrap().is_none()).await;
    // its retry a minute later fails as well
    let tries = mood.tries.load(Ordering::SeqCst);
    until("it is retried", async || mood.tries.load(Ordering::SeqCst) > tries).await;
    until("the lease is released", async || store.lease_of(&ROLE).await.unwrap().is_none()).await;
    let log = lines.text();
    assert_eq!(log.matches("the projection could not be rebuilt, trying again").count(), 1, "{log}");
    mood.refusals.store(0, Ordering::SeqCst);
    until("nothing is missing", async || counted(&store).await == 16).await;
    new.projected::<OrderRows>(position).await.unwrap();
    stop(new).await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_beside_a_rebuild_is_no_failure_of_it() {
    let tables = TableStore::new();
    let old = run(&tables, old::Rows).await;
    old.projected::<old::Rows>(save(&tables, 1).await).await.unwrap();
    stop(old).await;
    let lines = Lines::default();
    let _here = lines.capture("eventbus=warn");
    let store = GatedStore::over(tables);
    store.searches_missing.store(true, Ordering::SeqCst);
    let new = App::builder().store(store.clone()).state(Mood::default()).projection(OrderRows).without_relay();
    let new = new.start().await.unwrap();
    store.until_searching().await;
    stop(new).await;
    let log = lines.text();
    assert!(!log.contains("could not be rebuilt"), "{log}");
}
