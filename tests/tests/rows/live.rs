//! Projections whose processes die and pause.

use std::time::Duration;

use eventbus::port::{Checkpoints, Leases};
use eventbus::{Name, ProjectionOwner};

use crate::{
    kinds::Kind,
    orders::{Pace, expected, pay},
    play::{Part, Process},
};

const ROLE: Name = Name::from_static("projection:order-rows");
const PACE: Duration = Duration::from_micros(300);

/// Two processes stand by for each other, and one after the other is killed, under live traffic.
pub(crate) async fn rows_and_checkpoint_survive_kills_together<K: Kind>() {
    let (place, kind) = K::fresh().await;
    let store = kind.store();
    let mut processes: Vec<_> = (0..2).map(|_| Process::spawn::<K>(&place, Part::Project, PACE)).collect();
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for _ in 0..60 {
                pay(&*store, 20, 25).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    let mut kills = 0;
    let mut positions = Vec::new();
    while !writer.is_finished() || kills < 8 {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(100..700))).await;
        processes.remove(fastrand::usize(..processes.len()));
        processes.push(Process::spawn::<K>(&place, Part::Project, PACE));
        kills += 1;
        positions.push(store.load_checkpoint(&ROLE).await.unwrap());
    }
    writer.await.unwrap();
    let app = kind.app(Pace::FAST).await;
    let last = pay(&*store, 20, 1).await;
    app.projected::<K::Rows>(last).await.map(drop).unwrap();
    assert_eq!(kind.dump().await, expected(&store).await, "after {kills} kills, at {positions:?}");
    assert!(positions.is_sorted(), "{positions:?}");
}

/// The owner stands still, another process takes over, and what the former owner does afterwards is void.
pub(crate) async fn a_paused_owner_writes_nothing_more<K: Kind>() {
    let (place, kind) = K::fresh().await;
    let store = kind.store();
    let owner = Process::spawn::<K>(&place, Part::Project, Duration::from_millis(3));
    owner.until("begun");
    let app = kind.app(Pace::FAST).await;
    let (mut rounds, mut taken_over) = (0, 0);
    while rounds < 3 || taken_over == 0 {
        rounds += 1;
        assert!(rounds < 20, "nobody ever took over");
        // the process has the role, or this one lets it have it
        let before = store.lease_of(&ROLE).await.unwrap();
        let last = pay(&*store, 5, 30).await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..60))).await;
        owner.signal("-STOP");
        // a transaction in which it was paused may hold the rows, or the file, until it goes on: no longer than this
        let taken = tokio::time::timeout(Duration::from_secs(2), app.projected::<K::Rows>(last)).await;
        let after = store.lease_of(&ROLE).await.unwrap();
        let has_passed = matches!((&before, &after), (Some(before), Some(after)) if before.owner != after.owner);
        taken_over += usize::from(has_passed);
        owner.signal("-CONT");
        println!("taken over: {has_passed}, and got there: {}", taken.is_ok());
        let last = pay(&*store, 5, 30).await;
        app.projected::<K::Rows>(last).await.map(drop).unwrap();
        assert_eq!(kind.dump().await, expected(&store).await);
        // and back, so that the process has it again
        if app.projections().await.unwrap()[0].owner == ProjectionOwner::Here {
            let other = Name::from_static("meanwhile");
            let lease = store.seize_lease(&ROLE, &other, Duration::from_millis(200)).await.unwrap();
            store.release_lease(&lease).await.unwrap();
        }
    }
}
