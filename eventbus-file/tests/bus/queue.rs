//! The queue as a work queue: ids, claims, results, searches.

use std::{fs, time::Duration};

use crate::common::{another, config, folder, fresh, next_work, until};
use eventbus_file::{FileQueue, FileQueueConfig, FileQueueError, FolderProblem, Search};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

fn event_path(queue: &FileQueue, id: u64) -> std::path::PathBuf {
    queue.config().root_dir.join(format!("events/{:09}/{id:012}.json", id / 1_000))
}

fn json_of(path: &std::path::Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The document's first sample, on files alone.
#[tokio::test]
async fn an_event_is_published_and_a_task_is_claimed_by_a_worker() {
    let queue = fresh().await;
    let event = queue.publish(&json!({"message": "Hello World"})).await.unwrap();
    assert_eq!(event.id(), 1);
    assert!(queue.create_claim("task_1", "worker_data").await.unwrap());
    let claim = queue.get_claim("task_1").await.unwrap().unwrap();
    assert_eq!(
        (claim.worker_id.as_str(), claim.data::<String>().unwrap().as_str()),
        (queue.worker_id(), "worker_data")
    );
    assert!(!queue.create_claim("task_1", "worker_data").await.unwrap(), "a duplicate");
    assert!(!another(&queue).await.create_claim("task_1", "worker_data").await.unwrap(), "another worker");
    assert_eq!(queue.get_claim("task_2").await.unwrap(), None);
}

#[tokio::test]
async fn a_person_can_read_the_files() {
    let queue = fresh().await;
    queue.publish(&json!({"message": "Hello World"})).await.unwrap();
    let work = next_work(&queue).await;
    work.succeed(&json!({"sent": true})).await.unwrap();
    let text = fs::read_to_string(event_path(&queue, 1)).unwrap();
    assert!(text.lines().count() > 5 && text.ends_with("}\n"), "pretty: {text}");
    let event = json_of(&event_path(&queue, 1));
    assert_eq!(event["event"]["payload"], json!({"message": "Hello World"}));
    let root = &queue.config().root_dir;
    let claim = json_of(&root.join("claims/event-1/000000000001.json"));
    let result = json_of(&root.join("results/000000000/000000000001.json"));
    assert_eq!(result["details"], json!({"sent": true}));
    for time in [&event["created_at"], &claim["created_at"], &claim["expires_at"], &result["created_at"]] {
        let time = OffsetDateTime::parse(time.as_str().unwrap(), &Rfc3339).expect("RFC 3339 with an offset");
        assert!((OffsetDateTime::now_utc() - time).abs() < time::Duration::minutes(10), "{time}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_increase_without_gaps_over_workers_that_publish_at_once() {
    let queue = fresh().await;
    let mut publishing = tokio::task::JoinSet::new();
    for worker in 0..4 {
        let queue = another(&queue).await;
        publishing.spawn(async move {
            let mut ids = Vec::new();
            for round in 0..25 {
                let payloads = [(worker, 2 * round), (worker, 2 * round + 1)];
                ids.extend(queue.publish_all(&payloads).await.unwrap().iter().map(eventbus_file::QueueEvent::id));
            }
            assert!(ids.is_sorted(), "{ids:?}");
            ids
        });
    }
    let mut ids = publishing.join_all().await.concat();
    ids.sort_unstable();
    assert_eq!(ids, (1..=200).collect::<Vec<_>>());
    let all = queue.events(&Search { limit: 1_000, ..Search::default() }).await.unwrap().items;
    for worker in 0..4 {
        let of_worker = all.iter().map(|event| event.payload::<(u8, u8)>().unwrap()).filter(|(by, _)| *by == worker);
        assert!(of_worker.is_sorted(), "what a worker published keeps its order");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_share_the_work_and_each_event_has_one_result() {
    let queue = fresh().await;
    queue.publish_all(&(1..=40).collect::<Vec<_>>()).await.unwrap();
    let mut working = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let queue = another(&queue).await;
        working.spawn(async move {
            let mut done = Vec::new();
            while let Some(work) = queue.try_claim_next().await.unwrap() {
                done.push(work.event().id());
                work.succeed(&"done").await.unwrap();
            }
            done
        });
    }
    let mut done = working.join_all().await.concat();
    done.sort_unstable();
    assert_eq!(done, (1..=40).collect::<Vec<_>>(), "each event was worked on once");
    assert_eq!(queue.count_results(&Search::default()).await.unwrap(), 40);
    assert!(queue.try_claim_next().await.unwrap().is_none());
}

fn short(root_dir: impl Into<std::path::PathBuf>, claim_expiration: Duration) -> FileQueueConfig {
    FileQueueConfig { claim_expiration, ..config(root_dir) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_ran_out_is_taken_over_and_its_owner_writes_no_result() {
    let root = folder();
    let stalled = FileQueue::open(short(&root, Duration::from_millis(300))).await.unwrap();
    let quick = FileQueue::open(short(&root, Duration::from_secs(60))).await.unwrap();
    stalled.publish(&"task").await.unwrap();
    let claim = stalled.try_claim("event-1", &()).await.unwrap().unwrap(); // as a worker that dies right now
    assert!(quick.try_claim_next().await.unwrap().is_none(), "it is claimed");
    let work = next_work(&quick).await;
    assert_eq!((work.event().id(), work.claim().epoch), (1, 2));
    assert!(matches!(stalled.renew_claim(&claim).await, Err(FileQueueError::ClaimLost { epoch: 1, .. })));
    work.succeed(&"done").await.unwrap();
    assert_eq!(quick.metrics().claims_taken_over, 1);
    assert_eq!(stalled.metrics().claims_lost, 1);
    assert_eq!(quick.result(1).await.unwrap().unwrap().worker_id, quick.worker_id());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_the_claim_on_an_event_writes_no_result() {
    let root = folder();
    let (one, two) = (FileQueue::open(config(&root)).await.unwrap(), FileQueue::open(config(&root)).await.unwrap());
    one.publish(&"task").await.unwrap();
    let slow = next_work(&one).await;
    one.release_claim(slow.claim()).await.unwrap(); // while its worker still works
    let quick = next_work(&two).await;
    let refused = slow.succeed(&"slow").await.unwrap_err();
    assert!(matches!(refused, FileQueueError::ClaimLost { epoch: 1, .. }), "{refused:?}");
    quick.succeed(&"quick").await.unwrap();
    assert_eq!(one.result(1).await.unwrap().unwrap().details, "quick");
    assert_eq!(one.metrics().results_refused, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_renewed_while_its_owner_works() {
    let root = folder();
    let one = FileQueue::open(short(&root, Duration::from_millis(300))).await.unwrap();
    let two = FileQueue::open(short(&root, Duration::from_millis(300))).await.unwrap();
    one.publish(&"long task").await.unwrap();
    let work = next_work(&one).await;
    let first = work.claim().expires_at;
    until("it has been renewed well beyond its first time", async || {
        assert!(two.try_claim_next().await.unwrap().is_none(), "it is claimed all the time");
        work.claim().expires_at > first + Duration::from_secs(1)
    })
    .await;
    assert!(one.metrics().claims_renewed >= 4 && !work.is_claim_lost());
    work.succeed(&()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_is_dropped_or_given_back_comes_again() {
    let root = folder();
    let queue = FileQueue::open(short(&root, Duration::from_millis(200))).await.unwrap();
    queue.publish(&"task").await.unwrap();
    drop(next_work(&queue).await);
    let work = next_work(&queue).await;
    assert_eq!(work.claim().epoch, 2, "the claim ran out");
    work.release().await.unwrap();
    let work = queue.try_claim_next().await.unwrap().expect("it was given back");
    assert_eq!(work.claim().epoch, 3);
    let result = work.fail(&json!({"error": "no such address"})).await.unwrap();
    assert!(!result.success);
    assert!(queue.try_claim_next().await.unwrap().is_none(), "a failure is a result too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_id_is_waited_for_and_then_filled_and_its_slow_publisher_takes_another() {
    let root = folder();
    let patient = FileQueueConfig { gap_timeout: Duration::from_millis(300), ..config(&root) };
    let queue = FileQueue::open(patient).await.unwrap();
    queue.publish_all(&["one", "two", "three"]).await.unwrap();
    let late = fs::read(event_path(&queue, 2)).unwrap();
    fs::remove_file(event_path(&queue, 2)).unwrap(); // as if its publisher had drawn the id and were slow
    let mut ids = Vec::new();
    for _ in 0..2 {
        let work = next_work(&queue).await;
        ids.push(work.event().id());
        work.succeed(&()).await.unwrap();
    }
    assert_eq!(ids, [1, 3], "work needs no order");
    until("the gap is filled", async || {
        event_path(&queue, 2).exists() || queue.try_claim_next().await.unwrap().is_some()
    })
    .await;
    assert!(json_of(&event_path(&queue, 2))["gap"].is_string());
    assert_eq!(queue.metrics().gaps_filled, 1);
    let tmp = root.join("late");
    fs::write(&tmp, late).unwrap();
    assert!(fs::hard_link(&tmp, event_path(&queue, 2)).is_err(), "too late");
    assert_eq!(queue.publish(&"two").await.unwrap().id(), 4);
    assert_eq!(queue.event(2).await.unwrap(), None);
}

#[tokio::test]
async fn torn_and_foreign_files_are_told_and_left_alone() {
    let queue = fresh().await;
    let root = &queue.config().root_dir;
    queue.publish_all(&["one", "two"]).await.unwrap();
    assert!(queue.check().await.unwrap().is_empty());
    let torn =
        ["events/000000000/000000000003.json", "results/000000000/000000000002.json", "claims/a/000000000001.json"];
    let foreign =
        ["notes.txt", "events/readme.md", "events/000000000/4.json", "events/000000001/000000000005.json", "tmp/x"];
    for path in torn.iter().chain(&foreign) {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), "{\"created_at\": \"20").unwrap();
    }
    let far = root.join("events/999999999");
    fs::create_dir(&far).unwrap();
    fs::copy(event_path(&queue, 1), far.join("999999999999.json")).unwrap(); // as if it were an event with a high id
    let problems = queue.check().await.unwrap();
    let named = |is_meant: fn(&FolderProblem) -> bool| {
        let meant = problems.iter().filter(|problem| is_meant(problem));
        let mut named: Vec<_> = meant.map(|problem| problem.path().strip_prefix(root).unwrap().to_owned()).collect();
        named.sort();
        named
    };
    let sorted = |paths: &[&str]| {
        let mut paths: Vec<_> = paths.iter().map(std::path::PathBuf::from).collect();
        paths.sort();
        paths
    };
    assert_eq!(named(|problem| matches!(problem, FolderProblem::Torn { .. })), sorted(&torn));
    assert_eq!(
        named(|problem| matches!(problem, FolderProblem::Foreign { .. })),
        sorted(&[&foreign[..], &["events/999999999"]].concat())
    );
    assert!(matches!(queue.event(3).await, Err(FileQueueError::Torn { .. })));
    assert!(matches!(queue.get_claim("a").await, Err(FileQueueError::Torn { .. })));
    assert_eq!(queue.publish(&"four").await.unwrap().id(), 4, "a torn file has its id for ever");
    let ids: Vec<u64> = queue.events(&Search::default()).await.unwrap().items.iter().map(|event| event.id()).collect();
    assert_eq!(ids, [1, 2, 4]);
    for path in torn.iter().chain(&foreign) {
        assert_eq!(fs::read(root.join(path)).unwrap(), b"{\"created_at\": \"20", "{path} is left alone");
    }
}

/// Fails if a check gives a folder that has lost its identity a new one.
#[tokio::test]
async fn a_check_writes_no_file() {
    let queue = fresh().await;
    queue.publish(&1).await.unwrap();
    let identity = queue.config().root_dir.join("queue.json");
    fs::remove_file(&identity).unwrap();
    assert!(queue.check().await.unwrap().is_empty());
    assert!(!identity.exists());
    fs::remove_dir_all(&queue.config().root_dir).unwrap();
    assert!(matches!(queue.check().await, Err(FileQueueError::Io { .. })), "the folder is missing");
}

#[tokio::test]
async fn events_are_found_by_time_by_id_and_in_pages() {
    let queue = fresh().await;
    queue.publish_all(&[1, 2, 3]).await.unwrap();
    let between = OffsetDateTime::now_utc();
    queue.publish_all(&[4, 5]).await.unwrap();
    let numbers = async |search: &Search| {
        let page = queue.events(search).await.unwrap();
        let numbers: Vec<u8> = page.items.iter().map(|event| event.payload().unwrap()).collect();
        (numbers, page.next)
    };
    let all = Search::default();
    assert_eq!(numbers(&Search { from: Some(between), ..all.clone() }).await, (vec![4, 5], None));
    assert_eq!(numbers(&Search { before: Some(between), ..all.clone() }).await, (vec![1, 2, 3], None));
    assert_eq!(queue.count_events(&Search { from: Some(between), ..all.clone() }).await.unwrap(), 2);
    let (mut search, mut pages) = (Search { limit: 2, ..all.clone() }, Vec::new());
    loop {
        let (page, next) = numbers(&search).await;
        pages.push(page);
        let Some(next) = next else { break };
        search.page = Some(next.to_string().parse().unwrap());
    }
    assert_eq!(pages, [vec![1, 2], vec![3, 4], vec![5]]);
    let found = queue.events_by_id(&[5, 9, 1]).await.unwrap();
    let found: Vec<_> = found.iter().map(|event| event.as_ref().map(|event| event.payload::<u8>().unwrap())).collect();
    assert_eq!(found, [Some(5), None, Some(1)]);
    let nonsense = Search { page: Some("x".parse().unwrap()), ..all };
    assert!(matches!(queue.events(&nonsense).await, Err(FileQueueError::InvalidName { .. })));
}

#[tokio::test]
async fn results_and_claims_are_found_in_pages_too() {
    let queue = fresh().await;
    queue.publish_all(&[1, 2, 3]).await.unwrap();
    for _ in 0..3 {
        next_work(&queue).await.succeed(&()).await.unwrap();
    }
    let between = OffsetDateTime::now_utc();
    queue.create_claim("a/b", "data").await.unwrap();
    let two = Search { limit: 2, ..Search::default() };
    let first = queue.results(&two).await.unwrap();
    assert_eq!(first.items.iter().map(|result| result.event_id).collect::<Vec<_>>(), [1, 2]);
    let rest = queue.results(&Search { page: first.next, ..two.clone() }).await.unwrap();
    assert_eq!((rest.items.len(), rest.items[0].event_id, rest.next), (1, 3, None));
    let first = queue.claims(&two).await.unwrap();
    assert_eq!(first.items.iter().map(|claim| claim.claim_id.as_str()).collect::<Vec<_>>(), ["a/b", "event-1"]);
    let rest = queue.claims(&Search { page: first.next, ..two.clone() }).await.unwrap();
    assert_eq!(rest.items.len(), 2);
    assert_eq!(queue.count_claims(&Search { from: Some(between), ..two.clone() }).await.unwrap(), 1);
    assert_eq!(queue.count_results(&Search { from: Some(between), ..two }).await.unwrap(), 0);
}

#[tokio::test]
async fn large_payloads_are_compressed_into_files_of_their_own() {
    let queue = FileQueue::open(FileQueueConfig { compress_from: Some(1_000), ..config(folder()) }).await.unwrap();
    let (small, large) = ("x".repeat(900), "x".repeat(100_000));
    queue.publish(&small).await.unwrap();
    queue.publish(&large).await.unwrap();
    assert_eq!(queue.event(2).await.unwrap().unwrap().payload::<String>().unwrap(), large);
    let no_number = queue.event(2).await.unwrap().unwrap().payload::<u8>().unwrap_err();
    assert_eq!(no_number.to_string(), "the payload of event 2 is not JSON of that type");
    let event = json_of(&event_path(&queue, 2));
    let file = queue.config().root_dir.join("payloads").join(event["event"]["payload_file"].as_str().unwrap());
    assert!(fs::metadata(&file).unwrap().len() < 2_000, "it is small");
    assert_eq!(fs::read(&file).unwrap()[..2], [0x1f, 0x8b], "gzip");
    assert!(json_of(&event_path(&queue, 1))["event"]["payload_file"].is_null());
    assert_eq!(queue.metrics().payloads_compressed, 1);
    assert!(queue.check().await.unwrap().is_empty());
    fs::write(&file, &fs::read(&file).unwrap()[..50]).unwrap();
    assert!(matches!(queue.event(2).await, Err(FileQueueError::Torn { .. })));
    fs::write(file.with_file_name("01900000-0000-7000-8000-000000000000.json.gz"), "").unwrap();
    let problems = queue.check().await.unwrap();
    assert!(matches!(&problems[..], [FolderProblem::Torn { .. }, FolderProblem::UnusedPayload { .. }]), "{problems:?}");
}

#[tokio::test]
async fn ids_of_removed_events_are_not_used_again() {
    let queue = FileQueue::open(FileQueueConfig { compress_from: Some(10), ..config(folder()) }).await.unwrap();
    let sleeper = another(&queue).await;
    sleeper.publish(&"the first").await.unwrap();
    queue.publish_all(&["two is long enough", "three is, too"]).await.unwrap();
    for _ in 0..2 {
        next_work(&queue).await.succeed(&()).await.unwrap();
    }
    assert_eq!(queue.remove_through(100).await.unwrap().through, 2, "the third has no result");
    next_work(&queue).await.succeed(&()).await.unwrap();
    let removed = queue.remove_through(100).await.unwrap();
    assert_eq!((removed.events, removed.through), (1, 3));
    assert_eq!(sleeper.publish(&"the fourth").await.unwrap().id(), 4);
    assert_eq!(another(&queue).await.publish(&"the fifth").await.unwrap().id(), 5);
    assert_eq!(queue.events_by_id(&[1, 3]).await.unwrap(), [None, None]);
    assert_eq!(next_work(&queue).await.event().id(), 4);
    assert!(queue.result(1).await.unwrap().is_some(), "results stay");
    assert_eq!(queue.count_claims(&Search::default()).await.unwrap(), 1, "claims go");
    assert_eq!(fs::read_dir(queue.config().root_dir.join("payloads")).unwrap().count(), 2, "payloads go");
    fs::write(event_path(&queue, 2), "{}").unwrap();
    assert_eq!(queue.event(2).await.unwrap(), None, "what lies below the mark is not there");
}

#[tokio::test]
async fn mistakes_in_the_configuration_are_named() {
    for (config, setting) in [
        (FileQueueConfig { claim_expiration: Duration::ZERO, ..config(folder()) }, "claim_expiration"),
        (FileQueueConfig { poll_interval: Duration::MAX, ..config(folder()) }, "poll_interval"),
        (FileQueueConfig { worker_id: Some(String::new()), ..config(folder()) }, "worker_id"),
        (FileQueueConfig { queue_name: Some("a\nb".into()), ..config(folder()) }, "queue_name"),
    ] {
        let error = FileQueue::open(config).await.unwrap_err();
        assert!(matches!(&error, FileQueueError::InvalidConfig { setting: named, .. } if *named == setting), "{error}");
    }
    let error = fresh().await.create_claim("", &()).await.unwrap_err();
    assert_eq!(error.to_string(), "invalid claim id ``: it is empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_that_nobody_waits_for_leaves_no_gap() {
    let queue = fresh().await;
    let payloads: Vec<_> = (0..300).collect();
    for _ in 0..3 {
        // polled once, then dropped
        assert!(tokio::time::timeout(Duration::ZERO, queue.publish_all(&payloads)).await.is_err());
    }
    until("all are there", async || queue.count_events(&Search::default()).await.unwrap() == 900).await;
    assert_eq!(queue.publish(&0).await.unwrap().id(), 901);
}

/// The janitor finds events whose publisher does not know yet that it was the one that got their ids.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_while_it_is_published_is_not_published_twice() {
    let queue = fresh().await;
    let (worker, janitor) = (another(&queue).await, another(&queue).await);
    let working = tokio::spawn(async move {
        let mut seen = Vec::new();
        while seen.last() != Some(&300) {
            let work = next_work(&worker).await;
            seen.push(work.event().payload::<u64>().unwrap());
            work.succeed(&()).await.unwrap();
        }
        seen
    });
    let removing = tokio::spawn(async move {
        loop {
            janitor.remove_through(u64::MAX).await.unwrap();
        }
    });
    let payloads: Vec<u64> = (1..=300).collect();
    queue.publish_all(&payloads).await.unwrap();
    assert_eq!(working.await.unwrap(), payloads, "in order, each once");
    removing.abort();
    assert_eq!(queue.publish(&0).await.unwrap().id(), 301);
}

#[tokio::test]
async fn a_claim_that_the_file_system_refuses_does_not_count_as_owned_by_a_worker() {
    let queue = fresh().await;
    fs::write(queue.config().root_dir.join("claims/task"), "").unwrap(); // instead of a folder
    assert!(matches!(queue.create_claim("task", &()).await, Err(FileQueueError::Io { .. })));
    assert_eq!(queue.metrics().claims_refused, 0);
    assert!(queue.create_claim("other", &()).await.unwrap());
    assert!(!queue.create_claim("other", &()).await.unwrap());
    assert_eq!(queue.metrics().claims_refused, 1);
}

#[cfg(unix)]
#[tokio::test]
async fn a_payload_that_cannot_be_read_now_is_not_taken_for_torn() {
    let queue = FileQueue::open(FileQueueConfig { compress_from: Some(10), ..config(folder()) }).await.unwrap();
    queue.publish(&"ten letters and more").await.unwrap();
    let event = json_of(&event_path(&queue, 1));
    let file = queue.config().root_dir.join("payloads").join(event["event"]["payload_file"].as_str().unwrap());
    let (folder, away) = (file.parent().unwrap(), file.parent().unwrap().with_extension("away"));
    fs::rename(folder, &away).unwrap();
    std::os::unix::fs::symlink(folder, folder).unwrap(); // reading it fails, as on a broken disk
    assert!(matches!(queue.event(1).await, Err(FileQueueError::Io { .. })));
    assert!(matches!(queue.try_claim_next().await, Err(FileQueueError::Io { .. })));
    fs::remove_file(folder).unwrap();
    fs::rename(&away, folder).unwrap();
    assert_eq!(next_work(&queue).await.event().id(), 1, "it was not passed over");
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_nobody_waits_for_any_more_stays_with_nobody() {
    let queue = fresh().await;
    queue.publish(&1).await.unwrap();
    for micros in (0..150).map(|number| number * 20) {
        if let Ok(work) = tokio::time::timeout(Duration::from_micros(micros), queue.claim_next()).await {
            work.unwrap().release().await.unwrap();
        }
    }
    // claims last for minutes
    assert_eq!(next_work(&another(&queue).await).await.event().id(), 1);
}

/// Fails if the files of all epochs stay: every call lists them.
#[tokio::test]
async fn a_claim_that_is_acquired_again_and_again_keeps_two_files() {
    let queue = fresh().await;
    for epoch in 1..=5 {
        let claim = queue.try_claim("task", &()).await.unwrap().unwrap();
        assert_eq!(claim.epoch, epoch);
        queue.release_claim(claim).await.unwrap();
    }
    let files = fs::read_dir(queue.config().root_dir.join("claims/task")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["000000000004.json", "000000000005.json"]);
}

/// Fails if such a claim stays: for minutes no worker can acquire, renew or release it.
#[tokio::test]
async fn a_claim_that_nobody_waits_for_any_more_is_released() {
    let queue = fresh().await;
    let mut given_up = Box::pin(queue.create_claim("task", &()));
    assert!(futures_util::poll!(&mut given_up).is_pending(), "it has begun");
    drop(given_up);
    until("it is released", async || {
        queue.get_claim("task").await.unwrap().is_some_and(|claim| claim.released_at.is_some())
    })
    .await;
    assert!(queue.create_claim("task", &()).await.unwrap());
}

#[cfg(unix)]
#[tokio::test]
async fn what_has_the_name_of_a_file_and_is_none_is_told_and_left_alone() {
    use std::os::unix::ffi::OsStrExt as _;
    let queue = fresh().await;
    let root = queue.config().root_dir.clone();
    queue.publish_all(&["one", "two"]).await.unwrap();
    fs::create_dir(event_path(&queue, 3)).unwrap();
    std::os::unix::fs::symlink("nowhere", event_path(&queue, 4)).unwrap();
    let foreign = [
        root.join("events").join(std::ffi::OsStr::from_bytes(b"\xff")),
        root.join(format!("events/000000000/{}.json", u64::MAX)),
        root.join("claims/task"), // instead of a folder
    ];
    foreign.iter().for_each(|path| fs::write(path, "").unwrap());
    let mut told: Vec<_> = queue.check().await.unwrap().iter().map(|problem| problem.path().to_owned()).collect();
    told.sort();
    let mut meant = [&foreign[..], &[event_path(&queue, 3), event_path(&queue, 4)]].concat();
    meant.sort();
    assert_eq!(told, meant);
    assert_eq!(queue.publish(&"five").await.unwrap().id(), 5);
    let ids: Vec<u64> = queue.events(&Search::default()).await.unwrap().items.iter().map(|event| event.id()).collect();
    assert_eq!(ids, [1, 2, 5]);
    for id in [1, 2, 5] {
        let work = next_work(&queue).await;
        assert_eq!(work.event().id(), id);
        work.succeed(&()).await.unwrap();
    }
    assert!(queue.try_claim_next().await.unwrap().is_none());
}

/// However many events were finished while the oldest one takes long.
#[tokio::test]
async fn what_is_done_is_not_looked_at_again() {
    let queue = fresh().await;
    queue.publish_all(&[1, 2, 3]).await.unwrap();
    let takes_long = next_work(&queue).await;
    next_work(&queue).await.succeed(&()).await.unwrap();
    let third = next_work(&queue).await;
    assert_eq!(third.event().id(), 3);
    third.release().await.unwrap();
    fs::remove_file(queue.config().root_dir.join("results/000000000/000000000002.json")).unwrap();
    assert_eq!(next_work(&queue).await.event().id(), 3);
    takes_long.succeed(&()).await.unwrap();
}
