//! Projections whose processes die and pause.

use std::time::Duration;

use eventbus::{
    Name,
    port::{Checkpoints, EventStore, Leases},
    projection::ProjectionError,
};

use crate::{
    kinds::{Kind, SHORT_LEASE},
    orders::{Pace, TABLES, expected, pay},
    play::{self, Part},
};

const ROLE: Name = Name::from_static("projection:order-rows");
const PACE: Duration = Duration::from_micros(300);
/// Time limit for work that a paused process may block.
const BLOCKED_WORK_TIMEOUT: Duration = Duration::from_secs(2);

/// Two processes, one of them the standby, are killed in turn under live traffic.
pub(crate) async fn rows_and_checkpoint_survive_kills_together<K: Kind>() {
    let (place, kind) = K::fresh().await;
    let store = kind.store();
    let mut processes: Vec<_> = (0..2).map(|_| play::spawn::<K>(&place, Part::Project, PACE)).collect();
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
        processes.push(play::spawn::<K>(&place, Part::Project, PACE));
        kills += 1;
        positions.push(store.load_checkpoint(&ROLE).await.unwrap());
    }
    writer.await.unwrap();
    let app = kind.app(Pace::FAST, SHORT_LEASE).await;
    let last = pay(&*store, 20, 1).await;
    app.projected::<K::Rows>(last).await.map(drop).unwrap();
    assert_eq!(kind.dump().await, expected(&store).await, "after {kills} kills, at {positions:?}");
    assert!(positions.is_sorted(), "{positions:?}");
}

/// The owner pauses, while it works or after, a second process takes over, and later writes of the former owner have no
/// effect.
pub(crate) async fn a_paused_owner_writes_nothing_more<K: Kind>() {
    let (place, kind) = K::fresh().await;
    let store = kind.store();
    let paused = play::spawn::<K>(&place, Part::Project, Duration::from_millis(3));
    let (mut rounds, mut taken_over) = (0, 0);
    while rounds < 4 || taken_over == 0 {
        rounds += 1;
        assert!(rounds < 20, "no process ever took over");
        // no second process requests the lease yet
        let before = owner(&*store).await;
        let app = kind.app(Pace::FAST, SHORT_LEASE).await;
        let mut last = pay(&*store, 5, 30).await;
        let is_at_rest = rounds % 2 == 0;
        if is_at_rest {
            app.projected::<K::Rows>(last).await.map(drop).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..60))).await;
        paused.signal("STOP");
        // a transaction paused in the middle may lock the rows, or the file, until the process resumes, so the wait is
        // limited
        if is_at_rest && let Ok(paid) = tokio::time::timeout(BLOCKED_WORK_TIMEOUT, pay(&*store, 5, 30)).await {
            last = paid;
        }
        let caught_up = tokio::time::timeout(BLOCKED_WORK_TIMEOUT, app.projected::<K::Rows>(last)).await;
        let has_passed = store.lease_of(&ROLE).await.unwrap().is_some_and(|lease| lease.owner != before);
        taken_over += usize::from(has_passed);
        paused.signal("CONT");
        println!("at rest: {is_at_rest}, taken over: {has_passed}, and caught up: {}", caught_up.is_ok());
        let last = pay(&*store, 5, 30).await;
        app.projected::<K::Rows>(last).await.map(drop).unwrap();
        assert_eq!(kind.dump().await, expected(&store).await);
        app.shutdown(Duration::from_secs(10)).await.unwrap();
    }
}

/// The methods fail for want of a table, and no operator shall skip a good event for that.
pub(crate) async fn a_missing_table_stops_the_projection_with_an_error_that_names_it<K: Kind>() {
    let place = K::place();
    let kind = K::open(&place).await;
    let store = kind.store();
    let last = pay(&*store, 1, 1).await;
    let app = kind.app(Pace::FAST, SHORT_LEASE).await;
    for (sql, missing) in TABLES.iter().zip(["order_rows", "order_lines"]) {
        let error = app.projected::<K::Rows>(last).await.map(drop).unwrap_err();
        assert!(matches!(&error, ProjectionError::NoTable { table, .. } if *table == missing), "{error:?}");
        kind.tell(sql).await;
        assert!(app.resume_projection::<K::Rows>().unwrap());
    }
    app.projected::<K::Rows>(last).await.map(drop).unwrap();
    assert_eq!(kind.dump().await, expected(&store).await);
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

/// Returns the owner of the lease, once there is one.
async fn owner(store: &dyn EventStore) -> Name {
    let found = async {
        loop {
            if let Some(lease) = store.lease_of(&ROLE).await.unwrap() {
                return lease.owner;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), found).await.unwrap()
}
