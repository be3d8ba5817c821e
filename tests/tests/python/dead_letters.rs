//! Dead letters that one side makes and the other side replays.

use std::path::Path;

use eventbus::{
    Name, Position,
    port::{DeadLetter, DeadLetterFilter, DeadLetters, EventBus},
    prelude::*,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use time::OffsetDateTime;

use super::{
    Fields, bus, command, config, entries, expected,
    fallible::{Fallible, id, stop},
    golden, handled_here, pending, records,
    script::{Script, run},
    settled, until,
};

/// Arguments that make Python's handler fail until the events are dead letters.
const DEADLY: [&str; 3] = ["--failures", "4", "--recover"];

async fn dead_letters(bus: &RedisEventBus) -> Vec<DeadLetter> {
    bus.list_dead_letters(&DeadLetterFilter::default(), None, 100).await.unwrap().letters
}

with_each_release!(dead_letters_that_python_made_and_replayed_are_handled_here);

async fn dead_letters_that_python_made_and_replayed_are_handled_here(python: &Path) {
    let bus = bus().await;
    bus.publish(&records()).await.unwrap();
    let mut script = Script::start(python, "consume.py", &bus, &DEADLY);
    settled(&bus).await;
    script.end().await;
    let dead_letters = entries(&bus, &bus.config().dlq_stream_name()).await;
    assert_eq!(dead_letters.iter().map(|dead_letter| dead_letter[..7].to_vec()).collect::<Vec<_>>(), golden());
    for dead_letter in dead_letters {
        let names: Vec<_> = dead_letter[7..].iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["original_message_id", "retry_count", "dlq_timestamp"]);
    }
    assert_eq!(run(python, "replay.py", &bus).await.said("replayed"), [true; 3]);
    assert_eq!(handled_here(&bus).await, expected());
}

/// Adds entries that are no events, and returns their fields.
async fn publish_broken(bus: &RedisEventBus) -> Vec<Fields> {
    let broken = [["event_type", "NoFields"].as_slice(), &["event_type", "NoFields", "payload", "{"]];
    for fields in broken {
        let stream = bus.config().stream_name();
        let _: String = command(bus, "XADD", &[&[stream.as_str(), "*"], fields].concat()).await;
    }
    let pair = |pair: &[&str]| (pair[0].into(), pair[1].into());
    broken.iter().map(|fields| fields.chunks(2).map(pair).collect()).collect()
}

with_each_release!(dead_letters_that_python_made_are_shown_and_replayed_here_for_every_group);

async fn dead_letters_that_python_made_are_shown_and_replayed_here_for_every_group(python: &Path) {
    let bus = bus().await;
    let began = OffsetDateTime::now_utc();
    bus.publish(&records()).await.unwrap();
    let broken = publish_broken(&bus).await;
    let mut script = Script::start(python, "consume.py", &bus, &DEADLY);
    settled(&bus).await;
    script.end().await;

    let found = dead_letters(&bus).await;
    assert_eq!(
        found.iter().map(|dead_letter| dead_letter.fields.clone()).collect::<Vec<_>>(),
        [golden(), broken].concat()
    );
    let decoded: Vec<_> = found.iter().map(|dead_letter| dead_letter.record.as_ref().map(id)).collect();
    let ids: Vec<_> = records().iter().map(id).collect();
    assert_eq!(decoded, [ids.iter().cloned().map(Some).collect(), vec![None; 2]].concat());
    for dead_letter in &found {
        assert_eq!((dead_letter.retry_count, dead_letter.attempts, &dead_letter.group), (Some(3), None, &None));
        assert!(dead_letter.event_type.is_some() && dead_letter.original_message_id.is_some());
        assert!(dead_letter.dead_lettered_at.is_some_and(|at| at > began && at < OffsetDateTime::now_utc()));
    }

    let other = Name::from_static("other");
    let mut script = Script::start(python, "consume.py", &bus, &["--group", "other", "--quiet"]);
    until("the other group is there", async || bus.progress(&other).await.is_ok()).await;
    pending(&bus, &other, 2).await;
    let here = Fallible::on(&bus, 0, None);
    let consumer = bus.start_consuming_in_background();
    assert!(bus.replay(&found[2].id).await.unwrap());
    assert!(!bus.replay(&found[2].id).await.unwrap(), "it is gone");
    settled(&bus).await;
    assert_eq!(here.handled(), [ids[2].clone()]);
    assert_eq!(bus.replay_all(&DeadLetterFilter::default()).await.unwrap(), 4);
    settled(&bus).await;
    pending(&bus, &other, 4).await;
    stop(&bus, consumer).await;
    script.end().await;
    let [one, two, three] = ids.try_into().unwrap();
    assert_eq!(here.handled(), [&three, &one, &two].map(Clone::clone));
    assert_eq!(script.said("handled"), [&one, &two, &three, &three, &one, &two].map(String::as_str));
    let errors: Vec<_> = dead_letters(&bus).await.into_iter().map(|dead_letter| dead_letter.error.unwrap()).collect();
    assert_eq!(errors.len(), 2, "what is no event dies here at once: {errors:?}");
    assert!(errors.iter().all(|error| error.starts_with("`payload` ")), "{errors:?}");
}

/// Returns a bus that retries a failed event once, and soon.
async fn impatient() -> RedisEventBus {
    let config = RedisEventBusConfig { max_retries: Some(1), retry_delay_ms: 10, ..config() };
    RedisEventBus::connect(config).await.unwrap()
}

/// Returns the only dead letter, once there is one.
async fn the_letter(bus: &RedisEventBus) -> DeadLetter {
    until("there is a dead letter", async || dead_letters(bus).await.len() == 1).await;
    dead_letters(bus).await.remove(0)
}

/// Publishes the last sample, with the additional field of this library's entries.
async fn publish_one(bus: &RedisEventBus) -> String {
    let record = records().remove(2);
    let metadata = record.metadata().clone().with_position(Some(Position::new(77)));
    bus.publish(&[RecordedEvent::new(metadata, record.payload())]).await.unwrap();
    id(&record)
}

with_each_release!(dead_letters_that_were_made_here_are_shown_and_replayed_by_python);

async fn dead_letters_that_were_made_here_are_shown_and_replayed_by_python(python: &Path) {
    let bus = impatient().await;
    let event_id = publish_one(&bus).await;
    let mut other = Script::start(python, "consume.py", &bus, &["--group", "other"]);
    let here = Fallible::on(&bus, 4, None); // it dies twice
    let consumer = bus.start_consuming_in_background();
    let mut born = OffsetDateTime::UNIX_EPOCH;
    for life in 1..=2 {
        let dead_letter = the_letter(&bus).await;
        assert_eq!((dead_letter.attempts, dead_letter.retry_count), (Some(2), Some(1)), "life {life}");
        assert_eq!(
            (dead_letter.error.as_deref(), dead_letter.group.as_deref()),
            (Some("fails 4 times"), Some("default"))
        );
        let times = [Some(born), dead_letter.first_failed_at, dead_letter.last_failed_at, dead_letter.dead_lettered_at];
        assert!(times.is_sorted(), "life {life}: {times:?}");

        born = OffsetDateTime::now_utc();
        let script = run(python, "replay.py", &bus).await;
        assert_eq!(script.said("replayed"), [true]);
        let data = &script.said("data")[0];
        assert_eq!(data["original_message_id"], dead_letter.original_message_id.unwrap().as_str());
        assert_eq!((&data["event_id"], &data["position"]), (&event_id.as_str().into(), &"77".into()));
        assert_eq!((&data["retry_count"], &data["attempts"]), (&"1".into(), &"2".into()), "life {life}");
        let at = dead_letter.dead_lettered_at.unwrap();
        assert_eq!(script.said("dead_since")[0].as_i64().map(i128::from), Some(at.unix_timestamp_nanos() / 1_000));
    }
    settled(&bus).await;
    pending(&bus, &Name::from_static("other"), 0).await;
    stop(&bus, consumer).await;
    other.end().await;
    assert_eq!((here.failed().len(), here.handled()), (4, vec![event_id.clone()]));
    assert_eq!(other.said("handled"), [event_id.as_str(); 3]);
    assert_eq!(other.said("is_sample"), [true; 3]);
    assert!(dead_letters(&bus).await.is_empty());
}

with_each_release!(a_dead_letter_that_dies_again_there_tells_nothing_of_its_death_here);

async fn a_dead_letter_that_dies_again_there_tells_nothing_of_its_death_here(python: &Path) {
    let bus = impatient().await;
    let event_id = publish_one(&bus).await;
    let here = Fallible::on(&bus, 2, None);
    let consumer = bus.start_consuming_in_background();
    assert_eq!(the_letter(&bus).await.group.as_deref(), Some("default"));
    stop(&bus, consumer).await;
    assert_eq!(run(python, "replay.py", &bus).await.said("replayed"), [true]);
    let mut script = Script::start(python, "consume.py", &bus, &DEADLY);
    settled(&bus).await;
    script.end().await;

    let dead_letter = the_letter(&bus).await;
    assert_eq!((dead_letter.error, dead_letter.handler, dead_letter.group), (None, None, None));
    assert_eq!((dead_letter.attempts, dead_letter.retry_count), (None, Some(3)));
    assert_eq!((dead_letter.first_failed_at, dead_letter.done_handlers), (None, vec![]));
    assert!(bus.replay(&dead_letter.id).await.unwrap());
    let consumer = bus.start_consuming_in_background();
    settled(&bus).await;
    stop(&bus, consumer).await;
    assert_eq!(here.handled(), [event_id]);
}
