//! Workers on one folder that are killed with `kill -9`, or stopped for a while, during their work: two with
//! Redis, one without.
//!
//! The killed processes are second runs of this test binary, with their role in environment variables. Each logs the
//! answers of the queue line by line; each answer must stay true.
//!
//! Twenty kills in an ordinary run; `FILE_QUEUE_KILLS=100` asks for more.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test; the processes that die report by printing")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::common::{folder, until};
use eventbus::{
    Name, NewEvent, RecordedEvent, StreamId, Version,
    event::EventFilter,
    port::{DeadLetterFilter, DeadLetters as _, EventBus, Subscriber},
};
use eventbus_file::{FileQueue, FileQueueConfig, FolderProblem, RedisCoordination, Search};
use eventbus_test::internal::Actor;

/// The variables of a worker that dies: the folder, its log, and its Redis, if any.
const ROOT: &str = "FILE_QUEUE_KILLED_ROOT";
const LOG: &str = "FILE_QUEUE_KILLED_LOG";
const REDIS: &str = "FILE_QUEUE_KILLED_REDIS";

fn config(root: &Path) -> FileQueueConfig {
    FileQueueConfig {
        queue_name: Some(root.file_name().unwrap().to_string_lossy().into_owned()),
        claim_expiration: Duration::from_millis(1_000),
        gap_timeout: Duration::from_millis(300),
        poll_interval: Duration::from_millis(20),
        sync: env::var_os("FILE_QUEUE_SYNC").is_some(), // a kill loses no written data
        ..FileQueueConfig::at(root)
    }
}

/// The role of the process that dies; returns at once in an ordinary run.
#[tokio::test(flavor = "multi_thread")]
async fn the_worker_that_dies() {
    let Ok(root) = env::var(ROOT) else {
        return;
    };
    Actor::end_with_parent();
    let config = config(Path::new(&root));
    let queue = match env::var(REDIS) {
        Ok(redis_url) => {
            let redis = RedisCoordination { redis_url, ..RedisCoordination::default() };
            FileQueue::open_with_redis(config, redis).await.unwrap()
        }
        Err(_) => FileQueue::open(config).await.unwrap(),
    };
    let path = env::var(LOG).unwrap();
    let open = move || fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
    let (publisher, consumer) = (queue.clone(), queue.clone());
    let log = open();
    tokio::spawn(async move {
        for number in 0_u64.. {
            let tokens: Vec<_> =
                (0..=number % 3).map(|part| format!("{}/{number}/{part}", publisher.worker_id())).collect();
            for event in publisher.publish_all(&tokens).await.unwrap() {
                note(&log, &format!("published {} {}", event.id(), event.payload::<String>().unwrap()));
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    });
    let seen = std::sync::Arc::new(open());
    let handler = Subscriber::new(Name::from_static("watch"), EventFilter::All, move |delivery| {
        let id = delivery.message_id().unwrap().to_string();
        note(&seen, &format!("delivered {id}"));
        Box::pin(async { Ok(()) })
    });
    consumer.add_subscriber(consumer.default_group().clone(), handler);
    tokio::spawn(async move { consumer.start_consuming().await });
    let log = open();
    loop {
        let work = queue.claim_next().await.unwrap();
        let (id, nonce) = (work.event().id(), eventbus_test::unique_name("nonce"));
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..20))).await;
        match work.succeed(&nonce).await {
            Ok(result) => note(&log, &format!("finished {id} {nonce} {}", result.epoch)),
            Err(error) => note(&log, &format!("refused {id} {nonce} {error}")),
        }
    }
}

/// Writes a line in one piece.
fn note(mut log: &fs::File, line: &str) {
    log.write_all(format!("{line}\n").as_bytes()).unwrap();
}

struct Worker {
    actor: Actor,
    redis: Option<String>,
}

impl Worker {
    fn spawn(root: &Path, log: &Path, redis: Option<String>) -> Self {
        let mut variables = vec![(ROOT, root.to_str().unwrap()), (LOG, log.to_str().unwrap())];
        variables.extend(redis.as_deref().map(|url| (REDIS, url)));
        Self { actor: Actor::play("kills::the_worker_that_dies", &variables), redis }
    }

    /// Stops the process until its claims have expired and its ids have been filled, then continues it.
    async fn pause(&self) {
        self.actor.signal("STOP");
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        self.actor.signal("CONT");
    }

    fn kill(self) -> Option<String> {
        self.actor.kill();
        self.redis
    }
}

/// The log lines of all workers, by kind.
fn answers(logs: &[PathBuf]) -> Vec<Vec<String>> {
    let mut lines = Vec::new();
    for log in logs {
        let text = fs::read_to_string(log).unwrap_or_default();
        // the last line may be cut off
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        lines.extend(whole.lines().map(|line| line.split(' ').map(ToOwned::to_owned).collect::<Vec<_>>()));
    }
    lines
}

/// The fault of Redis meanwhile.
#[derive(Clone, Copy, PartialEq)]
enum Redis {
    Stays,
    /// Redis is killed and comes back empty, or hangs for a while.
    Suffers,
}

fn kills(few: usize) -> usize {
    env::var("FILE_QUEUE_KILLS").map_or(few, |kills| kills.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_killed_repeat_no_id_and_write_one_result_per_event() {
    kill_workers(kills(20), Redis::Stays).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_so_while_redis_is_emptied_and_hangs() {
    kill_workers(kills(10), Redis::Suffers).await;
}

async fn kill_workers(kills: usize, fate: Redis) {
    let (root, logs_folder) = (folder(), tempfile::tempdir().unwrap());
    fs::create_dir_all(&root).unwrap();
    let mut server = eventbus_test::private_redis();
    let url = Some(server.url().to_owned());
    let mut logs = Vec::new();
    let mut spawn = |redis: Option<String>| {
        logs.push(logs_folder.path().join(format!("{}.log", logs.len())));
        Worker::spawn(&root, &logs[logs.len() - 1], redis)
    };
    let mut workers = vec![spawn(url.clone()), spawn(url), spawn(None)];
    let mut pauses = 0;
    for round in 0..kills {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(50..600))).await;
        if round % 4 == 3 {
            pauses += 1;
            workers[fastrand::usize(..workers.len())].pause().await;
        }
        let died = workers.remove(fastrand::usize(..workers.len()));
        workers.push(spawn(died.kill()));
        if fate == Redis::Suffers {
            if fastrand::bool() {
                server.start_empty();
            } else {
                server.pause();
                tokio::time::sleep(Duration::from_millis(fastrand::u64(50..700))).await;
                server.resume();
            }
        }
    }
    for worker in workers {
        worker.kill();
    }

    // later workers find all events that are left
    let queue = FileQueue::open(config(&root)).await.unwrap();
    let redis = RedisCoordination { redis_url: server.url().into(), ..RedisCoordination::default() };
    let other = FileQueue::open_with_redis(FileQueueConfig { worker_id: None, ..config(&root) }, redis).await.unwrap();
    for queue in [&queue, &other] {
        queue.publish(&"the end").await.unwrap();
    }
    let everything = Search { limit: usize::MAX, ..Search::default() };
    let events = queue.events(&everything).await.unwrap().items;
    let is_done = async || queue.count_results(&everything).await.unwrap() == events.len() as u64;
    while !is_done().await {
        // an event claimed by a dead worker comes when the claim has expired
        crate::common::next_work(&queue).await.succeed(&"the end").await.unwrap();
        while let Some(work) = queue.try_claim_next().await.unwrap() {
            work.succeed(&"the end").await.unwrap();
        }
    }

    let answers = answers(&logs);
    let of = |kind: &'static str| {
        answers.iter().filter(move |words| words[0] == kind).map(|words| (words[1].parse::<u64>().unwrap(), words))
    };
    let mut published = BTreeMap::new();
    for (id, words) in of("published") {
        assert_eq!(published.insert(id, words[2].clone()), None, "id {id} was given twice");
    }
    let there: BTreeMap<u64, String> = events.iter().map(|event| (event.id(), event.payload().unwrap())).collect();
    for (id, token) in &published {
        assert_eq!(there.get(id), Some(token), "event {id} is what its publisher published");
    }
    let tokens: BTreeSet<&String> = there.values().filter(|token| *token != "the end").collect();
    assert_eq!(tokens.len() + 2, there.len(), "no event was published twice");
    let results = queue.results(&everything).await.unwrap().items;
    let results: BTreeMap<u64, _> = results.into_iter().map(|result| (result.event_id, result)).collect();
    assert!(results.keys().eq(there.keys()), "each event has a result, and nothing else has");
    let mut finished = BTreeSet::new();
    for (id, words) in of("finished") {
        assert!(finished.insert(id), "two workers were told that they ended event {id}");
        assert_eq!(
            (&*results[&id].details::<String>().unwrap(), results[&id].epoch.to_string()),
            (&*words[2], words[3].clone())
        );
    }
    let last = *there.keys().last().unwrap();
    let gaps: Vec<u64> = (1..=last).filter(|id| !there.contains_key(id)).collect();
    // at most one batch for each publisher that died or was stopped, and for each lost answer
    let causes = pauses + if fate == Redis::Stays { kills + 3 } else { 3 * kills + 3 };
    assert!(gaps.len() <= 3 * causes, "gaps from crashes only: {gaps:?}");
    let delivered: BTreeSet<u64> = of("delivered").map(|(id, _)| id).collect();
    let by_handlers = results.values().filter(|result| result.success && result.details.is_null());
    assert!(by_handlers.clone().all(|result| delivered.contains(&result.event_id)), "a handler ran before the result");
    assert!(by_handlers.count() > kills / 2, "handlers had a part of the jobs");
    let problems = queue.check().await.unwrap();
    assert!(problems.iter().all(|problem| matches!(problem, FolderProblem::UnusedPayload { .. })), "{problems:?}");
    eprintln!(
        "{kills} kills, {pauses} pauses: {} events, {} gaps, {} results told, {} refused, {} deliveries",
        there.len(),
        gaps.len(),
        finished.len(),
        of("refused").count(),
        of("delivered").count()
    );
    assert!(there.len() > kills && finished.len() > kills / 2, "there was something to break");
}

/// The aggregate whose event ends the process that handles it.
const KILLER: &str = "killer";
/// The environment variable with the folder of a worker that such an event ends.
const ENDED_ROOT: &str = "FILE_QUEUE_ENDED_ROOT";

fn event(id: &str) -> RecordedEvent {
    let event = NewEvent::new(Name::from_static("Deposited"), 1, "{}");
    event.recorded_as(StreamId::parse("Account", id).unwrap(), Version::FIRST, None)
}

/// The role of the process that the event ends; returns at once in an ordinary run.
#[tokio::test(flavor = "multi_thread")]
async fn the_worker_that_an_event_ends() {
    let Ok(root) = env::var(ENDED_ROOT) else {
        return;
    };
    Actor::end_with_parent();
    let queue = FileQueue::open(config(Path::new(&root))).await.unwrap();
    let handler = Subscriber::new(Name::from_static("work"), EventFilter::All, |delivery| {
        let id = delivery.metadata().aggregate_id().to_string();
        Box::pin(async move {
            if id == KILLER {
                std::process::abort();
            }
            println!("handled {id}");
            Ok(())
        })
    });
    queue.add_subscriber(queue.default_group().clone(), handler);
    queue.start_consuming().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_ends_five_workers_in_a_row_becomes_a_dead_letter_and_the_others_are_done() {
    let root = folder();
    let queue = FileQueue::open(config(&root)).await.unwrap();
    let mut ids: Vec<_> = (0..40).map(|number| number.to_string()).collect();
    ids.insert(17, KILLER.into());
    EventBus::publish(&queue, &ids.iter().map(|id| event(id)).collect::<Vec<_>>()).await.unwrap();
    let is_settled = async || queue.progress(queue.default_group()).await.unwrap().is_settled();
    let (mut ends, mut printed) = (0, Vec::new());
    while !is_settled().await {
        let variables = [(ENDED_ROOT, root.to_str().unwrap())];
        let mut worker = Actor::play("kills::the_worker_that_an_event_ends", &variables);
        until("it has ended, or all is done", async || worker.has_ended() || is_settled().await).await;
        ends += u64::from(worker.has_ended());
        assert!(ends <= 5, "it ended {ends} processes");
        printed.extend(if worker.has_ended() { worker.wait().1 } else { worker.kill() });
    }
    assert_eq!(ends, 5);
    let letters = queue.list_dead_letters(&DeadLetterFilter::default(), None, 100).await.unwrap().letters;
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!(letter.record.as_ref().unwrap().metadata().aggregate_id().as_str(), KILLER);
    let handled: BTreeSet<_> =
        printed.iter().filter_map(|line| Some(line.split_once("handled ")?.1.to_owned())).collect();
    ids.remove(17);
    assert_eq!(handled, ids.into_iter().collect::<BTreeSet<_>>(), "the others are all handled");
}
