//! Handlers that use the store's connection, in processes that are killed.

use std::time::Duration;

use eventbus::App;

use crate::{
    kinds::Kind,
    orders::{Pace, pay},
    play::{self, Part},
};

/// Two processes with a bus each, so that each event reaches both. One after the other is killed, and resumes where its
/// group was.
pub(crate) async fn effects_are_made_once_whatever_is_killed<K: Kind>() {
    let (place, kind) = K::fresh().await;
    let store = kind.store();
    let pace = Duration::from_millis(1);
    let mut processes: Vec<_> = (0..2).map(|_| play::spawn::<K>(&place, Part::Handle, pace)).collect();
    for _ in 0..6 {
        pay(&*store, 20, 60).await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(50..400))).await;
        processes.remove(fastrand::usize(..processes.len()));
        processes.push(play::spawn::<K>(&place, Part::Handle, pace));
    }
    drop(processes);
    let app = K::with_effects(App::builder().store(store.clone()).state(Pace::FAST)).start().await.unwrap();
    app.settled().await.unwrap();
    let made = kind.ask("SELECT count(*) || ' effects, made ' || sum(times) || ' times' FROM effects").await;
    assert_eq!(made, "360 effects, made 360 times");
}
