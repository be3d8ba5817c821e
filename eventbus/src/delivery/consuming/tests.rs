//! Consumers that start, stop and die.

use futures_util::poll;

use super::*;
use crate::{
    domain::event::EventFilter,
    port::{Subscriber, Subscription},
};

static HERE: Name = Name::from_static("here");

fn join(subscribers: &Subscribers, group: &Name) -> Subscription {
    let subscriber = Subscriber::new(HERE.clone(), EventFilter::All, |_| Box::pin(async { Ok(()) }));
    subscribers.add(group.clone(), subscriber)
}

fn subscribers() -> Subscribers {
    let subscribers = Subscribers::default();
    join(&subscribers, &HERE);
    subscribers
}

/// A consumer that idles until it is stopped.
async fn idle(_: Name, stop: StopSignal) {
    stop.stopped().await;
}

#[test]
fn a_runtime_that_shuts_down_is_no_dead_consumer() {
    use futures_util::FutureExt;
    let (consuming, subscribers) = (Consuming::default(), subscribers());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let handle = runtime.handle().clone();
    let _here = handle.enter();
    let mut run = Box::pin(consuming.run(&HERE, &subscribers, idle));
    assert!((&mut run).now_or_never().is_none());
    drop(runtime);
    assert!((&mut run).now_or_never().is_none());
    assert!((&mut run).now_or_never().is_none(), "starts no replacement");
}

#[tokio::test]
async fn a_consumer_that_dies_is_replaced() {
    let (consuming, subscribers) = (Consuming::default(), subscribers());
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let first = std::cell::Cell::new(true);
    let run = consuming.run(&HERE, &subscribers, |_, stop| {
        let (begun, dies) = (begun.clone(), first.replace(false));
        async move {
            begun.send(dies).unwrap();
            assert!(!dies, "as the test wants it");
            stop.stopped().await;
        }
    });
    let mut run = Box::pin(run);
    for dies in [true, false] {
        let began = tokio::select! {
            began = begins.recv() => began,
            _ = &mut run => panic!("the run ended without a stop"),
        };
        assert_eq!(began, Some(dies));
    }
    tokio::join!(consuming.stop(), run).1.unwrap();
}

/// Consumers wait for a server that is away until a shutdown aborts them.
#[tokio::test]
async fn a_shutdown_that_nobody_waits_for_any_more_aborts() {
    let (consuming, subscribers) = (Consuming::default(), subscribers());
    let mut run = Box::pin(consuming.run(&HERE, &subscribers, |_, _| std::future::pending()));
    assert!(poll!(&mut run).is_pending());
    let mut shutdown = Box::pin(consuming.shutdown(&subscribers, "bus", Duration::from_secs(3_600)));
    assert!(poll!(&mut shutdown).is_pending() && poll!(&mut run).is_pending());
    drop(shutdown);
    tokio::time::timeout(Duration::from_secs(60), run).await.expect("it ends").unwrap();
    assert!(!consuming.is_running());
}

/// Returns the delays between the death of a consumer, after `life`, and the start of its replacement.
async fn delays(life: Duration, count: usize) -> Vec<Duration> {
    let (consuming, subscribers) = (Consuming::default(), subscribers());
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let run = consuming.run(&HERE, &subscribers, |_, _| {
        let begun = begun.clone();
        async move {
            begun.send(Instant::now()).unwrap();
            tokio::time::sleep(life).await;
            panic!("as the test wants it");
        }
    });
    let mut seen = Vec::new();
    let seeing = async {
        while seen.len() <= count {
            seen.extend(begins.recv().await);
        }
    };
    tokio::select! {
        () = seeing => {}
        _ = run => panic!("the run ended without a stop"),
    }
    seen.windows(2).map(|pair| pair[1] - pair[0] - life).collect()
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_dies_again_and_again_is_replaced_ever_later() {
    let delays = delays(Duration::from_millis(1), 20).await;
    assert!(delays[0] <= Duration::from_millis(51) && delays[0] >= Duration::from_millis(25), "{delays:?}");
    assert!(delays.iter().skip(10).all(|delay| *delay >= Duration::from_millis(2_500)), "{delays:?}");
    assert!(delays.iter().all(|delay| *delay <= Duration::from_millis(5_001)), "{delays:?}");
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_lived_long_is_replaced_soon() {
    let delays = delays(RESTART_BACKOFF_RESET_AFTER, 10).await;
    assert!(delays.iter().all(|delay| *delay <= Duration::from_millis(51)), "{delays:?}");
}

#[tokio::test(start_paused = true)]
async fn stopping_does_not_wait_for_a_replacement() {
    let (consuming, subscribers) = (Consuming::default(), subscribers());
    let run = consuming.run(&HERE, &subscribers, |_, _| async { panic!("as the test wants it") });
    let (_, stopped) = tokio::join!(run, async {
        tokio::time::sleep(Duration::from_secs(60)).await; // the next consumer starts only after a while
        let began = Instant::now();
        consuming.stop().await;
        began.elapsed()
    });
    assert_eq!(stopped, Duration::ZERO);
}

#[tokio::test]
async fn a_group_that_loses_its_last_subscriber_is_stopped_alone() {
    static OTHER: Name = Name::from_static("other");
    let (consuming, subscribers) = (Consuming::default(), subscribers());
    let subscription = join(&subscribers, &OTHER);
    let (stopped, mut stops) = tokio::sync::mpsc::unbounded_channel();
    let run = consuming.run(&HERE, &subscribers, |group, stop| {
        let stopped = stopped.clone();
        async move {
            stop.stopped().await;
            stopped.send(group).unwrap();
        }
    });
    let mut run = Box::pin(run);
    assert!(poll!(&mut run).is_pending());
    subscription.cancel();
    let gone = tokio::select! {
        gone = stops.recv() => gone,
        _ = &mut run => panic!("the run ended without a stop"),
    };
    assert_eq!(gone.as_ref(), Some(&OTHER));
    assert!(stops.try_recv().is_err());
    tokio::join!(consuming.stop(), run).1.unwrap();
    assert_eq!(stops.recv().await.as_ref(), Some(&HERE));
}

#[tokio::test]
async fn stopping_ends_though_another_run_begins_at_once() {
    let (consuming, subscribers) = (Consuming::default(), subscribers());
    let mut first = Box::pin(consuming.run(&HERE, &subscribers, idle));
    assert!(poll!(&mut first).is_pending());
    let mut stopping = Box::pin(consuming.stop());
    assert!(poll!(&mut stopping).is_pending());
    first.await.unwrap();
    let mut second = Box::pin(consuming.run(&HERE, &subscribers, idle));
    assert!(poll!(&mut second).is_pending());
    assert!(poll!(&mut stopping).is_ready());
    assert!(consuming.is_running(), "the second run goes on");
}
