//! Loading, deciding, saving.

use std::{cell::Cell, convert::Infallible, time::Duration};

use eventbus::{
    EventContext, ExpectedVersion, InMemoryEventBus, InMemoryEventStore, LoadError, Name, Never, NewEvent, SaveError,
    StreamId, UpdateError, Uuid, Version,
    delivery::RetryPolicy,
    event::DecodeError,
    port::AppendEvents,
    prelude::*,
    repository::Publication,
    testkit::{Fault, FaultyStore},
};

use crate::orders::{Order, OrderCreated, OrderEvent, OrderShipped, TooManyParts, created};

fn orders() -> AggregateRepository<Order> {
    AggregateRepository::new(InMemoryEventStore::new())
}

async fn saved_order(orders: &AggregateRepository<Order>) -> AggregateRoot<Order> {
    let mut order = orders.create_new(AggregateId::new());
    order.record(created("ada", 10.0));
    orders.save(&mut order).await.unwrap();
    order
}

#[tokio::test]
async fn saves_and_loads() {
    let orders = orders();
    let mut order = orders.create_new(AggregateId::new());
    order.record((created("ada", 10.0), Some(OrderShipped { tracking_number: "T1".into() })));
    let saved = orders.save(&mut order).await.unwrap();
    assert_eq!((saved.version, order.version(), saved.events.len()), (Version::new(2), Version::new(2), 2));
    assert!(order.pending().is_empty());
    assert_eq!(saved.position, saved.events[1].position());
    let loaded = orders.load(order.id()).await.unwrap();
    assert_eq!((loaded.state(), loaded.version()), (order.state(), order.version()));
    assert_eq!(loaded.shipments, ["T1"]);
}

#[tokio::test]
async fn nothing_recorded_stores_nothing() {
    let store = FaultyStore::new(InMemoryEventStore::new());
    let orders = AggregateRepository::<Order>::new(store.clone()).publish_to(InMemoryEventBus::new());
    let mut order = orders.create_new(AggregateId::new());
    store.appends.fail_next(Fault::Unavailable, 1);
    let saved = orders.save(&mut order).await.unwrap();
    assert_eq!((saved.version, saved.position, store.appends.remaining()), (Version::NONE, None, 1));
    assert!(matches!(saved.publication, Publication::None));
    assert!(!orders.exists(order.id()).await.unwrap());
}

#[tokio::test]
async fn not_found_is_typed() {
    let orders = orders();
    let id: AggregateId = "order-7".parse().unwrap();
    let error = orders.load(&id).await.unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(error.to_string(), "aggregate `Order/order-7` does not exist");
    assert!(orders.find(&id).await.unwrap().is_none());
    let error = orders.update(&id, |order| order.ship("T1")).await.unwrap_err();
    assert!(error.is_not_found() && error.refused().is_none());
}

#[tokio::test]
async fn loads_a_former_version() {
    let orders = orders();
    let order = saved_order(&orders).await;
    orders.update(order.id(), |order| order.ship("T1")).await.unwrap();
    let former = orders.load_at(order.id(), Version::FIRST).await.unwrap();
    assert_eq!((former.version(), former.shipments.len()), (Version::FIRST, 0));
    let error = orders.load_at(order.id(), Version::new(3)).await.unwrap_err();
    assert!(matches!(error, LoadError::VersionNotReached { actual, .. } if actual == 2), "{error}");
    let missing = orders.load_at(&AggregateId::new(), Version::FIRST).await.unwrap_err();
    assert!(missing.is_not_found());
    let mut former = former;
    former.record(OrderShipped { tracking_number: "T2".into() });
    assert!(orders.save(&mut former).await.unwrap_err().is_conflict());
}

#[tokio::test]
async fn a_stale_save_conflicts_and_keeps_what_is_pending() {
    let orders = orders();
    let mut stale = saved_order(&orders).await;
    orders.update(stale.id(), |order| order.ship("T1")).await.unwrap();
    stale.record(OrderShipped { tracking_number: "T2".into() });
    let error = orders.save(&mut stale).await.unwrap_err();
    assert!(error.is_conflict());
    let expected = format!("stream `Order/{}` is at version 2, expected version 1", stale.id());
    assert_eq!(error.to_string(), expected);
    assert_eq!((stale.pending().len(), stale.version()), (1, Version::FIRST));
    assert_eq!(orders.load(stale.id()).await.unwrap().shipments, ["T1"]);
}

#[tokio::test]
async fn update_decides_anew_until_it_wins() {
    let orders = orders();
    let order = saved_order(&orders).await;
    let updates = (0..16).map(|i| {
        let (orders, id) = (orders.clone(), order.id().clone());
        tokio::spawn(async move { orders.update(&id, |order| order.ship(&format!("T{i}"))).await.map(|_| ()) })
    });
    for update in updates.collect::<Vec<_>>() {
        update.await.unwrap().unwrap();
    }
    let mut shipments = orders.load(order.id()).await.unwrap().shipments.clone();
    shipments.sort();
    shipments.dedup();
    assert_eq!(shipments.len(), 16);
}

/// Appends an event of a concurrent writer.
fn append_rival(store: &InMemoryEventStore, stream: &StreamId) {
    let rival = NewEvent::from_event(&OrderShipped { tracking_number: "rival".into() }).unwrap();
    let appended = store.append(stream, ExpectedVersion::Any, vec![rival]);
    futures_util::FutureExt::now_or_never(appended).unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn update_gives_up_after_its_retries() {
    let store = InMemoryEventStore::new();
    let policy = RetryPolicy { max_retries: Some(2), ..RetryPolicy::default() };
    let orders = AggregateRepository::<Order>::new(store.clone())
        .with_conflict_retries(policy)
        .with_context(EventContext::default());
    let order = saved_order(&orders).await;
    let stream = StreamId::new(Name::from_static("Order"), order.id().clone());
    let tries = std::sync::atomic::AtomicU32::new(0);
    let began = tokio::time::Instant::now();
    let error = orders
        .update(order.id(), |order| {
            tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            append_rival(&store, &stream);
            order.ship("mine")
        })
        .await
        .unwrap_err();
    assert!(error.is_conflict());
    assert_eq!(tries.into_inner(), 3);
    let (waited, longest) = (began.elapsed(), policy.delay(1) + policy.delay(2));
    assert!(longest / 2 <= waited && waited <= longest + Duration::from_millis(2), "{waited:?} of {longest:?}");
}

#[tokio::test(start_paused = true)]
async fn update_gives_up_after_the_time_for_its_retries() {
    let store = InMemoryEventStore::new();
    let policy = RetryPolicy { retry_for: Duration::from_secs(2), ..RetryPolicy::default() };
    let orders = AggregateRepository::<Order>::new(store.clone()).with_conflict_retries(policy);
    let order = saved_order(&orders).await;
    let stream = StreamId::new(Name::from_static("Order"), order.id().clone());
    let began = tokio::time::Instant::now();
    let error = orders
        .update(order.id(), |order: &Order| {
            append_rival(&store, &stream);
            order.ship("mine")
        })
        .await
        .unwrap_err();
    assert!(error.is_conflict(), "{error}");
    let waited = began.elapsed();
    assert!(policy.retry_for <= waited && waited <= 3 * policy.retry_for, "{waited:?}");
}

#[tokio::test]
async fn update_decides_anew_after_conflicts_only() {
    let store = FaultyStore::new(InMemoryEventStore::new());
    let orders = AggregateRepository::<Order>::new(store.clone());
    let order = saved_order(&orders).await;
    store.appends.fail_next(Fault::Unavailable, 1);
    let tries = Cell::new(0);
    let decide = |order: &Order| {
        tries.set(tries.get() + 1);
        order.ship("T1")
    };
    let error = orders.update(order.id(), decide).await.unwrap_err();
    assert!(matches!(error, UpdateError::Save(_)) && !error.is_conflict(), "{error}");
    assert_eq!(tries.get(), 1);
}

#[tokio::test]
async fn a_refusal_is_final_and_typed() {
    let orders = orders();
    let mut order = saved_order(&orders).await;
    order.record(vec![OrderShipped { tracking_number: "T".into() }; 50]);
    orders.save(&mut order).await.unwrap();
    let error = orders.update(order.id(), |order| order.ship("one more")).await.unwrap_err();
    assert_eq!(error.refused(), Some(&TooManyParts(50)));
    assert_eq!(error.to_string(), "order is shipped in 50 parts already");
    assert_eq!(orders.version(order.id()).await.unwrap(), Version::new(51));
}

#[tokio::test]
async fn dependent_decisions_see_each_other() {
    let orders = orders();
    let order = saved_order(&orders).await;
    let (saved, parts) = orders
        .update_root(order.id(), |order| {
            order.record(order.ship("T1")?);
            order.record(order.ship("T2")?);
            Ok::<_, TooManyParts>(order.shipments.len())
        })
        .await
        .unwrap();
    assert_eq!((saved.version, parts), (Version::new(3), 2));
}

#[tokio::test]
async fn create_refuses_what_exists_and_upsert_does_not() {
    let orders = orders();
    let id = AggregateId::new();
    let create = |_: &Order| Ok::<_, Infallible>(created("ada", 1.0));
    assert_eq!(orders.create(&id, create).await.unwrap().version, Version::FIRST);
    let refused = orders.create(&id, create).await.unwrap_err();
    assert!(refused.is_conflict());
    assert_eq!(refused.to_string(), format!("stream `Order/{id}` exists already, at version 1"));
    assert_eq!(orders.upsert(&id, |order| order.ship("T1")).await.unwrap().version, Version::new(2));
    let other = AggregateId::new();
    assert_eq!(orders.upsert(&other, create).await.unwrap().version, Version::FIRST);
}

#[tokio::test]
async fn a_decision_is_made_again_with_the_same_command_after_a_conflict() {
    let store = InMemoryEventStore::new();
    let orders = AggregateRepository::<Order>::new(store.clone());
    let (id, other) = (AggregateId::new(), AggregateId::new());
    let decided = Cell::new(0);
    // a different process is first, at each decision with an odd number
    let ship_after_rival = |id: &AggregateId| {
        let (store, stream, decided) = (store.clone(), Order::stream(id), &decided);
        move |_: &Order, parcel: String| {
            decided.set(decided.get() + 1);
            if decided.get() % 2 == 1 {
                let rival = NewEvent::from_event(&OrderShipped { tracking_number: "rival".into() }).unwrap();
                let appended = store.append(&stream, ExpectedVersion::Any, vec![rival]);
                futures_util::FutureExt::now_or_never(appended).unwrap().unwrap();
            }
            Ok::<_, Never>(OrderShipped { tracking_number: parcel })
        }
    };
    orders.upsert_with(&id, String::from("T1"), ship_after_rival(&id)).await.unwrap();
    assert_eq!(decided.get(), 2);
    orders.update_with(&id, String::from("T2"), ship_after_rival(&id)).await.unwrap();
    assert_eq!(decided.get(), 4);
    assert_eq!(orders.load(&id).await.unwrap().shipments, ["rival", "T1", "rival", "T2"]);
    let exists = orders.create_with(&other, String::from("T3"), ship_after_rival(&other)).await.unwrap_err();
    assert!(exists.is_conflict(), "{exists}");
    assert_eq!(decided.get(), 5, "no retry makes it absent");
}

#[tokio::test]
async fn a_decision_that_takes_a_command_is_a_method() {
    let (orders, id) = (orders(), AggregateId::new());
    let missing = orders.update_with(&id, "T1", Order::ship).await.unwrap_err();
    assert!(missing.is_not_found());
    assert_eq!(orders.create_with(&id, "T1", Order::ship).await.unwrap().version, Version::FIRST);
    assert!(orders.create_with(&id, "T2", Order::ship).await.unwrap_err().is_conflict());
    for number in 2..=50 {
        orders.update_with(&id, &*format!("T{number}"), Order::ship).await.unwrap();
    }
    let refused = orders.upsert_with(&id, "T51", Order::ship).await.unwrap_err();
    assert_eq!(refused.refused(), Some(&TooManyParts(50)));
}

#[tokio::test]
async fn events_that_do_not_fit_are_named_with_their_place() {
    let store = InMemoryEventStore::new();
    let orders = AggregateRepository::<Order>::new(store.clone());
    let id: AggregateId = "7".parse().unwrap();
    let stream = StreamId::new(Name::from_static("Order"), id.clone());
    let append = async |event_type: &'static str, payload: &str, expected| {
        let event = NewEvent::new(Name::from_static(event_type), 1, payload);
        store.append(&stream, expected, vec![event]).await.unwrap();
    };
    append("OrderCreated", r#"{"customer_id":5}"#, ExpectedVersion::NoStream).await;
    let error = orders.load(&id).await.unwrap_err();
    assert_eq!(error.to_string(), "event 1 of aggregate `Order/7` cannot be decoded");
    let report = format!("{:?}", eventbus::Error::from(error));
    assert!(report.contains("payload of event `OrderCreated` (version 1) does not fit"), "{report}");
    assert!(report.contains("field `customer_id`: invalid type: integer, expected a string"), "{report}");

    let other = AggregateId::new();
    let stream = StreamId::new(Name::from_static("Order"), other.clone());
    let event = NewEvent::new(Name::from_static("OrderLost"), 1, "{}");
    store.append(&stream, ExpectedVersion::Any, vec![event]).await.unwrap();
    let error = orders.load(&other).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("cannot be decoded: if the event was renamed, add `#[event(was(\"OrderLost\"))]`"), "{text}");
    assert!(text.ends_with("`retired(\"OrderLost\")` skips it, and its effect on the state is lost"), "{text}");
    let report = format!("{:?}", eventbus::Error::from(error));
    assert!(report.contains("unknown event type `OrderLost` (known: OrderCreated, OrderShipped)"), "{report}");
}

/// The fields of the newer version fit the struct, and may mean something else.
#[tokio::test]
async fn an_event_of_a_newer_release_is_not_misread() {
    let store = InMemoryEventStore::new();
    let orders = AggregateRepository::<Order>::new(store.clone());
    let id: AggregateId = "1".parse().unwrap();
    let known = NewEvent::from_event(&created("ada", 1.0)).unwrap();
    let newer = NewEvent::new(known.event_type().clone(), known.schema_version() + 1, known.payload());
    store.append(&Order::stream(&id), ExpectedVersion::NoStream, vec![known, newer]).await.unwrap();
    let error = orders.load(&id).await.unwrap_err();
    let LoadError::Decode { version, source: DecodeError::NewerVersion { found, known, .. }, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!((version.get(), *found, *known), (2, 2, 1));
    let report = format!("{:?}", eventbus::Error::from(error));
    let wanted = "`OrderCreated` has version 2, written by a newer release: this one knows versions up to 1";
    assert!(report.contains(wanted), "{report}");
    assert_eq!(orders.load_at(&id, Version::FIRST).await.unwrap().customer_id, "ada");
}

#[tokio::test]
async fn a_save_is_one_conversation_stamped_with_its_context() {
    let orders = orders();
    let tenant = Uuid::now_v7();
    let context = EventContext::default().with_tenant(tenant).with_actor("ada");
    let orders = orders.for_tenant(tenant);
    let mut order = orders.create_new(AggregateId::new());
    order.record((created("ada", 1.0), OrderShipped { tracking_number: "T".into() }));
    let saved = orders.with_context(context).clone().save(&mut order).await.unwrap();
    let [first, second] = [saved.events[0].metadata(), saved.events[1].metadata()];
    assert_eq!(first.correlation_id(), second.correlation_id());
    assert_eq!((first.tenant_id(), first.actor_id()), (Some(tenant), Some("ada")));
    assert_ne!(first.event_id(), second.event_id());

    let caused = orders.with_context(EventContext::caused_by(first));
    let saved = caused.update(order.id(), |order| order.ship("T2")).await.unwrap();
    let effect = saved.events[0].metadata();
    assert_eq!(effect.causation_id(), Some(first.event_id().as_uuid()));
    assert_eq!(effect.correlation_id(), first.correlation_id());
    assert_eq!(effect.tenant_id(), Some(tenant));
}

#[tokio::test]
async fn aggregates_of_two_tenants_are_two_aggregates() {
    let orders = orders();
    let [one, other] = [Uuid::from_u128(1), Uuid::from_u128(2)].map(|tenant| orders.for_tenant(tenant));
    let id = "1".parse().unwrap();
    for (repository, customer) in [(&one, "ada"), (&other, "bob"), (&orders, "eve")] {
        repository.create(&id, |_| Ok::<_, Never>(created(customer, 1.0))).await.unwrap();
    }
    one.update(&id, |order| order.ship("T")).await.unwrap();
    let versions =
        [one.version(&id).await.unwrap(), other.version(&id).await.unwrap(), orders.version(&id).await.unwrap()];
    assert_eq!(versions.map(Version::get), [2, 1, 1]);
    assert_eq!(one.load(&id).await.unwrap().customer_id, "ada");
    assert_eq!(other.load(&id).await.unwrap().customer_id, "bob");
    assert_eq!(orders.for_tenant(Uuid::nil()).load(&id).await.unwrap().customer_id, "eve");
    let unknown = orders.for_tenant(Uuid::from_u128(3)).load(&id).await.unwrap_err();
    assert_eq!(unknown.to_string(), "aggregate `Order/1@00000000-0000-0000-0000-000000000003` does not exist");
}

#[tokio::test]
async fn a_repository_saves_for_its_own_tenant_only() {
    let orders = orders();
    let [one, other] = [Uuid::from_u128(1), Uuid::from_u128(2)];
    let [of_one, of_other] = [one, other].map(|tenant| orders.for_tenant(tenant));
    let id: AggregateId = "1".parse().unwrap();
    let refused = |error: SaveError, wanted: Option<Uuid>| match error {
        SaveError::OtherTenant { found, .. } => assert_eq!(found, wanted),
        error => panic!("{error:?}"),
    };
    for (repository, named) in [(&of_one, other), (&orders, other)] {
        let repository = repository.with_context(EventContext::default().with_tenant(named));
        let mut order = repository.create_new(id.clone());
        order.record(created("ada", 1.0));
        refused(repository.save(&mut order).await.unwrap_err(), Some(named));
        assert_eq!(order.pending().len(), 1);
    }
    let mut order = of_one.create_new(id.clone());
    order.record(created("ada", 1.0));
    refused(of_other.save(&mut order).await.unwrap_err(), Some(one));
    let mut of_none = AggregateRoot::<Order>::new(id.clone());
    of_none.record(created("ada", 1.0));
    let error = of_other.save(&mut of_none).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "a repository of tenant 00000000-0000-0000-0000-000000000002 does not save what belongs to no tenant (aggregate \
         `Order/1@00000000-0000-0000-0000-000000000002`); to repair: `repository.for_tenant(..)`"
    );
    refused(error, None);
    of_one.save(&mut order).await.unwrap();
    assert!(!of_other.exists(&id).await.unwrap() && !orders.exists(&id).await.unwrap());
}

#[test]
fn the_aggregates_enum_converts_and_records() {
    let mut order = AggregateRoot::<Order>::new(AggregateId::new());
    order.record(OrderEvent::from(OrderCreated { customer_id: "ada".into(), total_amount: 1.0 }));
    order.record([OrderShipped { tracking_number: "T1".into() }]).record(None::<OrderShipped>).record(());
    assert_eq!((order.pending().len(), order.version()), (2, Version::NONE));
    assert!(matches!(order.pending()[1], OrderEvent::OrderShipped(_)));
}

#[test]
fn a_refusal_of_any_kind_is_an_error() {
    let refused: UpdateError<String> = UpdateError::Refused("no".into());
    assert_eq!(format!("{:?}", eventbus::Error::from(refused)), "no");
}
