//! The progress of handlers: the clock of the server, and users that lack a right which a save needs behind its first
//! write.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use eventbus::{
    Name, Position,
    delivery::DeliveryAttempts,
    handler::HandlerStart,
    port::{
        HandlerProgress as _,
        handler_progress::{AcquiredShard, DeclaredHandler, DeliveryRow, Member, Saved, ShardId, ShardSave},
    },
};
use eventstore_redis::RedisEventStore;
use time::OffsetDateTime;

use crate::{HOUR, append::limited, common::said, fresh, key, tell};

const MAIL: Name = Name::from_static("mail");
const ONE: Name = Name::from_static("one");
const TWO: Name = Name::from_static("two");

fn shard() -> ShardId {
    ShardId { handler: MAIL, number: 0 }
}

async fn acquire(store: &RedisEventStore, member: &Name) -> Option<AcquiredShard> {
    store.acquire_shards(member, &[shard()], HOUR).await.unwrap().pop()
}

/// Declares a handler, and acquires its shard for a process that joins.
async fn owned(store: &RedisEventStore) -> AcquiredShard {
    let (types, start) = (vec![Name::from_static("Paid")], HandlerStart::Oldest);
    let declared = DeclaredHandler { name: MAIL, group: MAIL, types, shards: 1, start };
    store.declare_handlers(&[declared], Position::START).await.unwrap();
    drop(store.join(&Member { name: ONE, handlers: BTreeMap::new() }).await.unwrap());
    acquire(store, &ONE).await.unwrap()
}

fn save(acquired: &AcquiredShard, dead_since: Option<OffsetDateTime>) -> ShardSave {
    let row = DeliveryRow { position: 1.into(), attempts: DeliveryAttempts::default(), dead_since, is_held: false };
    ShardSave {
        shard: shard(),
        epoch: acquired.epoch,
        checkpoint: 1.into(),
        waiting: Vec::new(),
        started: Vec::new(),
        has_progressed: true,
        left: BTreeMap::new(),
        rows: vec![row],
        finished: Vec::new(),
        is_release: false,
    }
}

#[tokio::test]
async fn a_shard_is_free_when_the_clock_was_set_back() {
    let (store, mut connection) = fresh().await;
    owned(&store).await;
    assert_eq!(acquire(&store, &TWO).await, None);
    let handler = key(&store, "eventstore:handler:mail");
    for field in ["0:expires_at", "0:renewed_at"] {
        tell::<i64>(&mut connection, &["HINCRBY", &handler, field, "86400000"]).await;
    }
    assert_eq!(store.list_handlers().await.unwrap()[0].shards[0].owner, None);
    let beat = store.heartbeat(&TWO, &[MAIL], &[], None, HOUR).await.unwrap();
    assert_eq!(beat.free, BTreeSet::from([shard()]));
    let acquired = acquire(&store, &TWO).await.unwrap();
    assert_eq!((acquired.epoch, acquired.has_crashed), (2, true));
}

/// Fails if the store keeps each process that was ever killed.
#[tokio::test]
async fn a_process_that_died_a_day_ago_is_forgotten() {
    let (store, mut connection) = fresh().await;
    owned(&store).await;
    let times = key(&store, "eventstore:handler_member_times");
    tell::<String>(&mut connection, &["ZINCRBY", &times, "-86400001", "one"]).await;
    drop(store.join(&Member { name: TWO, handlers: BTreeMap::new() }).await.unwrap());
    assert_eq!(tell::<Vec<String>>(&mut connection, &["ZRANGE", &times, "0", "-1"]).await, ["two"]);
    assert_eq!(store.members(&[ONE]).await.unwrap(), []);
}

/// Fails if the row is neither among those that wait nor among the dead letters.
#[tokio::test]
async fn a_save_whose_user_lacks_a_right_writes_no_part_of_it() {
    let (server, store) = limited("+@all").await;
    let mut admin = crate::client(server.url()).await;
    let acquired = owned(&store).await;
    let held = Saved::Held(BTreeSet::from([shard()]));
    assert_eq!(store.save_shards(&ONE, None, &[save(&acquired, None)]).await.unwrap(), held);
    let rows = async || {
        let listed = store.list_handlers().await.unwrap().pop().unwrap();
        (listed.waiting_rows, listed.dead_rows, store.count_dead_rows(9).await.unwrap())
    };
    let dead = [save(&acquired, Some(OffsetDateTime::UNIX_EPOCH))];
    for right in ["zadd", "hdel"] {
        tell::<String>(&mut admin, &["ACL", "SETUSER", "app", &format!("-{right}")]).await;
        let error = store.save_shards(&ONE, None, &dead).await.unwrap_err();
        assert!(said(&error).contains(&right.to_uppercase()), "{}", said(&error));
        assert_eq!(rows().await, (1, 0, 0));
        tell::<String>(&mut admin, &["ACL", "SETUSER", "app", &format!("+{right}")]).await;
    }
    assert_eq!(store.save_shards(&ONE, None, &dead).await.unwrap(), held);
    assert_eq!(rows().await, (0, 1, 1));
    tell::<String>(&mut admin, &["ACL", "SETUSER", "app", "-hincrby"]).await;
    store.replay_dead(&MAIL, 1.into()).await.unwrap_err();
    assert_eq!(rows().await, (0, 1, 1));
    assert_eq!(store.heartbeat(&ONE, &[MAIL], &[(shard(), 1)], None, Duration::ZERO).await.unwrap().held[&shard()], 0);
}
