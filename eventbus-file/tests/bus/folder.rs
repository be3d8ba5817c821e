//! Changes that other programs make to the folder of a queue: entries that are no files, modes, removal.
#![cfg(unix)]

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::common::{another, config, folder, fresh, next_work, text_of_bytes, until};
use eventbus::{
    Name,
    event::EventFilter,
    port::{EventBus, Subscriber},
};
use eventbus_file::{FileQueue, FileQueueConfig, FileQueueError, FolderProblem, Search};
use serde_json::json;
use tokio::sync::{Notify, oneshot};

fn event_path(root: &Path, id: u64) -> PathBuf {
    root.join(format!("events/{:09}/{id:012}.json", id / 1_000))
}

fn make_fifo(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Fails unless the future completes within a minute.
async fn soon<T>(asked: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), asked).await.expect("nothing waits for ever")
}

fn reason(error: &FileQueueError) -> String {
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    said
}

/// Fails if a file is opened without `O_NONBLOCK`: reading it waits for a writer that never comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_in_the_place_of_any_file_makes_nobody_wait() {
    let queue = FileQueue::open(FileQueueConfig { compress_from: Some(10), ..config(folder()) }).await.unwrap();
    let root = queue.config().root_dir.clone();
    queue.publish(&"an event with a payload file").await.unwrap();
    let payload = fs::read_dir(root.join("payloads")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(&payload).unwrap();
    queue.publish(&"two").await.unwrap();
    let store = "019a0000-0000-7000-8000-000000000001";
    let pipes = [
        payload,
        event_path(&root, 3),
        root.join("results/000000000/000000000002.json"),
        root.join("claims/task/000000000001.json"),
        root.join("dead_letters/000000000002.json"),
        root.join(format!("relays/{store}/000000000001.json")),
    ];
    pipes.iter().for_each(|pipe| make_fifo(pipe));
    for id in [1, 3] {
        let torn = soon(queue.event(id)).await.unwrap_err();
        assert!(matches!(torn, FileQueueError::Torn { .. }), "{torn:?}");
        assert!(reason(&torn).ends_with("it is no regular file"), "{}", reason(&torn));
    }
    assert!(matches!(soon(queue.result(2)).await, Err(FileQueueError::Torn { .. })));
    assert!(matches!(soon(queue.get_claim("task")).await, Err(FileQueueError::Torn { .. })));
    assert_eq!(soon(queue.publish(&"four")).await.unwrap().id(), 4);
    let told = soon(queue.check()).await.unwrap();
    // an event is named for its payload
    for pipe in pipes[1..].iter().chain([&event_path(&root, 1)]) {
        let is_torn = |problem: &FolderProblem| matches!(problem, FolderProblem::Torn { path, .. } if path == pipe);
        assert!(told.iter().any(is_torn), "{} is not told: {told:#?}", pipe.display());
    }
    let seen = watch(&queue);
    let consuming = queue.clone();
    let consuming = tokio::spawn(async move { consuming.start_consuming().await });
    until("the event without a result is handled", async || seen.lock().unwrap().len() == 1).await;
    soon(queue.stop_consuming()).await;
    soon(consuming).await.unwrap().unwrap();
}

/// Fails if the queue reads a file whole before it checks its size.
#[tokio::test]
async fn a_file_that_is_too_large_is_not_read() {
    let queue = fresh().await;
    let root = queue.config().root_dir.clone();
    queue.publish(&1).await.unwrap();
    let huge = event_path(&root, 2);
    File::create(&huge).unwrap().set_len(3 << 40).unwrap(); // more than any memory; a hole on the disk
    let torn = queue.event(2).await.unwrap_err();
    assert!(reason(&torn).contains("has 3298534883328 bytes, at most 134217728 are read"), "{}", reason(&torn));
    assert_eq!(queue.events(&Search::default()).await.unwrap().items.len(), 1);
    assert_eq!(queue.publish(&3).await.unwrap().id(), 3);
}

/// The queue writes no event that it could not read.
#[tokio::test]
async fn an_event_that_would_be_too_large_is_refused_by_name_and_nothing_is_left() {
    let large = text_of_bytes((128 << 20) + 1);
    for compress_from in [None, Some(10)] {
        let queue = FileQueue::open(FileQueueConfig { compress_from, ..config(folder()) }).await.unwrap();
        let refused = queue.publish(&large).await.unwrap_err();
        let named = matches!(refused, FileQueueError::TooLarge { event_id: Some(_), most: 100_663_296, .. });
        assert!(named && !refused.is_retryable(), "{refused}");
        assert_eq!(queue.check().await.unwrap().len(), 0);
        assert!(matches!(
            queue.create_claim("task", &large).await,
            Err(FileQueueError::TooLarge { event_id: None, .. })
        ));
        assert_eq!(queue.publish(&"small").await.unwrap().id(), 1);
    }
}

/// Fails if the queue follows links, of files or of folders.
#[tokio::test]
async fn symbolic_links_are_not_followed() {
    let (queue, elsewhere) = (fresh().await, tempfile::tempdir().unwrap());
    let root = queue.config().root_dir.clone();
    queue.publish_all(&["one", "two"]).await.unwrap();
    let secret = elsewhere.path().join("secret.json");
    fs::rename(event_path(&root, 2), &secret).unwrap();
    symlink(&secret, event_path(&root, 2)).unwrap();
    let torn = queue.event(2).await.unwrap_err();
    assert!(matches!(torn, FileQueueError::Torn { .. }), "{torn:?}");
    assert!(reason(&torn).ends_with("it is a symbolic link, which is not followed"), "{}", reason(&torn));

    // nor does the queue write where a link leads
    fs::create_dir(elsewhere.path().join("task")).unwrap();
    symlink(elsewhere.path().join("task"), root.join("claims/task")).unwrap();
    let refused = queue.create_claim("task", &()).await.unwrap_err();
    assert!(matches!(refused, FileQueueError::Io { .. }), "{refused:?}");
    assert_eq!(fs::read_dir(elsewhere.path().join("task")).unwrap().count(), 0);
}

/// The modes of all files and folders below a folder.
fn modes(folder: &Path) -> (Vec<u32>, Vec<u32>) {
    let (mut files, mut folders) = (Vec::new(), vec![fs::metadata(folder).unwrap().permissions().mode() & 0o7777]);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => {
                let (more, below) = modes(&path);
                files.extend(more);
                folders.extend(below);
            }
            false => files.push(fs::metadata(&path).unwrap().permissions().mode() & 0o7777),
        }
    }
    files.sort_unstable();
    files.dedup();
    folders.sort_unstable();
    folders.dedup();
    (files, folders)
}

/// Fails if the process's mask changes a mode.
#[tokio::test]
async fn a_new_folder_is_its_owners_alone_and_in_one_that_is_there_modes_follow_it() {
    let used = async |root: PathBuf| {
        let queue = FileQueue::open(FileQueueConfig { compress_from: Some(10), ..config(&root) }).await.unwrap();
        queue.publish(&"an event with a payload file").await.unwrap();
        next_work(&queue).await.succeed(&()).await.unwrap();
        queue.create_claim("task", &()).await.unwrap();
        modes(&root)
    };
    let new = folder();
    assert_eq!(used(new.join("made/too")).await, (vec![0o600], vec![0o700]));
    assert_eq!(modes(&new), (vec![0o600], vec![0o700]), "those above, too");
    for (mode, files) in [(0o755, 0o644), (0o2770, 0o660), (0o700, 0o600)] {
        let there = folder();
        fs::create_dir(&there).unwrap();
        fs::set_permissions(&there, Permissions::from_mode(mode)).unwrap();
        assert_eq!(used(there).await, (vec![files], vec![mode]), "{mode:o}");
    }
}

/// The payloads of the events delivered to a handler.
fn watch(queue: &FileQueue) -> Arc<Mutex<Vec<String>>> {
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&seen);
    let subscriber = Subscriber::new(Name::from_static("watch"), EventFilter::All, move |delivery| {
        noted.lock().unwrap().push(delivery.record().payload().to_owned());
        Box::pin(async { Ok(()) })
    });
    queue.add_subscriber(queue.default_group().clone(), subscriber);
    seen
}

/// Fails if the state that a worker keeps of a folder outlives the folder, such as its finished events.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_was_removed_and_comes_back_is_used_again_without_a_restart() {
    let queue = fresh().await;
    let root = queue.config().root_dir.clone();
    queue.publish_all(&["a", "b", "c"]).await.unwrap();
    for _ in 0..3 {
        next_work(&queue).await.succeed(&()).await.unwrap();
    }

    // the folder is away for a while, with its contents
    let away = root.with_extension("away");
    fs::rename(&root, &away).unwrap();
    let refused = queue.publish(&"d").await.unwrap_err();
    assert!(matches!(refused, FileQueueError::Io { .. }) && refused.is_retryable(), "{refused:?}");
    assert!(!root.exists(), "nobody makes a folder that was there before: it may be on a disk that is away");
    let waiting = queue.clone();
    let waiting = tokio::spawn(async move { waiting.claim_next().await.unwrap().event().id() });
    fs::rename(&away, &root).unwrap();
    assert_eq!(queue.publish(&"d").await.unwrap().id(), 4);
    assert_eq!(soon(waiting).await.unwrap(), 4, "who waited for work went on waiting");

    // the folder is removed, then made by an administrator, by this worker's next call, or by a second worker
    for round in 0..2 {
        while root.exists() {
            let _ = fs::remove_dir_all(&root); // fails while a worker is writing
        }
        match round {
            0 => fs::create_dir(&root).unwrap(),
            _ => drop(another(&queue).await),
        }
        let events = ["e", "f"].map(|event| format!("{event} of round {round}"));
        let ids: Vec<u64> = queue.publish_all(&events).await.unwrap().iter().map(|event| event.id()).collect();
        assert_eq!(ids, [1, 2], "it is another queue");
        for id in ids {
            let work = next_work(&queue).await;
            assert_eq!(work.event().id(), id, "what was done in the queue before says nothing");
            work.succeed(&json!({})).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_go_on_when_the_folder_is_back_and_when_it_holds_a_new_queue() {
    let queue = fresh().await;
    let root = queue.config().root_dir.clone();
    let (seen, consuming) = (watch(&queue), queue.clone());
    tokio::spawn(async move { consuming.start_consuming().await });
    let publish = async |payload: &str| {
        queue.publish(payload).await.unwrap();
        until("it is handled", async || seen.lock().unwrap().contains(&json!(payload).to_string())).await;
    };
    publish("before").await;
    let away = root.with_extension("away");
    fs::rename(&root, &away).unwrap();
    fs::rename(&away, &root).unwrap();
    publish("back").await;
    while root.exists() {
        let _ = fs::remove_dir_all(&root); // fails while a worker is writing
    }
    drop(another(&queue).await);
    publish("in the new queue").await;
    assert_eq!(queue.event(1).await.unwrap().unwrap().payload::<String>().unwrap(), "in the new queue");
}

/// Fails if the description needs every folder of events: then all metrics of the bus are missing.
#[tokio::test]
async fn a_queue_is_described_although_not_every_folder_of_events_can_be_listed() {
    let queue = fresh().await;
    let root = queue.config().root_dir.clone();
    queue.publish(&1).await.unwrap();
    let last = event_path(&root, 2_500);
    fs::create_dir_all(last.parent().unwrap()).unwrap();
    fs::copy(event_path(&root, 1), last).unwrap();
    let between = root.join("events/000000001");
    symlink(&between, &between).unwrap();
    let info = queue.stream_info().await;
    assert!(info.connected);
    let ends = (info.stream.first_entry_id.as_deref(), info.stream.last_entry_id.as_deref());
    assert_eq!((info.stream.length, ends), (2_500, (Some("1"), Some("2500"))));
    let groups: Vec<_> = info.consumer_groups.iter().map(|group| (group.name.as_str(), group.lag)).collect();
    assert_eq!(groups, [(queue.name().as_str(), Some(2_500))]);
}

/// Fails if only the end of a claim is compared: after a clock is set back by a day, the event waits for a day.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_from_a_future_that_is_over_keeps_nobody_away() {
    let queue = fresh().await;
    let root = queue.config().root_dir.clone();
    queue.publish(&1).await.unwrap();
    let future = |claim_id: &str, ahead: i64| {
        let at = time::OffsetDateTime::now_utc() + time::Duration::seconds(ahead);
        let text = |time: time::OffsetDateTime| time.format(&time::format_description::well_known::Rfc3339).unwrap();
        let expires_at = text(at + time::Duration::seconds(10));
        json!({"claim_id": claim_id, "epoch": 1, "worker_id": "of another clock", "created_at": text(at), "expires_at": expires_at, "data": null})
    };
    for (claim_id, ahead) in [("event-1", 86_400), ("near", 5)] {
        let folder = root.join("claims").join(claim_id);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("000000000001.json"), future(claim_id, ahead).to_string()).unwrap();
    }
    assert_eq!(next_work(&queue).await.event().id(), 1);
    assert!(!queue.create_claim("near", &()).await.unwrap(), "clocks of machines may differ a little");
}

/// Records a format in the folder of a queue, as a newer release would.
fn record_format(root: &Path, format: u32, min_reader: u32) {
    let path = root.join("queue.json");
    let mut identity: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    (identity["format"], identity["min_reader"]) = (format.into(), min_reader.into());
    fs::write(path, identity.to_string()).unwrap();
}

#[tokio::test]
async fn a_newer_format_is_accepted_if_it_only_adds_and_refused_by_its_numbers_if_not() {
    let queue = fresh().await;
    let root = queue.config().root_dir.clone();
    let identity: serde_json::Value = serde_json::from_slice(&fs::read(root.join("queue.json")).unwrap()).unwrap();
    assert_eq!((&identity["format"], &identity["min_reader"]), (&json!(1), &json!(1)));

    record_format(&root, 3, 1);
    let older = another(&queue).await;
    older.publish(&"beside a newer release").await.unwrap();
    assert_eq!(next_work(&queue).await.event().payload::<String>().unwrap(), "beside a newer release");
    let identity = fs::read_to_string(root.join("queue.json")).unwrap();
    assert!(identity.contains(r#""format":3"#), "an older release lowers no format: {identity}");

    record_format(&root, 3, 2);
    fs::remove_dir_all(root.join("relays")).unwrap();
    let opened = FileQueue::open(FileQueueConfig { worker_id: None, ..queue.config().clone() }).await.map(drop);
    for refused in [opened, queue.publish(&"from before").await.map(drop)] {
        let error = refused.unwrap_err();
        assert!(
            matches!(&error, FileQueueError::FormatTooNew { path, format: 3, min_reader: 2, known: 1 } if path.ends_with("queue.json")),
            "{error:?}"
        );
        assert!(!error.is_retryable());
        let text = "records format 3, which takes a release that knows format 2; this one knows format 1";
        assert!(error.to_string().contains(text), "{error}");
    }
    assert!(!root.join("relays").exists(), "a release that does not know the format changes nothing");
}

/// A folder that is away keeps no owner from learning that its claim has expired: then a different worker may have the event.
#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_an_event_learns_that_its_claim_has_expired_while_the_folder_is_away() {
    let config = FileQueueConfig { claim_expiration: Duration::from_millis(300), ..config(folder()) };
    let queue = FileQueue::open(config).await.unwrap();
    queue.publish(&"work").await.unwrap();
    let work = next_work(&queue).await;
    let root = queue.config().root_dir.clone();
    fs::rename(&root, root.with_extension("away")).unwrap();
    soon(work.claim_lost()).await;
    assert!(work.is_claim_lost());
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_end_when_the_claim_of_their_job_expires_while_the_folder_is_away() {
    let config = FileQueueConfig { claim_expiration: Duration::from_millis(300), ..config(folder()) };
    let queue = FileQueue::open(config).await.unwrap();
    let (begun, (held, dropped)) = (Arc::new(Notify::new()), oneshot::channel::<()>());
    let (begins, held) = (Arc::clone(&begun), Mutex::new(Some(held)));
    let waits = Subscriber::new(Name::from_static("waits"), EventFilter::All, move |_| {
        let held = held.lock().unwrap().take();
        begins.notify_one();
        Box::pin(async move {
            let _held = held;
            std::future::pending().await
        })
    });
    queue.add_subscriber(queue.default_group().clone(), waits);
    let consuming = queue.clone();
    tokio::spawn(async move { consuming.start_consuming().await });
    queue.publish(&"work").await.unwrap();
    soon(begun.notified()).await;
    let root = queue.config().root_dir.clone();
    fs::rename(&root, root.with_extension("away")).unwrap();
    // sooner than the time limit of a handler, a minute
    let ended = tokio::time::timeout(Duration::from_secs(30), dropped).await;
    assert!(ended.expect("the handler ends").is_err(), "it is dropped");
    drop(queue);
}
