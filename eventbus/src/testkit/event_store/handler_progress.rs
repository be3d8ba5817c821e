//! Rules of the progress of handlers: shards and their leases, saves, dead letters, paused groups.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    time::Duration,
};

use time::{OffsetDateTime, macros::datetime};

use super::store_under_test::{StoreUnderTest, event, stream};
use crate::{
    ExpectedVersion, Name, Position, Uuid,
    domain::{clock::SharedClock, metadata::EventId},
    port::{
        EventStore, HandlerProgress,
        attempts::DeliveryAttempts,
        handler_progress::{
            AcquiredShard, DeadRow, DeclaredHandler, DeliveryRow, Heartbeat, ListedHandler, Member, MemberGuard,
            MemberHandler, NotedHandler, Saved, ShardId, ShardSave,
        },
        subscriber::HandlerStart,
    },
};

const HOUR: Duration = Duration::from_secs(3_600);
/// The lease of an owner that is about to die, in a store whose leases expire.
const SHORT: Duration = Duration::from_millis(50);

const MAIL: Name = Name::from_static("mail");
const AUDIT: Name = Name::from_static("audit:\u{fc} o'brien \"%\"");
const OPENED: Name = Name::from_static("Opened");
const CLOSED: Name = Name::from_static("Closed");
const MOVED: Name = Name::from_static("Moved");
const LATEST: u64 = i64::MAX as u64;
const FIRST_DEATH: OffsetDateTime = datetime!(2026-07-01 12:00:00.000_001 UTC);
const SECOND_DEATH: OffsetDateTime = datetime!(2026-07-01 12:00:00.000_002 UTC);

fn positions(positions: &[u64]) -> Vec<Position> {
    positions.iter().copied().map(Position::new).collect()
}

fn since(types: &[(Name, u64)]) -> BTreeMap<Name, Position> {
    types.iter().map(|(name, position)| (name.clone(), Position::new(*position))).collect()
}

/// Returns a handler of one shard that takes `types` from the oldest event on.
fn handler(name: Name, types: &[Name]) -> DeclaredHandler {
    DeclaredHandler { group: name.clone(), name, types: types.to_vec(), shards: 1, start: HandlerStart::Oldest }
}

fn shard(handler: &Name, number: u16) -> ShardId {
    ShardId { handler: handler.clone(), number }
}

fn shards(handler: &Name, numbers: std::ops::Range<u16>) -> Vec<ShardId> {
    numbers.map(|number| shard(handler, number)).collect()
}

/// Returns a save that brings an acquired shard to a checkpoint with empty lists.
fn save(acquired: &AcquiredShard, checkpoint: u64) -> ShardSave {
    ShardSave {
        shard: acquired.shard.clone(),
        epoch: acquired.epoch,
        checkpoint: checkpoint.into(),
        waiting: Vec::new(),
        started: Vec::new(),
        has_progressed: false,
        left: BTreeMap::new(),
        rows: Vec::new(),
        finished: Vec::new(),
        is_release: false,
    }
}

fn release(acquired: &AcquiredShard) -> ShardSave {
    ShardSave { is_release: true, ..save(acquired, acquired.checkpoint.get()) }
}

fn attempts(error: &str) -> DeliveryAttempts {
    let mut attempts = DeliveryAttempts::undecodable(error.to_owned(), &SharedClock::SYSTEM);
    (attempts.first_failed_at, attempts.last_failed_at) = (Some(1_795_231_024_077), Some(1_795_231_024_078));
    attempts.attempts = 3;
    attempts.done = vec!["it's \"one\"".into(), "two, {three} \\".into()];
    attempts
}

fn waits(position: u64) -> DeliveryRow {
    let attempts = attempts(&format!("failed at {position}: it's \"quoted\" \\ {{,}} NULL, \u{0} and 漢"));
    DeliveryRow { position: position.into(), attempts, dead_since: None, is_held: false }
}

fn dead(position: u64, dead_since: OffsetDateTime) -> DeliveryRow {
    DeliveryRow { dead_since: Some(dead_since), ..waits(position) }
}

fn held(position: u64) -> DeliveryRow {
    DeliveryRow { is_held: true, ..dead(position, FIRST_DEATH) }
}

/// A process that runs handlers; it is alive until this is dropped or, in a store whose leases expire, renews no more.
struct Process {
    name: Name,
    _guard: MemberGuard,
}

/// The progress of the handlers of a store under test.
struct Progress<S>(StoreUnderTest<S>);

impl<S> Clone for Progress<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> Deref for Progress<S> {
    type Target = StoreUnderTest<S>;

    fn deref(&self) -> &StoreUnderTest<S> {
        &self.0
    }
}

impl<S: EventStore> Progress<S> {
    fn new(rule: &'static str, store: S) -> Self {
        Self(StoreUnderTest::new(rule, store))
    }

    #[track_caller]
    fn port(&self) -> &dyn HandlerProgress {
        match self.handler_progress() {
            Some(port) => port,
            None => self.fail("the store has no progress of handlers"),
        }
    }

    async fn declare(&self, declared: &DeclaredHandler, head: u64) -> NotedHandler {
        let noted = self.port().declare_handlers(std::slice::from_ref(declared), head.into()).await;
        let mut noted = self.ok(noted, format_args!("declaring {}", declared.name));
        self.same(noted.len(), 1, "notes of one handler");
        noted.remove(0)
    }

    /// Declares a handler that takes one type and has several shards.
    async fn declare_shards(&self, name: &Name, shards: u16) {
        self.declare(&DeclaredHandler { shards, ..handler(name.clone(), &[OPENED]) }, 0).await;
    }

    async fn join(&self, name: &'static str) -> Process {
        let name = Name::from_static(name);
        let handler = MemberHandler { list: 1, crate_name: "my \"crate\"".into() };
        let member = Member { name: name.clone(), handlers: BTreeMap::from([(MAIL, handler)]) };
        let guard = self.ok(self.port().join(&member).await, format_args!("{name} joining"));
        Process { name, _guard: guard }
    }

    async fn try_acquire(&self, process: &Process, wanted: &[ShardId], ttl: Duration) -> Vec<AcquiredShard> {
        let acquired = self.port().acquire_shards(&process.name, wanted, ttl).await;
        let mut acquired = self.ok(acquired, format_args!("{} acquiring", process.name));
        acquired.sort_by(|one, two| one.shard.cmp(&two.shard));
        acquired
    }

    /// Acquires a free shard.
    async fn acquire(&self, process: &Process, wanted: &ShardId, ttl: Duration) -> AcquiredShard {
        match self.try_acquire(process, std::slice::from_ref(wanted), ttl).await.pop() {
            Some(acquired) => acquired,
            None => self.fail(format_args!("{} cannot acquire the free shard {wanted}", process.name)),
        }
    }

    /// Acquires a shard whose owner is dead.
    async fn take_over(&self, process: &Process, wanted: &ShardId, ttl: Duration) -> AcquiredShard {
        let wanted = std::slice::from_ref(wanted);
        let acquire = async {
            loop {
                match self.try_acquire(process, wanted, ttl).await.pop() {
                    Some(acquired) => return acquired,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        self.within("taking over a shard", acquire).await
    }

    async fn save_after(
        &self,
        process: &Process,
        last_read: Option<(Position, EventId)>,
        saves: &[ShardSave],
    ) -> Saved {
        let saved = self.port().save_shards(&process.name, last_read, saves).await;
        self.ok(saved, format_args!("{} saving", process.name))
    }

    /// Returns the shards of which a save was made.
    async fn try_save(&self, process: &Process, saves: &[ShardSave]) -> Vec<ShardId> {
        match self.save_after(process, None, saves).await {
            Saved::Held(held) => held.into_iter().collect(),
            Saved::WentBack => self.fail("a save names no event, and the store went back"),
        }
    }

    /// Saves the progress of shards that the process owns.
    async fn save(&self, process: &Process, saves: &[ShardSave]) {
        let wanted: BTreeSet<_> = saves.iter().map(|save| save.shard.clone()).collect();
        let saved = self.try_save(process, saves).await;
        self.same(saved, wanted.into_iter().collect(), "shards whose progress is saved by their owner");
    }

    async fn heartbeat_with(
        &self,
        process: &Process,
        owned: &[&AcquiredShard],
        renew_for: Option<Duration>,
        live_for: Duration,
    ) -> Heartbeat {
        let owned: Vec<_> = owned.iter().map(|acquired| (acquired.shard.clone(), acquired.epoch)).collect();
        let beat = self.port().heartbeat(&process.name, &[MAIL, AUDIT], &owned, renew_for, live_for).await;
        self.ok(beat, format_args!("{} in a heartbeat", process.name))
    }

    async fn heartbeat(&self, process: &Process, owned: &[&AcquiredShard]) -> Heartbeat {
        self.heartbeat_with(process, owned, None, HOUR).await
    }

    async fn rows(&self, handler: &Name, number: u16) -> Vec<DeliveryRow> {
        let wanted = shard(handler, number);
        let rows = self.port().live_rows(std::slice::from_ref(&wanted)).await;
        let mut rows = self.ok(rows, format_args!("loading the rows of {wanted}"));
        let found = rows.remove(&wanted).unwrap_or_default();
        self.check(rows.is_empty(), format_args!("rows of other shards than {wanted}: {rows:?}"));
        found
    }

    async fn listed(&self) -> Vec<ListedHandler> {
        self.ok(self.port().list_handlers().await, "listing the handlers")
    }

    /// Lists the only handler of the store.
    async fn listed_one(&self) -> ListedHandler {
        let mut listed = self.listed().await;
        self.same(listed.len(), 1, "listed handlers");
        listed.remove(0)
    }

    async fn replay(&self, handler: &Name, position: u64) -> bool {
        self.ok(self.port().replay_dead(handler, position.into()).await, format_args!("replaying {position}"))
    }

    async fn discard(&self, handler: &Name, position: u64) -> bool {
        self.ok(self.port().discard_dead(handler, position.into()).await, format_args!("discarding {position}"))
    }

    async fn pause(&self, group: &Name, is_paused: bool) {
        self.ok(self.port().set_paused(group, is_paused).await, format_args!("pausing {group}: {is_paused}"));
    }

    async fn create(&self, name: &Name, after: u64) -> bool {
        self.ok(self.port().create_handler(name, after.into()).await, format_args!("creating {name}"))
    }

    async fn retire(&self, name: &Name) -> Option<u64> {
        self.ok(self.port().retire_handler(name).await, format_args!("retiring {name}"))
    }
}

/// A handler that is declared for the first time gets its shards, which begin at the oldest event or at the head.
pub async fn a_declared_handler_gets_its_shards<S: EventStore>(store: S) {
    let store = Progress::new("a_declared_handler_gets_its_shards", store);
    store.same(store.listed().await, Vec::new(), "handlers of a new store");
    let oldest = DeclaredHandler { shards: 3, ..handler(MAIL, &[CLOSED, OPENED]) };
    let now = DeclaredHandler { group: MAIL, start: HandlerStart::Now, ..handler(AUDIT, &[OPENED]) };
    let noted = store.ok(store.port().declare_handlers(&[oldest, now], LATEST.into()).await, "declaring two handlers");
    let types = [since(&[(CLOSED, 0), (OPENED, 0)]), since(&[(OPENED, LATEST)])];
    store.same(noted.iter().map(|noted| noted.name.clone()).collect(), vec![MAIL, AUDIT], "declared handlers");
    store.same(noted.iter().map(|noted| noted.types.clone()).collect(), types.to_vec(), "where the types begin");
    for listed in store.listed().await {
        let (name, shards, checkpoint) = if listed.noted.name == MAIL { (&MAIL, 3, 0) } else { (&AUDIT, 1, LATEST) };
        let note = noted.iter().find(|noted| noted.name == *name);
        store.same(Some(&listed.noted), note, "the listed note");
        store.same(&listed.noted.group, &MAIL, "the group");
        store.same(listed.noted.shards, shards, format_args!("noted shards of {name}"));
        let numbers: Vec<_> = listed.shards.iter().map(|shard| (shard.number, shard.checkpoint.get())).collect();
        store.same(numbers, (0..shards).map(|number| (number, checkpoint)).collect(), format_args!("shards of {name}"));
        let is_unused = listed.shards.iter().all(|shard| shard.owner.is_none() && shard.epoch == 0);
        store.check(is_unused, format_args!("a shard of {name} has an owner before a process acquires it"));
    }
    store.same(store.listed().await.len(), 2, "listed handlers");
}

/// The types that a handler newly takes are left before each shard that exists, from where on they count.
pub async fn new_types_are_left_by_each_shard<S: EventStore>(store: S) {
    let store = Progress::new("new_types_are_left_by_each_shard", store);
    store.declare_shards(&MAIL, 2).await;
    let process = store.join("one").await;
    let acquired = store.acquire(&process, &shard(&MAIL, 1), HOUR).await;
    store.same(acquired.left, BTreeMap::new(), "types left by a new shard");
    let older = handler(MAIL, &[CLOSED, OPENED]);
    let now = DeclaredHandler { start: HandlerStart::Now, ..handler(MAIL, &[MOVED, OPENED]) };
    for declared in [older, now] {
        store.declare(&declared, 12).await;
    }
    let wanted = since(&[(CLOSED, 0), (MOVED, 12)]);
    let listed = store.listed_one().await;
    store.same(listed.noted.types, since(&[(OPENED, 0), (CLOSED, 0), (MOVED, 12)]), "all types ever declared");
    for shard in listed.shards {
        store.same(&shard.left, &wanted, format_args!("types left by shard {}", shard.number));
    }
    let acquired = store.acquire(&process, &shard(&MAIL, 0), HOUR).await;
    store.same(acquired.left, wanted, "types left by an acquired shard");
}

/// Each distinct list of types has a number, and keeps it; the group is the one that was declared last.
pub async fn lists_of_types_keep_their_numbers<S: EventStore>(store: S) {
    let store = Progress::new("lists_of_types_keep_their_numbers", store);
    let lists = [vec![OPENED], vec![CLOSED, OPENED], vec![CLOSED]];
    for number in [1, 2, 1, 3, 2] {
        let list = &lists[number - 1];
        let noted = store.declare(&handler(MAIL, list), 0).await;
        store.same(noted.list_number(list) as usize, number, format_args!("the number of {list:?}"));
    }
    let noted = store.declare(&DeclaredHandler { group: AUDIT, ..handler(MAIL, &lists[0]) }, 0).await;
    store.same(noted.lists, lists.to_vec(), "the declared lists");
    store.same(store.listed_one().await.noted.group, AUDIT, "the group that was declared last");
}

/// A handler that is declared as it is noted stays as it is, with the number of its shards and all progress.
pub async fn declaring_again_changes_nothing<S: EventStore>(store: S) {
    let store = Progress::new("declaring_again_changes_nothing", store);
    let declared = DeclaredHandler { shards: 2, start: HandlerStart::Now, ..handler(MAIL, &[OPENED]) };
    let noted = store.declare(&declared, 7).await;
    let process = store.join("one").await;
    let acquired = store.acquire(&process, &shard(&MAIL, 0), HOUR).await;
    store.save(&process, &[ShardSave { rows: vec![waits(9)], ..save(&acquired, 12) }]).await;
    let before = store.listed().await;
    for declared in [declared.clone(), DeclaredHandler { shards: 8, ..declared }] {
        let again = store.declare(&declared, 40).await;
        store.same(again, noted.clone(), "the note of a handler that is declared again");
    }
    store.same(store.listed().await, before, "handlers after a declaration that says nothing new");
}

/// Processes that declare a handler concurrently get one note, in which each list has a number.
pub async fn concurrent_declarations_are_one<S: EventStore>(store: S) {
    let store = Progress::new("concurrent_declarations_are_one", store);
    let declared = store
        .at_once(8, |task| {
            let store = store.clone();
            async move {
                let own = store.ok(Name::new("event type", format!("Own{task}")), "naming a type");
                let one = DeclaredHandler { shards: 4, ..handler(MAIL, std::slice::from_ref(&own)) };
                let two = DeclaredHandler { shards: 4, ..handler(AUDIT, std::slice::from_ref(&own)) };
                let both = if task % 2 == 0 { [one, two] } else { [two, one] };
                let noted = store.ok(store.port().declare_handlers(&both, 0.into()).await, "declaring concurrently");
                noted.iter().map(|noted| noted.list_number(std::slice::from_ref(&own))).collect::<Vec<_>>()
            }
        })
        .await;
    store.check(declared.iter().flatten().all(|number| *number > 0), "a declared list has no number");
    for listed in store.listed().await {
        store.same(listed.noted.lists.len(), 8, "lists that were declared concurrently");
        store.same(listed.noted.types.len(), 8, "types that were declared concurrently");
        store.same(listed.shards.len(), 4, "shards");
        // the types of the first declaration are in the checkpoint, those of the other seven are left before it
        store.check(listed.shards.iter().all(|shard| shard.left.len() == 7), format_args!("{:?}", listed.shards));
    }
}

/// A free shard goes to one process, with a new epoch; no other can acquire it while that process lives.
pub async fn a_shard_has_one_owner<S: EventStore>(store: S) {
    let store = Progress::new("a_shard_has_one_owner", store);
    store.declare_shards(&MAIL, 2).await;
    let (one, two) = (store.join("one").await, store.join("two").await);
    let unknown = [shard(&AUDIT, 0), shard(&MAIL, 2)];
    store.same(store.try_acquire(&one, &unknown, HOUR).await, Vec::new(), "shards that no handler has");
    let first = store.acquire(&one, &shard(&MAIL, 0), HOUR).await;
    let wanted = AcquiredShard {
        shard: shard(&MAIL, 0),
        epoch: 1,
        has_crashed: false,
        unclean: 0,
        changes: 0,
        checkpoint: Position::START,
        waiting: Vec::new(),
        started: Vec::new(),
        left: BTreeMap::new(),
    };
    store.same(first, wanted, "the first shard");
    let rest = store.try_acquire(&two, &shards(&MAIL, 0..2), HOUR).await;
    store.same(rest.iter().map(|acquired| acquired.shard.number).collect(), vec![1], "shards that another can acquire");
    let owners: Vec<_> = store.listed_one().await.shards.into_iter().map(|shard| shard.owner).collect();
    store.same(owners, vec![Some(one.name.clone()), Some(two.name.clone())], "the owners of the shards");
}

/// A process acquires its own shard again, with a new epoch and without a crash, after it has lost the answer.
pub async fn an_own_shard_is_acquired_again<S: EventStore>(store: S) {
    let store = Progress::new("an_own_shard_is_acquired_again", store);
    store.declare_shards(&MAIL, 2).await;
    let (one, two) = (store.join("one").await, store.join("two").await);
    let first = store.acquire(&one, &shard(&MAIL, 0), HOUR).await;
    let other = store.acquire(&one, &shard(&MAIL, 1), HOUR).await;
    let beat = store.heartbeat(&one, &[&other]).await;
    store.same(beat.free, BTreeSet::from([shard(&MAIL, 0)]), "own shards that are not named");
    store.same(store.heartbeat(&two, &[]).await.free, BTreeSet::new(), "free shards for another process");
    let again = store.acquire(&one, &shard(&MAIL, 0), HOUR).await;
    store.same((again.epoch, again.has_crashed, again.unclean), (2, false, 0), "epoch, crash, unclean ends");
    store.same(store.try_save(&one, &[save(&first, 9)]).await, Vec::new(), "saves of the former ownership");
    store.save(&one, &[save(&again, 9)]).await;
}

/// Of processes that acquire shards concurrently each shard goes to one.
pub async fn one_of_racing_processes_gets_a_shard<S: EventStore>(store: S) {
    let store = Progress::new("one_of_racing_processes_gets_a_shard", store);
    store.declare_shards(&MAIL, 8).await;
    let names = ["one", "two", "three", "four", "five", "six"];
    for round in 1..=5 {
        let won = store
            .at_once(names.len(), |task| {
                let store = store.clone();
                async move {
                    let process = store.join(names[task]).await;
                    let mut wanted = shards(&MAIL, 0..8);
                    wanted.rotate_left(task);
                    let acquired = store.try_acquire(&process, &wanted, HOUR).await;
                    (process, acquired)
                }
            })
            .await;
        let mut numbers: Vec<_> =
            won.iter().flat_map(|(_, won)| won).map(|won| (won.shard.number, won.epoch)).collect();
        numbers.sort_unstable();
        store.same(numbers, (0..8).map(|number| (number, round)).collect(), "acquired shards and their epochs");
        for (process, won) in &won {
            store.save(process, &won.iter().map(release).collect::<Vec<_>>()).await;
        }
    }
}

/// A shard that its owner releases is free at once, and its next owner finds no crash.
pub async fn a_released_shard_is_free_at_once<S: EventStore>(store: S) {
    let store = Progress::new("a_released_shard_is_free_at_once", store);
    store.declare_shards(&MAIL, 1).await;
    let (one, two) = (store.join("one").await, store.join("two").await);
    let first = store.acquire(&one, &shard(&MAIL, 0), HOUR).await;
    store.same(store.heartbeat(&two, &[]).await.free, BTreeSet::new(), "free shards before the release");
    let last = ShardSave { waiting: positions(&[3]), rows: vec![waits(2)], ..release(&first) };
    store.save(&one, &[ShardSave { checkpoint: 5.into(), ..last }]).await;
    let beat = store.heartbeat(&one, &[&first]).await;
    store.same((beat.held.len(), beat.free), (0, BTreeSet::from([shard(&MAIL, 0)])), "held and free shards");
    store.same(store.listed_one().await.shards[0].owner.clone(), None, "the owner of a released shard");
    let second = store.acquire(&two, &shard(&MAIL, 0), HOUR).await;
    store.same((second.epoch, second.has_crashed, second.unclean), (2, false, 0), "epoch, crash, unclean ends");
    store.same((second.checkpoint, second.waiting), (5.into(), positions(&[3])), "progress of the release");
    store.same(store.rows(&MAIL, 0).await, vec![waits(2)], "rows of the release");
    store.same(store.try_save(&one, &[save(&first, 9)]).await, Vec::new(), "saves after the release");
}

/// A shard is free when its owner is dead, and its next owner finds the crash.
pub async fn a_shard_of_a_dead_owner_is_free<S: EventStore>(store: S) {
    let store = Progress::new("a_shard_of_a_dead_owner_is_free", store);
    store.declare_shards(&MAIL, 2).await;
    let (one, two) = (store.join("one").await, store.join("two").await);
    let kept = store.acquire(&two, &shard(&MAIL, 1), HOUR).await;
    store.acquire(&one, &shard(&MAIL, 0), SHORT).await;
    drop(one);
    let freed = async {
        while store.heartbeat(&two, &[&kept]).await.free.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    store.within("waiting for a free shard", freed).await;
    let listed = store.listed_one().await.shards;
    store.same(listed[0].owner.clone(), None, "the owner of the shard of a dead process");
    store.same(listed[1].owner.as_ref(), Some(&two.name), "the owner of the other shard");
    let taken = store.acquire(&two, &shard(&MAIL, 0), HOUR).await;
    store.same((taken.epoch, taken.has_crashed, taken.unclean), (2, true, 1), "epoch, crash, unclean ends");
}

/// Owners in a row that die are counted until one of them saves that an event has ended.
pub async fn deaths_are_counted_until_a_shard_progresses<S: EventStore>(store: S) {
    let store = Progress::new("deaths_are_counted_until_a_shard_progresses", store);
    store.declare_shards(&MAIL, 1).await;
    let shard = shard(&MAIL, 0);
    let mut acquired = store.acquire(&store.join("first").await, &shard, SHORT).await;
    let lives = [("second", None, 1), ("third", Some(false), 2), ("fourth", Some(true), 3), ("fifth", None, 1)];
    for (name, has_progressed, unclean) in lives {
        let process = store.join(name).await;
        let epoch = acquired.epoch + 1;
        acquired = store.take_over(&process, &shard, SHORT).await;
        let found = (acquired.epoch, acquired.has_crashed, acquired.unclean);
        store.same(found, (epoch, true, unclean), format_args!("epoch, crash and unclean ends for the {name}"));
        if let Some(has_progressed) = has_progressed {
            store.save(&process, &[ShardSave { has_progressed, ..save(&acquired, 4) }]).await;
        }
    }
    let process = store.join("sixth").await;
    acquired = store.take_over(&process, &shard, SHORT).await;
    store.save(&process, &[release(&acquired)]).await;
    let after_release = store.acquire(&process, &shard, HOUR).await;
    store.same(
        (after_release.has_crashed, after_release.unclean),
        (false, 2),
        "crash and unclean ends after a release",
    );
}

/// A heartbeat that renews keeps the shards of its process, and tells which it still owns.
pub async fn renewed_shards_are_kept<S: EventStore>(store: S) {
    let store = Progress::new("renewed_shards_are_kept", store);
    store.declare_shards(&MAIL, 3).await;
    let (one, two) = (store.join("one").await, store.join("two").await);
    let ttl = if store.port().lease_ends_with_process() { HOUR } else { Duration::ZERO };
    let first = store.acquire(&one, &shard(&MAIL, 0), ttl).await;
    let second = store.acquire(&one, &shard(&MAIL, 1), HOUR).await;
    let foreign = store.acquire(&two, &shard(&MAIL, 2), HOUR).await;
    let former = AcquiredShard { epoch: second.epoch + 1, ..second.clone() };
    let beat = store.heartbeat_with(&one, &[&first, &former, &foreign], Some(HOUR), HOUR).await;
    store.same(beat.held, BTreeMap::from([(shard(&MAIL, 0), 0)]), "held shards");
    store.same(beat.free, BTreeSet::from([shard(&MAIL, 1)]), "own shards that are named in another epoch");
    let all = store.try_acquire(&two, &shards(&MAIL, 0..2), HOUR).await;
    store.same(all, Vec::new(), "shards that another process acquires after the renewal");
    let beat = store.heartbeat(&one, &[&first, &second]).await;
    store.same(beat.held.into_keys().collect(), shards(&MAIL, 0..2), "held shards without a renewal");
}

/// A save with the epoch of a former owner, or by a process that does not own the shard, changes nothing, also beside
/// one that is made.
pub async fn a_former_owner_saves_nothing<S: EventStore>(store: S) {
    let store = Progress::new("a_former_owner_saves_nothing", store);
    store.declare_shards(&MAIL, 3).await;
    let (one, two) = (store.join("one").await, store.join("two").await);
    let former = store.acquire(&one, &shard(&MAIL, 0), HOUR).await;
    store.save(&one, &[ShardSave { rows: vec![waits(2)], ..release(&former) }]).await;
    let current = store.acquire(&one, &shard(&MAIL, 0), HOUR).await;
    let foreign = store.acquire(&two, &shard(&MAIL, 1), HOUR).await;
    let own = store.acquire(&one, &shard(&MAIL, 2), HOUR).await;
    let before = store.listed_one().await;
    let all_of = |acquired: &AcquiredShard| ShardSave {
        waiting: positions(&[6]),
        started: positions(&[7]),
        left: BTreeMap::from([(CLOSED, Some(5.into()))]),
        rows: vec![
            waits(u64::from(acquired.shard.number) + 10),
            dead(u64::from(acquired.shard.number) + 20, FIRST_DEATH),
        ],
        finished: positions(&[u64::from(acquired.shard.number) + 2]),
        is_release: true,
        ..save(acquired, 9)
    };
    let refused = [all_of(&former), all_of(&foreign)];
    store.same(store.try_save(&one, &refused).await, Vec::new(), "shards that are saved by others than their owner");
    store.same(&store.listed_one().await, &before, "handlers after a refused save");
    store.same(store.rows(&MAIL, 0).await, vec![waits(2)], "rows after a refused save");
    let [of_former, of_foreign] = refused;
    let saved = store.try_save(&one, &[of_foreign, all_of(&own), of_former]).await;
    store.same(saved, vec![shard(&MAIL, 2)], "shards that are saved beside those of others");
    let listed = store.listed_one().await;
    store.same(&listed.shards[..2], &before.shards[..2], "the shards of others");
    store.same(listed.shards[2].checkpoint, 9.into(), "the own shard");
    store.same(store.rows(&MAIL, 0).await, vec![waits(2)], "rows of the current owner");
    store.same(store.rows(&MAIL, 1).await, Vec::new(), "rows of another owner");
    store.same(store.rows(&MAIL, 2).await, vec![waits(12)], "own rows");
    store.save(&one, &[save(&current, 3)]).await;
}

/// A save moves checkpoint, lists, left types and rows together, and its shard's next owner finds them.
pub async fn progress_is_saved_together<S: EventStore>(store: S) {
    let store = Progress::new("progress_is_saved_together", store);
    store.declare(&DeclaredHandler { shards: 2, ..handler(MAIL, &[CLOSED, OPENED]) }, 0).await;
    let (one, two) = (store.join("one").await, store.join("two").await);
    let first = store.acquire(&one, &shard(&MAIL, 0), HOUR).await;
    let other = store.acquire(&one, &shard(&MAIL, 1), HOUR).await;
    let of_first = ShardSave {
        waiting: positions(&[5, 6, LATEST - 1]),
        started: positions(&[2, 4]),
        left: BTreeMap::from([(CLOSED, Some(3.into())), (MOVED, Some(LATEST.into()))]),
        rows: vec![waits(1), waits(3), dead(7, FIRST_DEATH), waits(LATEST)],
        ..save(&first, LATEST)
    };
    let of_other = ShardSave { started: positions(&[8]), rows: vec![waits(8)], ..save(&other, 8) };
    store.save(&one, &[of_other, of_first]).await;
    let listed = store.listed_one().await;
    store.same((listed.waiting_rows, listed.dead_rows), (4, 1), "listed rows that wait and that are dead");
    let lists: Vec<_> =
        listed.shards.iter().map(|shard| (shard.checkpoint.get(), shard.waiting, shard.started)).collect();
    store.same(lists, vec![(LATEST, 3, 2), (8, 0, 1)], "listed checkpoints, with events that wait and that run");
    store.same(store.rows(&MAIL, 0).await, vec![waits(1), waits(3), waits(LATEST)], "rows of the first shard");
    store.same(store.rows(&MAIL, 1).await, vec![waits(8)], "rows of the other shard");
    let parked = DeliveryRow { attempts: DeliveryAttempts::default(), ..waits(3) };
    let later = ShardSave {
        started: positions(&[6]),
        left: BTreeMap::from([(CLOSED, None), (OPENED, Some(4.into())), (AUDIT, None)]),
        rows: vec![parked.clone(), waits(6)],
        finished: positions(&[1, LATEST, 99]),
        ..save(&first, 6)
    };
    store.save(&one, std::slice::from_ref(&later)).await;
    let last = ShardSave { rows: Vec::new(), finished: Vec::new(), left: BTreeMap::new(), is_release: true, ..later };
    store.save(&one, &[last]).await;
    let found = store.acquire(&two, &shard(&MAIL, 0), HOUR).await;
    let wanted = AcquiredShard {
        epoch: 2,
        checkpoint: 6.into(),
        started: positions(&[6]),
        left: since(&[(MOVED, LATEST), (OPENED, 4)]),
        ..first
    };
    store.same(found, wanted, "the shard as its next owner finds it");
    store.same(store.rows(&MAIL, 0).await, vec![parked, waits(6)], "rows as the next owner finds them");
    let dead = store.ok(store.port().dead_row(&MAIL, 7.into()).await, "asking for a dead letter");
    store.check(dead.is_some(), "a dead letter is gone after later saves");
}

/// A process that has read an event which the store does not have saves nothing: the store was replaced by an older
/// copy.
pub async fn no_progress_is_saved_after_the_store_went_back<S: EventStore>(store: S) {
    let store = Progress::new("no_progress_is_saved_after_the_store_went_back", store);
    store.declare_shards(&MAIL, 1).await;
    let process = store.join("one").await;
    let acquired = store.acquire(&process, &shard(&MAIL, 0), HOUR).await;
    let recorded = store.add(&stream(), ExpectedVersion::NoStream, &[event(), event()]).await;
    let [first, second] =
        [&recorded[0], &recorded[1]].map(|event| (event.position().unwrap_or_default(), event.metadata().event_id()));
    let of_saves = |checkpoint| {
        let plain = save(&acquired, checkpoint);
        [
            plain.clone(),
            ShardSave { rows: vec![waits(checkpoint)], ..plain.clone() },
            ShardSave { is_release: true, ..plain },
        ]
    };
    let unknown = EventId::from(Uuid::from_u128(7));
    for last_read in [(second.0, unknown), (second.0, first.1), (LATEST.into(), second.1), (Position::START, first.1)] {
        for save in of_saves(1) {
            let saved = store.save_after(&process, Some(last_read), &[save]).await;
            store.same(saved, Saved::WentBack, format_args!("a save after reading {last_read:?}"));
        }
    }
    let shard = store.listed_one().await.shards.remove(0);
    store.same((shard.checkpoint, shard.owner), (Position::START, Some(process.name.clone())), "the shard");
    store.same(store.rows(&MAIL, 0).await, Vec::new(), "rows");
    for (last_read, checkpoint) in [(first, 2), (second, 3)] {
        for save in of_saves(checkpoint).into_iter().take(2) {
            let held = Saved::Held(BTreeSet::from([save.shard.clone()]));
            store.same(store.save_after(&process, Some(last_read), &[save]).await, held, "a save after a stored event");
        }
    }
    store.same(store.rows(&MAIL, 0).await, vec![waits(2), waits(3)], "rows after a stored event");
    store.same(store.save_after(&process, Some((second.0, unknown)), &[]).await, Saved::WentBack, "a save of no shard");
}

/// An owner loads the rows of its shards that wait or are held, and no dead letter that was passed.
pub async fn rows_that_wait_or_are_held_are_live<S: EventStore>(store: S) {
    let store = Progress::new("rows_that_wait_or_are_held_are_live", store);
    store.declare_shards(&MAIL, 2).await;
    store.declare_shards(&AUDIT, 1).await;
    store.same(store.ok(store.port().live_rows(&[]).await, "loading no rows"), BTreeMap::new(), "rows of no shard");
    let process = store.join("one").await;
    let one = store.acquire(&process, &shard(&MAIL, 0), HOUR).await;
    let two = store.acquire(&process, &shard(&MAIL, 1), HOUR).await;
    let audit = store.acquire(&process, &shard(&AUDIT, 0), HOUR).await;
    let of_one = ShardSave { rows: vec![waits(9), dead(4, FIRST_DEATH), held(5), waits(2)], ..save(&one, 9) };
    let of_two = ShardSave { rows: vec![waits(3)], ..save(&two, 9) };
    let of_audit = ShardSave { rows: vec![waits(2), dead(9, FIRST_DEATH)], ..save(&audit, 9) };
    store.save(&process, &[of_one, of_two, of_audit]).await;
    let wanted = [shard(&MAIL, 0), shard(&AUDIT, 0), shard(&AUDIT, 1)];
    let found = store.ok(store.port().live_rows(&wanted).await, "loading rows");
    let one = (shard(&MAIL, 0), vec![waits(2), held(5), waits(9)]);
    store.same(found, BTreeMap::from([one, (shard(&AUDIT, 0), vec![waits(2)])]), "live rows");
    store.same(store.rows(&MAIL, 1).await, vec![waits(3)], "live rows of the other shard");
}

/// The dead letters of all handlers are listed oldest first, page by page, held ones among them.
pub async fn dead_rows_are_listed_oldest_first<S: EventStore>(store: S) {
    let store = Progress::new("dead_rows_are_listed_oldest_first", store);
    store.declare_shards(&MAIL, 1).await;
    store.declare_shards(&AUDIT, 1).await;
    let process = store.join("one").await;
    let mail = store.acquire(&process, &shard(&MAIL, 0), HOUR).await;
    let audit = store.acquire(&process, &shard(&AUDIT, 0), HOUR).await;
    let of_mail = vec![waits(1), dead(5, SECOND_DEATH), held(9), dead(LATEST, SECOND_DEATH)];
    let of_mail = ShardSave { rows: of_mail, ..save(&mail, 9) };
    let of_audit = vec![dead(5, SECOND_DEATH), dead(6, SECOND_DEATH)];
    store.save(&process, &[of_mail, ShardSave { rows: of_audit, ..save(&audit, 9) }]).await;
    for (at_most, counted) in [(u64::MAX, 5), (5, 5), (3, 3), (0, 0)] {
        let count = store.ok(store.port().count_dead_rows(at_most).await, "counting");
        store.same(count, counted, format_args!("dead letters, up to {at_most}"));
    }
    for limit in [1, 2, 3, 10] {
        let mut all: Vec<DeadRow> = Vec::new();
        loop {
            let page = store.ok(store.port().dead_rows(all.last(), limit).await, "asking for dead letters");
            store.check(page.len() <= limit, format_args!("{} dead letters in a page of {limit}", page.len()));
            if page.is_empty() {
                break;
            }
            all.extend(page);
            store.check(all.len() <= 5, format_args!("pages of {limit} repeat: {all:#?}"));
        }
        store.check(all.iter().map(|dead| dead.dead_since).is_sorted(), format_args!("not oldest first: {all:#?}"));
        let mut found: Vec<_> = all.iter().map(|dead| (dead.handler.clone(), dead.position.get())).collect();
        found.sort();
        let wanted = vec![(AUDIT, 5), (AUDIT, 6), (MAIL, 5), (MAIL, 9), (MAIL, LATEST)];
        store.same(found, wanted, format_args!("pages of {limit}"));
        store.check(all.iter().all(|dead| dead.attempts == waits(dead.position.get()).attempts), "their attempts");
    }
    let one = store.ok(store.port().dead_row(&MAIL, 9.into()).await, "asking for one");
    let attempts = waits(9).attempts;
    let wanted = DeadRow { handler: MAIL, position: 9.into(), attempts, dead_since: FIRST_DEATH, is_held: true };
    store.same(one, Some(wanted), "one dead letter");
    for (handler, position) in [(MAIL, 1), (MAIL, 2), (AUDIT, 9)] {
        let none = store.ok(store.port().dead_row(&handler, position.into()).await, "asking for none");
        store.same(none, None, format_args!("no dead letter of {handler} at {position}"));
    }
}

/// A replay or its discard ends a dead letter once, changes no row that waits, and tells the owner at its next heartbeat.
pub async fn a_dead_row_ends_once<S: EventStore>(store: S) {
    let store = Progress::new("a_dead_row_ends_once", store);
    store.declare_shards(&MAIL, 2).await;
    let process = store.join("one").await;
    let one = store.acquire(&process, &shard(&MAIL, 0), HOUR).await;
    let two = store.acquire(&process, &shard(&MAIL, 1), HOUR).await;
    let rows = vec![waits(1), dead(5, FIRST_DEATH), held(6), dead(7, FIRST_DEATH), held(8)];
    let of_two = ShardSave { rows: vec![dead(2, FIRST_DEATH)], ..save(&two, 9) };
    store.save(&process, &[ShardSave { rows, ..save(&one, 9) }, of_two]).await;
    store.same(
        store.heartbeat(&process, &[&one]).await.held,
        BTreeMap::from([(shard(&MAIL, 0), 0)]),
        "changes at first",
    );
    for (handler, position) in [(&MAIL, 1), (&MAIL, 3), (&AUDIT, 5)] {
        store.check(!store.replay(handler, position).await, format_args!("{handler} {position} is replayed"));
        store.check(!store.discard(handler, position).await, format_args!("{handler} {position} is discarded"));
    }
    for position in [5, 6] {
        store.check(store.replay(&MAIL, position).await, "a dead letter is not replayed");
        store.check(!store.replay(&MAIL, position).await, "a replayed dead letter is replayed again");
        store.check(!store.discard(&MAIL, position).await, "a replayed dead letter is discarded");
    }
    for position in [7, 8] {
        store.check(store.discard(&MAIL, position).await, "a dead letter is not discarded");
        store.check(!store.replay(&MAIL, position).await, "a discarded dead letter is replayed");
        store.check(!store.discard(&MAIL, position).await, "a discarded dead letter is discarded again");
    }
    let again = |position| DeliveryRow { attempts: DeliveryAttempts::default(), ..waits(position) };
    store.same(store.rows(&MAIL, 0).await, vec![waits(1), again(5), again(6)], "rows after replays and discards");
    store.same(store.ok(store.port().count_dead_rows(9).await, "counting"), 1, "dead letters left");
    let changes = BTreeMap::from([(shard(&MAIL, 0), 4), (shard(&MAIL, 1), 0)]);
    store.same(store.heartbeat(&process, &[&one, &two]).await.held, changes, "changes of each shard");
    store.save(&process, &[release(&one)]).await;
    store.same(store.acquire(&process, &shard(&MAIL, 0), HOUR).await.changes, 4, "changes for the next owner");
}

/// A heartbeat shows the free shards of the given handlers alone, and the live members.
pub async fn a_look_shows_free_shards_and_members<S: EventStore>(store: S) {
    let store = Progress::new("a_look_shows_free_shards_and_members", store);
    store.declare_shards(&MAIL, 2).await;
    store.declare_shards(&AUDIT, 1).await;
    let (one, two) = (store.join("one").await, store.join("two").await);
    let first = store.acquire(&one, &shard(&MAIL, 1), HOUR).await;
    let beat = store.heartbeat(&one, &[&first]).await;
    store.same(beat.held, BTreeMap::from([(shard(&MAIL, 1), 0)]), "held shards");
    store.same(beat.free, BTreeSet::from([shard(&MAIL, 0), shard(&AUDIT, 0)]), "free shards");
    store.same(beat.members, BTreeSet::from([one.name.clone(), two.name.clone()]), "members");
    store.same(beat.paused, BTreeSet::new(), "paused groups");
    let of_mail =
        store.ok(store.port().heartbeat(&two.name, &[MAIL], &[], None, HOUR).await, "in a heartbeat for one handler");
    store.same(of_mail.free, BTreeSet::from([shard(&MAIL, 0)]), "free shards of one handler");
}

/// A member that has left or died is gone; the others are known with their handlers.
pub async fn members_that_end_are_gone<S: EventStore>(store: S) {
    let store = Progress::new("members_that_end_are_gone", store);
    let (one, two, three) = (store.join("one").await, store.join("two").await, store.join("three").await);
    let names = [&one, &two, &three].map(|process| process.name.clone());
    let mut members = store.ok(store.port().members(&names[..2]).await, "asking for members");
    members.sort_by(|one, two| one.name.cmp(&two.name));
    let found: Vec<_> = members.iter().map(|member| member.name.clone()).collect();
    store.same(found, names[..2].to_vec(), "the members that were asked for");
    let wanted = MemberHandler { list: 1, crate_name: "my \"crate\"".into() };
    store.same(members[1].handlers.clone(), BTreeMap::from([(MAIL, wanted)]), "the handlers of a member");
    store.ok(store.port().leave(&two.name).await, "leaving");
    store.ok(store.port().leave(&two.name).await, "leaving again");
    let live = store.heartbeat(&one, &[]).await.members;
    store.same(live, BTreeSet::from([one.name.clone(), three.name.clone()]), "members after one has left");
    let left = store.ok(store.port().members(std::slice::from_ref(&two.name)).await, "asking for one that has left");
    store.same(left, Vec::new(), "the member that has left");
    drop(three);
    // where leases expire, a member is dead after a time without a renewal
    let dead = async {
        while store.heartbeat_with(&one, &[], Some(HOUR), SHORT).await.members.len() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    store.within("waiting for a dead member", dead).await;
    let live = store.heartbeat_with(&one, &[], Some(HOUR), SHORT).await.members;
    store.same(live, BTreeSet::from([one.name.clone()]), "members after one has died");
}

/// A group is paused until it is resumed, whether or not it has handlers.
pub async fn groups_are_paused_until_they_are_resumed<S: EventStore>(store: S) {
    let store = Progress::new("groups_are_paused_until_they_are_resumed", store);
    store.declare(&DeclaredHandler { group: AUDIT, ..handler(MAIL, &[OPENED]) }, 0).await;
    let process = store.join("one").await;
    for (group, is_paused, paused) in [
        (&AUDIT, true, vec![AUDIT]),
        (&AUDIT, true, vec![AUDIT]),
        (&MAIL, true, vec![AUDIT, MAIL]),
        (&AUDIT, false, vec![MAIL]),
        (&AUDIT, false, vec![MAIL]),
    ] {
        store.pause(group, is_paused).await;
        let is_listed = paused.contains(&AUDIT);
        let beat = store.heartbeat(&process, &[]).await.paused;
        store.same(beat.into_iter().collect(), paused, format_args!("paused groups after {group}: {is_paused}"));
        store.same(store.listed_one().await.is_paused, is_listed, "the handler of a group");
    }
}

/// A handler that an operator creates begins after the given position, with one shard and every type that it takes.
pub async fn a_created_handler_begins_after_its_position<S: EventStore>(store: S) {
    let store = Progress::new("a_created_handler_begins_after_its_position", store);
    store.check(store.create(&MAIL, 7).await, "a new handler is not created");
    store.check(!store.create(&MAIL, 9).await, "a handler is created twice");
    let listed = store.listed_one().await;
    store.same(&listed.noted, &NotedHandler::created(MAIL, MAIL, 7.into()), "the note of a created handler");
    let noted = store.declare(&DeclaredHandler { shards: 3, ..handler(MAIL, &[OPENED]) }, 40).await;
    store.same(noted.types, since(&[(OPENED, 7)]), "the types of a created handler");
    let checkpoints: Vec<_> = store.listed_one().await.shards.iter().map(|shard| shard.checkpoint.get()).collect();
    store.same(checkpoints, vec![7], "the checkpoints of a created handler");
    store.declare(&handler(AUDIT, &[OPENED]), 0).await;
    store.check(!store.create(&AUDIT, 9).await, "a declared handler is created");
}

/// A handler is retired with its shards and rows, unless a live process owns one of its shards.
pub async fn a_retired_handler_is_gone<S: EventStore>(store: S) {
    let store = Progress::new("a_retired_handler_is_gone", store);
    store.declare_shards(&MAIL, 2).await;
    store.declare_shards(&AUDIT, 1).await;
    store.same(store.retire(&OPENED).await, None, "retiring an unknown handler");
    let process = store.join("one").await;
    let acquired = store.acquire(&process, &shard(&MAIL, 1), HOUR).await;
    let other = store.acquire(&process, &shard(&AUDIT, 0), HOUR).await;
    let of_other = ShardSave { rows: vec![waits(1), dead(5, FIRST_DEATH)], ..save(&other, 5) };
    let rows = vec![waits(1), waits(2), dead(5, FIRST_DEATH), held(6)];
    store.save(&process, &[ShardSave { rows, ..save(&acquired, 5) }, of_other]).await;
    store.same(store.retire(&MAIL).await, None, "retiring a handler that a process runs");
    store.same(store.listed().await.len(), 2, "handlers after a refused retirement");
    store.save(&process, &[release(&acquired)]).await;
    store.same(store.retire(&MAIL).await, Some(2), "rows that waited for a retired handler");
    store.same(store.retire(&MAIL).await, None, "retiring a handler again");
    let listed = store.listed_one().await;
    store.same((listed.noted.name, listed.waiting_rows, listed.dead_rows), (AUDIT, 1, 1), "the handler that is left");
    store.same(store.ok(store.port().count_dead_rows(9).await, "counting"), 1, "dead letters left");
    let shards = store.try_acquire(&process, &shards(&MAIL, 0..2), HOUR).await;
    store.same(shards, Vec::new(), "shards of a retired handler");
    store.declare(&handler(MAIL, &[OPENED]), 0).await;
    store.same(store.rows(&MAIL, 1).await, Vec::new(), "rows of the handler that was declared again");
}

/// The names of handlers, groups and processes are compared byte by byte.
pub async fn names_of_handlers_are_compared_byte_by_byte<S: EventStore>(store: S) {
    let store = Progress::new("names_of_handlers_are_compared_byte_by_byte", store);
    let names = ["mail", "Mail", "mail ", "mäil", "ma%l", "mail'", "mail\"", "{mail}", "mail\\", "漢字", "NULL"];
    let process = store.join("it's \"one\" \\ 漢").await;
    let mut all = Vec::new();
    for (number, name) in names.into_iter().map(Name::from_static).enumerate() {
        store.declare(&handler(name.clone(), std::slice::from_ref(&name)), 0).await;
        let acquired = store.acquire(&process, &shard(&name, 0), HOUR).await;
        let left = BTreeMap::from([(name.clone(), Some(Position::new(number as u64)))]);
        store.save(&process, &[ShardSave { left, rows: vec![waits(7)], ..save(&acquired, number as u64) }]).await;
        all.push((name, acquired));
    }
    let listed = store.listed().await;
    store.check(listed.is_sorted_by_key(|listed| listed.noted.name.clone()), "handlers are not listed by name");
    for (number, (name, acquired)) in all.iter().enumerate() {
        let found = listed.iter().find(|listed| listed.noted.name == *name).map(|listed| &listed.shards[0]);
        let found = found.map(|shard| (shard.checkpoint, shard.left.clone()));
        let wanted = (Position::new(number as u64), since(&[(name.clone(), number as u64)]));
        store.same(found, Some(wanted), format_args!("progress of `{name}`"));
        store.pause(name, true).await;
        let beat = store.ok(store.port().heartbeat(&process.name, &[], &[], None, HOUR).await, "in a heartbeat");
        store.same(beat.paused, BTreeSet::from([name.clone()]), "paused groups");
        store.pause(name, false).await;
        store.save(&process, &[release(acquired)]).await;
        store.same(store.retire(name).await, Some(1), format_args!("rows of `{name}`"));
    }
}

/// The processes that save and renew the same shards concurrently all get an answer.
pub async fn concurrent_saves_of_the_same_shards_end<S: EventStore>(store: S) {
    let store = Progress::new("concurrent_saves_of_the_same_shards_end", store);
    store.declare_shards(&MAIL, 16).await;
    let process = store.join("one").await;
    let all = store.try_acquire(&process, &shards(&MAIL, 0..16), HOUR).await;
    let name = process.name.clone();
    let ended = store
        .at_once(8, |task| {
            let (store, mut all, name) = (store.clone(), all.clone(), name.clone());
            async move {
                if task % 2 == 0 {
                    all.reverse();
                }
                for round in 0..10 {
                    let position = 100 * task as u64 + round + 1;
                    let rows = if task % 4 < 2 { vec![waits(position)] } else { Vec::new() };
                    let of_last = ShardSave { rows, ..save(&all[15], position) };
                    let saves = all[..15].iter().map(|acquired| save(acquired, position)).chain([of_last]);
                    let saved = store.port().save_shards(&name, None, &saves.collect::<Vec<_>>()).await;
                    let saved = store.ok(saved, "saving concurrently");
                    let owned: Vec<_> = all.iter().map(|acquired| (acquired.shard.clone(), acquired.epoch)).collect();
                    let beat = store.port().heartbeat(&name, &[MAIL], &owned, Some(HOUR), HOUR).await;
                    let beat = store.ok(beat, "renewing concurrently");
                    let held: BTreeSet<_> = beat.held.into_keys().collect();
                    store.same(saved, Saved::Held(held), "shards that are saved and renewed");
                }
            }
        })
        .await;
    store.same(ended.len(), 8, "tasks that ended");
    drop(process);
}
