//! Processes that share a file see at once which of them live.
//!
//! The processes are second runs of this test binary, with the file in an environment variable.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::common::{fresh_path, open};
use eventbus::{
    ExpectedVersion, Name, Position,
    handler::HandlerStart,
    port::{
        AppendEvents as _, HandlerProgress as _, ReadFeed as _,
        handler_progress::{AcquiredShard, DeclaredHandler, Heartbeat, Member, MemberGuard, Saved, ShardId, ShardSave},
    },
};
use eventbus_test::internal::Actor;
use eventstore_sqlite::SqliteEventStore;

const FILE: &str = "EVENTSTORE_SQLITE_TEST_MEMBERS";
const MAIL: Name = Name::from_static("mail");
/// The store sees the end of a process by itself: it waits for no time.
const NEVER: Duration = Duration::MAX;

fn shard(number: u16) -> ShardId {
    ShardId { handler: MAIL, number }
}

async fn declare(store: &SqliteEventStore) {
    let (types, start) = (vec![Name::from_static("Counted")], HandlerStart::Oldest);
    let declared = DeclaredHandler { name: MAIL, group: MAIL, types, shards: 2, start };
    store.declare_handlers(&[declared], Position::START).await.unwrap();
}

async fn join(store: &SqliteEventStore, name: &Name) -> MemberGuard {
    store.join(&Member { name: name.clone(), handlers: BTreeMap::new() }).await.unwrap()
}

async fn acquire(store: &SqliteEventStore, member: &Name) -> Vec<AcquiredShard> {
    store.acquire_shards(member, &[shard(0), shard(1)], NEVER).await.unwrap()
}

async fn heartbeat(store: &SqliteEventStore, member: &Name) -> Heartbeat {
    store.heartbeat(member, &[MAIL], &[], Some(NEVER), NEVER).await.unwrap()
}

fn save(acquired: &AcquiredShard, checkpoint: u64) -> ShardSave {
    ShardSave {
        shard: acquired.shard.clone(),
        epoch: acquired.epoch,
        checkpoint: checkpoint.into(),
        waiting: Vec::new(),
        started: vec![checkpoint.into()],
        has_progressed: false,
        left: BTreeMap::new(),
        rows: Vec::new(),
        finished: Vec::new(),
        is_release: false,
    }
}

/// The files of the locks of a store's members.
fn lock_files(path: &Path) -> Vec<PathBuf> {
    let own = format!("{}.", path.file_name().unwrap().to_str().unwrap());
    let files = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|file| file.unwrap().path());
    let is_lock = |file: &PathBuf| {
        let name = file.file_name().unwrap().to_str().unwrap();
        name.starts_with(&own) && name.ends_with(".member")
    };
    files.filter(is_lock).collect()
}

/// The role of a process that owns both shards and saves their progress; returns at once in an ordinary run.
#[tokio::test]
async fn owner_process() {
    let Ok(path) = env::var(FILE) else {
        return;
    };
    let (store, name) = (open(path.into()).await, Name::new("member", format!("{}", std::process::id())).unwrap());
    declare(&store).await;
    std::mem::forget(join(&store, &name).await);
    for acquired in acquire(&store, &name).await {
        let saved = store.save_shards(&name, None, &[save(&acquired, 7)]).await.unwrap();
        assert_eq!(saved, Saved::Held(BTreeSet::from([acquired.shard])));
    }
    std::io::stdout().lock().write_all(format!("\nowner {name}\n").as_bytes()).unwrap();
    Actor::hear();
}

fn start_owner(path: &Path) -> (Actor, Name) {
    let process = Actor::play("members::owner_process", &[(FILE, path.to_str().unwrap())]);
    let name = Name::new("member", process.until(&["owner "])).unwrap();
    (process, name)
}

#[tokio::test]
async fn shards_of_a_killed_process_are_acquired_at_once() {
    let path = fresh_path();
    let store = open(path.clone()).await;
    let (process, owner) = start_owner(&path);
    let own = Name::from_static("own");
    let _guard = join(&store, &own).await;
    let beat = heartbeat(&store, &own).await;
    assert_eq!((beat.members, beat.free), (BTreeSet::from([own.clone(), owner.clone()]), BTreeSet::new()));
    assert_eq!(acquire(&store, &own).await, []);
    // a process that is stopped lives
    process.signal("STOP");
    assert_eq!(acquire(&store, &own).await, []);
    assert_eq!(lock_files(&path).len(), 2);

    process.kill();
    let beat = heartbeat(&store, &own).await;
    assert_eq!((beat.members, beat.free), (BTreeSet::from([own.clone()]), BTreeSet::from([shard(0), shard(1)])));
    assert_eq!(lock_files(&path).len(), 2, "a heartbeat only reads");
    let acquired = acquire(&store, &own).await;
    assert_eq!(acquired.len(), 2);
    for acquired in acquired {
        assert_eq!((acquired.epoch, acquired.has_crashed, acquired.unclean), (2, true, 1));
        assert_eq!((acquired.checkpoint, acquired.started), (7.into(), vec![7.into()]));
    }
    assert_eq!(lock_files(&path).len(), 1, "the file of the dead process is removed");
    assert_eq!(store.members(&[owner]).await.unwrap(), []);
}

#[tokio::test]
async fn shards_of_a_process_that_returns_without_a_shutdown_are_free_at_once() {
    let path = fresh_path();
    let store = open(path.clone()).await;
    let (mut process, owner) = start_owner(&path);
    process.resume();
    assert!(process.wait().0.success());
    let own = Name::from_static("own");
    assert_eq!(lock_files(&path).len(), 1, "the process has not removed it");
    let _guard = join(&store, &own).await;
    assert_eq!(lock_files(&path).len(), 1, "the next process has");
    assert_eq!(heartbeat(&store, &own).await.members, BTreeSet::from([own.clone()]));
    assert_eq!(acquire(&store, &own).await.len(), 2);
    assert!(store.members(&[owner]).await.unwrap().is_empty());
}

#[tokio::test]
async fn progress_outlives_owners_that_are_killed_in_turn() {
    let path = fresh_path();
    let store = open(path.clone()).await;
    for round in 1..=4 {
        let (process, _) = start_owner(&path);
        process.kill();
        let listed = store.list_handlers().await.unwrap().pop().unwrap();
        for shard in listed.shards {
            assert_eq!((shard.owner, shard.epoch, shard.checkpoint), (None, round, 7.into()));
        }
    }
    assert_eq!(lock_files(&path).len(), 1, "that of the last one");
}

#[tokio::test]
async fn a_member_ends_with_its_guard() {
    let path = fresh_path();
    let (store, other) = (open(path.clone()).await, open(path.clone()).await);
    declare(&store).await;
    let (one, two) = (Name::from_static("one"), Name::from_static("two"));
    let guard = join(&store, &one).await;
    assert_eq!(acquire(&store, &one).await.len(), 2);
    let _guard = join(&other, &two).await;
    assert_eq!(acquire(&other, &two).await, []);
    drop(guard);
    assert_eq!(lock_files(&path).len(), 1);
    assert_eq!(acquire(&other, &two).await.len(), 2);
}

/// Fails if the lock is beside the link: then each process takes the other one for dead.
#[cfg(unix)]
#[tokio::test]
async fn processes_that_name_the_file_by_different_links_see_each_other() {
    let (path, link) = (fresh_path(), fresh_path().with_extension("link"));
    let store = open(path.clone()).await;
    declare(&store).await;
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let linked = open(link).await;
    let (one, two) = (Name::from_static("one"), Name::from_static("two"));
    let _guards = (join(&store, &one).await, join(&linked, &two).await);
    let both = BTreeSet::from([one.clone(), two.clone()]);
    assert_eq!(heartbeat(&store, &one).await.members, both);
    assert_eq!(heartbeat(&linked, &two).await.members, both);
}

/// Fails if the file of a lock is named like its member.
#[tokio::test]
async fn members_have_any_names() {
    let store = open(fresh_path()).await;
    let long = Name::new("member", "ä".repeat(127)).unwrap();
    for name in [Name::from_static("../up/and:down?*"), Name::from_static("."), long] {
        let guard = join(&store, &name).await;
        assert_eq!(heartbeat(&store, &name).await.members, BTreeSet::from([name.clone()]));
        drop(guard);
        assert_eq!(heartbeat(&store, &name).await.members, BTreeSet::new());
    }
}

#[tokio::test]
async fn an_idle_member_writes_nothing() {
    let path = fresh_path();
    let store = open(path.clone()).await;
    declare(&store).await;
    let one = Name::from_static("one");
    let _guard = join(&store, &one).await;
    acquire(&store, &one).await;
    let log = || std::fs::read(format!("{}-wal", path.display())).unwrap();
    let before = log();
    for _ in 0..100 {
        heartbeat(&store, &one).await;
    }
    assert!(log() == before);
}

/// Fails if the gap that an operator leaves counts as a sign of an older copy.
#[tokio::test]
async fn a_save_is_made_after_the_last_read_event_was_deleted() {
    let path = fresh_path();
    let store = open(path.clone()).await;
    declare(&store).await;
    let given = crate::common::events(3);
    let last_read = (2.into(), given[1].event_id());
    store.append(&crate::common::fresh_stream(), ExpectedVersion::NoStream, given).await.unwrap();
    let one = Name::from_static("one");
    let _guard = join(&store, &one).await;
    let saves = [save(&acquire(&store, &one).await[0], 2)];
    let held = Saved::Held(BTreeSet::from([shard(0)]));
    assert_eq!(store.save_shards(&one, Some(last_read), &saves).await.unwrap(), held);
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute("DELETE FROM eventbus_events WHERE position = 2", []).unwrap();
    assert_eq!(store.save_shards(&one, Some(last_read), &saves).await.unwrap(), held);
    let beyond = (store.head().await.unwrap().get() + 1).into();
    let saved = store.save_shards(&one, Some((beyond, last_read.1)), &saves).await.unwrap();
    assert_eq!(saved, Saved::WentBack);
}
