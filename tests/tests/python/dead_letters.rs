//! Dead letters that one side makes and the other replays.

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

/// What makes Python's handler fail until the events are dead letters.
const DEADLY: [&str; 3] = ["--failures", "4", "--recover"];

async fn letters(bus: &RedisEventBus) -> Vec<DeadLetter> {
    bus.dead_letters(&DeadLetterFilter::default(), None, 100).await.unwrap().letters
}

with_each_release!(dead_letters_that_python_made_and_replayed_are_handled_here);

async fn dead_letters_that_python_made_and_replayed_are_handled_here(python: &Path) {
    let bus = bus().await;
    bus.publish(&records()).await.unwrap();
    let mut script = Script::start(python, "consume.py", &bus, &DEADLY);
    settled(&bus).await;
    script.end().await;
    let letters = entries(&bus, &bus.config().dlq_stream_name()).await;
    assert_eq!(letters.iter().map(|letter| letter[..7].to_vec()).collect::<Vec<_>>(), golden());
    for letter in letters {
        let names: Vec<_> = letter[7..].iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["original_message_id", "retry_count", "dlq_timestamp"]);
    }
    assert_eq!(run(python, "replay.py", &bus).await.said("replayed"), [true; 3]);
    assert_eq!(handled_here(&bus).await, expected());
}

/// Adds entries that are no events, and says their fields.
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

    let found = letters(&bus).await;
    assert_eq!(found.iter().map(|letter| letter.fields.clone()).collect::<Vec<_>>(), [golden(), broken].concat());
    let decoded: Vec<_> = found.iter().map(|letter| letter.record.as_ref().map(id)).collect();
    let ids: Vec<_> = records().iter().map(id).collect();
    assert_eq!(decoded, [ids.iter().cloned().map(Some).collect(), vec![None; 2]].concat());
    for letter in &found {
        assert_eq!((letter.retry_count, letter.attempts, &letter.group), (Some(3), None, &None));
        assert!(letter.event_type.is_some() && letter.original_message_id.is_some());
        assert!(letter.dead_lettered_at.is_some_and(|at| at > began && at < OffsetDateTime::now_utc()));
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
    let errors: Vec<_> = letters(&bus).await.into_iter().map(|letter| letter.error.unwrap()).collect();
    assert_eq!(errors.len(), 2, "what is no event dies here at once: {errors:?}");
    assert!(errors.iter().all(|error| error.starts_with("`payload` ")), "{errors:?}");
}

/// A bus where a failed event is tried again once, and soon.
async fn impatient() -> RedisEventBus {
    let config = RedisEventBusConfig { max_retries: Some(1), retry_delay_ms: 10, ..config() };
    RedisEventBus::connect(config).await.unwrap()
}

/// The one dead letter, as soon as there is one.
async fn the_letter(bus: &RedisEventBus) -> DeadLetter {
    until("there is a dead letter", async || letters(bus).await.len() == 1).await;
    letters(bus).await.remove(0)
}

/// Publishes the last of the samples, with the one field more that ours have.
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
        let letter = the_letter(&bus).await;
        assert_eq!((letter.attempts, letter.retry_count), (Some(2), Some(1)), "life {life}");
        assert_eq!((letter.error.as_deref(), letter.group.as_deref()), (Some("fails 4 times"), Some("default")));
        let times = [Some(born), letter.first_failed_at, letter.last_failed_at, letter.dead_lettered_at];
        assert!(times.is_sorted(), "life {life}: {times:?}");

        born = OffsetDateTime::now_utc();
        let script = run(python, "replay.py", &bus).await;
        assert_eq!(script.said("replayed"), [true]);
        let data = &script.said("data")[0];
        assert_eq!(data["original_message_id"], letter.original_message_id.unwrap().as_str());
        assert_eq!((&data["event_id"], &data["position"]), (&event_id.as_str().into(), &"77".into()));
        assert_eq!((&data["retry_count"], &data["attempts"]), (&"1".into(), &"2".into()), "life {life}");
        let at = letter.dead_lettered_at.unwrap();
        assert_eq!(script.said("dead_since")[0].as_i64().map(i128::from), Some(at.unix_timestamp_nanos() / 1_000));
    }
    settled(&bus).await;
    pending(&bus, &Name::from_static("other"), 0).await;
    stop(&bus, consumer).await;
    other.end().await;
    assert_eq!((here.failed().len(), here.handled()), (4, vec![event_id.clone()]));
    assert_eq!(other.said("handled"), [event_id.as_str(); 3]);
    assert_eq!(other.said("is_sample"), [true; 3]);
    assert!(letters(&bus).await.is_empty());
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

    let letter = the_letter(&bus).await;
    assert_eq!((letter.error, letter.handler, letter.group), (None, None, None));
    assert_eq!((letter.attempts, letter.retry_count), (None, Some(3)));
    assert_eq!((letter.first_failed_at, letter.done_handlers), (None, vec![]));
    assert!(bus.replay(&letter.id).await.unwrap());
    let consumer = bus.start_consuming_in_background();
    settled(&bus).await;
    stop(&bus, consumer).await;
    assert_eq!(here.handled(), [event_id]);
}
