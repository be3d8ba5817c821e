//! Consumers that are processes of their own: this test binary again, told by its environment what to play.

use std::{
    env,
    io::Read,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use eventbus::port::EventBus;
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

use crate::journal::Journal;

/// Short, where consumers die.
pub(crate) const SHORT: Duration = Duration::from_millis(500);
/// Long enough for a machine that is busy, where they are not to lose it.
pub(crate) const LONG: Duration = Duration::from_secs(3);

pub(crate) fn config(url: &str, prefix: &str, partitions: u32, lease: Duration) -> RedisEventBusConfig {
    RedisEventBusConfig {
        redis_url: url.into(),
        stream_prefix: prefix.into(),
        batch_size: 20,
        max_in_hand: Some(60),
        concurrency: 4,
        block_ms: 100,
        retry_delay_ms: 10,
        partitions,
        partition_lease_ms: lease.as_millis() as u64,
        ..RedisEventBusConfig::default()
    }
}

/// What a process plays; does nothing in an ordinary run.
#[tokio::test(flavor = "multi_thread")]
async fn the_consumer_that_is_a_process() {
    let Ok(prefix) = env::var("PARTITIONS_PREFIX") else {
        return;
    };
    let var = |name| env::var(name).unwrap();
    let fails = env::var_os("PARTITIONS_FAILS").is_some();
    let lease = if fails { SHORT } else { LONG };
    let bus = RedisEventBus::connect(config(&var("PARTITIONS_URL"), &prefix, 8, lease)).await.unwrap();
    let journal = Journal::on(&var("PARTITIONS_JOURNAL"), prefix).await;
    let work = Duration::from_millis(var("PARTITIONS_WORK_MS").parse().unwrap());
    journal.join(&bus, work, fails);
    let stopping = bus.clone();
    tokio::spawn(async move {
        let closed = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0]).unwrap());
        closed.await.unwrap();
        while !stopping.is_consuming() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stopping.stop_consuming().await;
    });
    bus.start_consuming().await.unwrap();
}

/// A process that consumes.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn spawn(url: &str, journal: &str, prefix: &str, fails: bool) -> Self {
        Self::working(url, journal, prefix, fails, 1)
    }

    /// Its handler takes so many milliseconds.
    pub(crate) fn working(url: &str, journal: &str, prefix: &str, fails: bool, work_ms: u64) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--exact", "process::the_consumer_that_is_a_process", "--nocapture"])
            .env("PARTITIONS_PREFIX", prefix)
            .env("PARTITIONS_URL", url)
            .env("PARTITIONS_JOURNAL", journal)
            .env("PARTITIONS_WORK_MS", work_ms.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if fails {
            command.env("PARTITIONS_FAILS", "1");
        }
        Self(command.spawn().unwrap())
    }

    /// Sends it a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap(); // SIGKILL
        self.0.wait().unwrap();
    }

    /// Tells it to stop, and waits until it has.
    pub(crate) async fn stop(mut self) {
        drop(self.0.stdin.take());
        let end = Instant::now() + Duration::from_secs(20);
        while self.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "it does not stop");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Waits until something holds, for longer than usual.
pub(crate) async fn until_within(what: &str, within: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + within;
    while !holds().await {
        assert!(Instant::now() < end, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until a group has nothing left to do.
pub(crate) async fn until_finished(bus: &RedisEventBus, within: Duration) {
    let group = bus.default_group();
    until_within("the group has finished everything", within, async || {
        bus.progress(group).await.is_ok_and(|progress| progress.unread + progress.pending == 0)
    })
    .await;
}
