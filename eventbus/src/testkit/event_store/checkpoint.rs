//! Rules of checkpoints and notes.

use std::time::Duration;

use super::{
    listings::all,
    store_under_test::{StoreUnderTest, events, stream},
};
use crate::{ExpectedVersion, Name, Position, port::EventStore};

async fn save<S: EventStore>(store: &StoreUnderTest<S>, name: &Name, position: u64) {
    let saved = store.save_checkpoint(name, position.into()).await;
    store.ok(saved, format_args!("saving checkpoint {name}"));
}

async fn expect<S: EventStore>(store: &StoreUnderTest<S>, name: &Name, position: Option<u64>) {
    let loaded = store.load_checkpoint(name).await;
    let loaded = store.ok(loaded, format_args!("loading checkpoint {name}"));
    store.same(loaded.map(Position::get), position, format_args!("checkpoint {name}"));
}

/// A reader that never saved a checkpoint has none, which differs from position 0.
pub async fn unsaved_checkpoint_is_none<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("unsaved_checkpoint_is_none", store);
    let name = Name::from_static("reader");
    expect(&store, &name, None).await;
    store.add(&stream(), ExpectedVersion::Any, &events(3)).await;
    expect(&store, &name, None).await;
    save(&store, &name, 0).await;
    expect(&store, &name, Some(0)).await;
}

/// The checkpoint is the one saved last, also if it is lower than before.
pub async fn checkpoint_is_what_was_saved_last<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("checkpoint_is_what_was_saved_last", store);
    let name = Name::from_static("reader");
    for position in [1, 7, 7, 3, 0, i64::MAX as u64, 2] {
        save(&store, &name, position).await;
        expect(&store, &name, Some(position)).await;
    }
}

/// A deleted checkpoint is gone, also from the list, until it is saved again. The lease of its name and other
/// checkpoints stay. Deleting a missing checkpoint is no error.
pub async fn a_deleted_checkpoint_is_none<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("a_deleted_checkpoint_is_none", store);
    let [kept, with_lease, without_lease] =
        ["projection:orders-2", "projection:orders", "relay:redis:orders"].map(Name::from_static);
    let delete = async |name: &Name| {
        store.ok(store.delete_checkpoint(name).await, format_args!("deleting checkpoint {name}"));
    };
    let is_listed = async |name: &Name, wanted: bool| {
        let Some(listings) = store.listings() else { return };
        let listed = all(&store, async |after| listings.list_checkpoints("", after, 10).await).await;
        let is_listed = listed.iter().any(|checkpoint| checkpoint.name == *name);
        store.same(is_listed, wanted, format_args!("checkpoint {name} is listed"));
    };
    save(&store, &kept, 5).await;
    let (owner, long) = (Name::from_static("host:1:abc"), Duration::from_secs(600));
    let lease = store.ok(store.acquire_lease(&with_lease, &owner, long).await, "acquiring a lease");
    store.check(lease.is_some(), "a free lease was not acquired");
    for name in [&with_lease, &without_lease] {
        delete(name).await;
        for position in [7, 3] {
            save(&store, name, position).await;
            expect(&store, name, Some(position)).await;
            is_listed(name, true).await;
            for _ in 0..2 {
                delete(name).await;
                expect(&store, name, None).await;
                is_listed(name, false).await;
            }
        }
    }
    expect(&store, &kept, Some(5)).await;
    is_listed(&kept, true).await;
    let held = store.ok(store.lease_of(&with_lease).await, "asking for the owner of a lease");
    store.same(held, lease.clone(), "the lease of a deleted checkpoint");
    let Some(listings) = store.listings() else { return };
    let listed = all(&store, async |after| listings.list_leases("", after, 10).await).await;
    let listed = listed.into_iter().map(|row| row.lease).next();
    store.same(listed, lease, "the listed lease of a deleted checkpoint");
}

/// Each name has its own checkpoint; names are compared byte for byte.
pub async fn checkpoint_names_are_independent<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("checkpoint_names_are_independent", store);
    let long = "x".repeat(255);
    let names = ["reader", "Reader", "reader ", "o'brien", "%", "_", "a:b", "漢字 ünï", &long];
    let mut all = Vec::new();
    for (name, position) in names.into_iter().zip(1..) {
        let name = store.ok(Name::new("checkpoint", name), "naming a checkpoint");
        expect(&store, &name, None).await;
        save(&store, &name, position).await;
        all.push((name, position));
    }
    for (name, position) in &all {
        expect(&store, name, Some(*position)).await;
    }
    let (mut names, mut positions): (Vec<_>, Vec<_>) =
        all.into_iter().map(|(name, position)| (name, Some(Position::new(position)))).unzip();
    names.insert(1, Name::from_static("unsaved"));
    positions.insert(1, None);
    let loaded = store.ok(store.load_checkpoints(&names).await, "loading checkpoints together");
    store.same(loaded, positions, "checkpoints that are loaded together");
}

/// Readers save their checkpoints while appends and other saves run.
pub async fn checkpoints_are_saved_beside_appends<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("checkpoints_are_saved_beside_appends", store);
    let stream = stream();
    store
        .at_once(8, |task| {
            let (store, stream) = (store.clone(), stream.clone());
            async move {
                let name = store.ok(Name::new("checkpoint", format!("reader-{task}")), "naming");
                for position in 1..=10 {
                    store.add(&stream, ExpectedVersion::Any, &events(1)).await;
                    save(&store, &name, position).await;
                    expect(&store, &name, Some(position)).await;
                }
            }
        })
        .await;
}

/// A note is the text saved last under its name, and changes no checkpoint.
pub async fn a_note_is_what_was_saved_last<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("a_note_is_what_was_saved_last", store);
    let names = ["projection:orders", "Projection:orders", "漢字 ünï %_'"];
    let names = names.map(|name| store.ok(Name::new("note", name), "naming a note"));
    for name in &names {
        let loaded = store.notes().map(|notes| notes.load_note(name));
        let Some(loaded) = loaded else {
            return store.same(true, false, "the store keeps notes");
        };
        store.same(store.ok(loaded.await, "loading a note"), None, "a note that was never saved");
    }
    let long = "ü".repeat(100_000);
    for text in ["{}", "", r#"{"types":{"Placed":1},"unfed":{}} ' %"#, &long, "last"] {
        for name in &names {
            let text = format!("{name} {text}");
            let Some(notes) = store.notes() else { return };
            store.ok(notes.save_note(name, &text).await, "saving a note");
            let loaded = store.ok(notes.load_note(name).await, "loading a note");
            store.same(loaded.as_deref() == Some(&text), true, format_args!("note {name}"));
        }
    }
    expect(&store, &names[0], None).await;
}

/// Names of notes are listed by prefix, in byte order, until their notes are removed.
pub async fn notes_are_listed_by_prefix_until_they_are_removed<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("notes_are_listed_by_prefix_until_they_are_removed", store);
    let Some(notes) = store.notes() else {
        return store.same(true, false, "the store keeps notes");
    };
    let named = |text: &str| store.ok(Name::new("note", text), "naming a note");
    let meant = ["letter:%_/", "letter:%_/a", "letter:%_/aa", "letter:%_/b", "letter:%_/ü", "letter:%_/\u{10ffff}z"];
    let others = ["letter:%", "letter:%_.", "letter:%_0", "letter:xy/a", "Letter:%_/a", "ü"];
    for name in meant.iter().rev().chain(&others) {
        store.ok(notes.save_note(&named(name), name).await, "saving a note");
    }
    let prefix = named(meant[0]);
    for limit in [1, 2, 5, 6, 100] {
        let mut listed: Vec<Name> = Vec::new();
        loop {
            let page = notes.list_note_names(&prefix, listed.last(), limit).await;
            let page = store.ok(page, format_args!("asking for {limit} names after {:?}", listed.last()));
            store.check(page.len() <= limit, format_args!("{} names in a page of {limit}", page.len()));
            if page.is_empty() {
                break;
            }
            listed.extend(page);
            store.check(listed.len() <= meant.len(), format_args!("pages of {limit}: {listed:?}"));
        }
        store.same(listed, meant.map(named).to_vec(), format_args!("names in pages of {limit}"));
    }
    for again in [false, true] {
        store.ok(notes.delete_note(&named(meant[2])).await, format_args!("removing a note, again: {again}"));
        let left = store.ok(notes.list_note_names(&prefix, Some(&named(meant[1])), 2).await, "asking for names");
        store.same(left, vec![named(meant[3]), named(meant[4])], "the remaining names after one");
        store.same(store.ok(notes.load_note(&named(meant[2])).await, "loading a note"), None, "a removed note");
    }
    let other = store.ok(notes.load_note(&named(meant[1])).await, "loading a note");
    store.same(other.as_deref(), Some(meant[1]), "a note whose name begins the one that was removed");
}
