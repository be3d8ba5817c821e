//! A thousand users register while workers are killed and Redis restarts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use serde_json::json;
use tokio::{
    task::block_in_place,
    time::{Instant, sleep},
};

use crate::{
    common::{File, Stream, until},
    web::{Web, mails, recipients},
};

const USERS: usize = 1_000;
/// Number of users who register at the same time.
const AT_ONCE: usize = 8;
/// Number of further registrations after which the next process of workers is killed.
const KILL_EVERY: usize = 100;

fn email(number: usize) -> String {
    format!("user-{number}@example.com")
}

/// Registers all users, and counts them; returns the last position.
async fn register_all(web: &Web, registered: &AtomicUsize) -> u64 {
    let register = |number: usize| async move {
        let answer = web.post(&json!({ "name": format!("User {number}"), "email": email(number) })).await;
        assert_eq!(answer.status, 201, "{answer:#?}");
        registered.fetch_add(1, Ordering::SeqCst);
        answer.body["position"].as_u64().unwrap()
    };
    let positions = stream::iter((0..USERS).map(register)).buffer_unordered(AT_ONCE);
    positions.fold(0, async |last, position| last.max(position)).await
}

async fn until_registered(registered: &AtomicUsize, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while registered.load(Ordering::SeqCst) < count {
        assert!(Instant::now() < deadline, "{registered:?} of {count} are registered");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Kills and restarts a second process of workers again and again, and restarts Redis once.
async fn trouble(arguments: &[&str], redis: &mut eventbus_test::PrivateRedis, registered: &AtomicUsize) -> Web {
    let arguments = [arguments, &["--worker", "other"]].concat();
    let mut other = block_in_place(|| Web::start(&arguments));
    for count in (KILL_EVERY..USERS).step_by(KILL_EVERY) {
        until_registered(registered, count).await;
        let is_busy = || other.process.stdout().iter().any(|line| line.contains("a mail for"));
        assert!(block_in_place(|| until(is_busy)), "the other process takes its share");
        drop(other); // SIGKILL
        if count == USERS / 2 {
            block_in_place(|| redis.stop());
            until_registered(registered, count + KILL_EVERY / 2).await;
            block_in_place(|| redis.start());
        }
        other = block_in_place(|| Web::start(&arguments));
    }
    other
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_users_get_one_mail_each_and_are_counted_once_though_workers_and_redis_die() {
    let mut redis = block_in_place(eventbus_test::private_redis);
    let (database, url) = (eventbus_test::postgres(), redis.url().to_owned());
    let arguments = ["--store", database.url(), "--bus", &url];
    let mut web = block_in_place(|| Web::start(&arguments));
    let registered = AtomicUsize::new(0);
    let (last, mut other) = tokio::join!(register_all(&web, &registered), trouble(&arguments, &mut redis, &registered));

    let counted = web.get(&format!("/analytics?position={last}")).await;
    assert_eq!(counted.body["registered_users"], USERS, "{counted:#?}");
    let mut stream = Stream::on(&url);
    stream.prefix = "users".into();
    let deadline = Instant::now() + Duration::from_secs(120);
    while mails(&database).await.len() < USERS || block_in_place(|| stream.pending("email_workers")) > 0 {
        assert!(Instant::now() < deadline, "{:#?}{:#?}", web.process.stderr(), other.process.stderr());
        sleep(Duration::from_millis(20)).await;
    }
    assert!(web.end("-TERM") && other.end("-TERM"), "{:#?}{:#?}", web.process.stderr(), other.process.stderr());
    let written: BTreeMap<_, _> = mails(&database).await.into_iter().collect();
    let expected: BTreeMap<_, _> = (0..USERS).map(|number| (email(number), 1)).collect();
    let wrong: Vec<_> = written.iter().filter(|mail| expected.get(mail.0) != Some(mail.1)).collect();
    assert!(written == expected, "{} users, not one mail each: {wrong:?}", written.len());
}

/// Number of users who register in each life of an embedded service, and of answers after which it is killed.
const A_LIFE: usize = 60;
const ANSWERED: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_each_user_gets_one_mail_and_is_counted_once_though_the_service_is_killed() {
    let file = File::new("users.db");
    let store = format!("sqlite:{}", file.path());
    let start = || block_in_place(|| Web::start(&["--store", &store]));
    let mut missing: BTreeSet<usize> = (0..5 * A_LIFE).collect();
    for life in 0..5 {
        let (web, answered) = (start(), AtomicUsize::new(0));
        let (web, answered) = (&web, &answered);
        let register = |number: usize| async move {
            // no answer: the user may be registered
            let answer = web.try_post(&json!({ "name": "Ada", "email": email(number) })).await.ok()?;
            assert!([201, 409].contains(&answer.status.as_u16()), "{answer:#?}");
            answered.fetch_add(1, Ordering::SeqCst);
            Some(number)
        };
        let kill = async {
            until_registered(answered, ANSWERED).await;
            web.process.signal("-KILL");
        };
        let batch = missing.iter().copied().filter(|number| *number < (life + 1) * A_LIFE).map(register);
        let registering = stream::iter(batch.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).collect::<Vec<_>>();
        let (registered, ()) = tokio::join!(registering, kill);
        for number in registered.into_iter().flatten() {
            missing.remove(&number);
        }
    }
    let mut web = start();
    for number in missing.into_iter().chain([5 * A_LIFE]) {
        assert!([201, 409].contains(&web.register("Ada", &email(number)).await.status.as_u16()));
    }
    let last = web.register("Grace", "grace@example.com").await.body["position"].clone();
    let counted = web.get(&format!("/analytics?position={last}")).await;
    // events that were in flight when the service was killed run one at a time, each after a delay
    let all = 5 * A_LIFE + 2;
    let deadline = Instant::now() + Duration::from_secs(120);
    while recipients(&file).len() < all {
        assert!(Instant::now() < deadline, "{} of {all} mails: {:#?}", recipients(&file).len(), web.process.stderr());
        sleep(Duration::from_millis(20)).await;
    }
    assert!(web.end("-TERM"), "{:#?}", web.process.stderr());
    let mut written = recipients(&file);
    assert_eq!(counted.body["registered_users"], all, "{counted:#?}");
    written.sort();
    written.dedup();
    let again = recipients(&file).len() - written.len();
    assert_eq!((written.len(), again), (all, 0), "mails, and those that were written again");
}
