//! The workers in the records of the bus and the store.

use redis::streams::StreamRangeReply;

use crate::{
    common::{File, Stream, until},
    web::{Web, mails, recipients},
};

/// The lists of names and numbers that `XINFO` answers with.
type Infos = Vec<std::collections::HashMap<String, redis::Value>>;

fn names(infos: &Infos) -> Vec<String> {
    let mut names: Vec<_> = infos.iter().map(|info| redis::from_redis_value_ref(&info["name"]).unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn on_redis_they_are_a_consumer_of_a_group_that_begins_with_the_first_event() {
    let (mut stream, database) = (Stream::new(), eventbus_test::postgres());
    let mut web = Web::start(&[&["--store", database.url()][..], &stream.arguments()].concat());
    for number in 0..30 {
        assert_eq!(web.register("Ada", &format!("ada-{number}@example.com")).await.status, 201);
    }
    let groups: Infos = stream.run("XINFO GROUPS {}:stream");
    assert_eq!(names(&groups), ["email_workers"]);
    let all_joined = || names(&stream.run("XINFO CONSUMERS {}:stream email_workers")) == ["worker"];
    assert!(until(all_joined));
    let welcomed = |number: usize| {
        let mail = format!("a mail for ada-{number}@example.com");
        web.process.stdout().iter().any(|line| line.contains(&mail))
    };
    assert!(until(|| (0..30).all(welcomed)), "{:#?}", web.process.stdout());
    assert!(web.end("-TERM"), "{:#?}", web.process.stderr());
    assert_eq!(stream.pending("email_workers"), 0, "what they had in hand is acknowledged");
}

#[tokio::test]
async fn users_who_register_before_there_are_a_group_and_workers_get_their_mail() {
    let (mut stream, database) = (Stream::new(), eventbus_test::postgres());
    let prefix = stream.prefix.clone();
    let arguments = ["--store", database.url(), "--bus", eventbus_test::redis_url(), "--prefix", &prefix];
    let mut early = Web::start(&[&arguments[..], &["--workers", "0"]].concat());
    let emails: Vec<_> = (0..20).map(|number| format!("ada-{number}@example.com")).collect();
    for email in &emails {
        assert_eq!(early.register("Ada", email).await.status, 201);
    }
    early.until_status("/health/ready", 200).await;
    assert!(until(|| stream.payloads().len() == 20), "they are published");
    assert!(early.end("-TERM"), "{:#?}", early.process.stderr());
    assert_eq!(mails(&database).await, []);

    let mut web = Web::start(&arguments);
    web.process.until(&emails.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(web.end("-TERM"), "{:#?}", web.process.stderr());
    let mut once: Vec<_> = emails.into_iter().map(|email| (email, 1)).collect();
    let mut mails = mails(&database).await;
    mails.sort();
    once.sort();
    assert_eq!(mails, once);
}

#[tokio::test]
async fn what_others_write_into_the_stream_is_set_aside_whole_and_holds_up_nobody() {
    let (mut stream, database) = (Stream::new(), eventbus_test::postgres());
    let web = Web::start(&[&["--store", database.url()][..], &stream.arguments()].concat());
    let fields = "user_id 123 email user@example.com timestamp 2024-01-15T10:00:00";
    let id: String = stream.run(&format!("XADD {{}}:stream * {fields}"));
    assert_eq!(web.register("Ada", "ada@example.com").await.status, 201);
    web.process.until(&["a mail for ada@example.com"]);
    let mut dead = Vec::new();
    let is_dead = || {
        let letters: StreamRangeReply = stream.run("XRANGE {}:stream_dlq - +");
        dead = letters.ids;
        dead.len() == 1 && stream.pending("email_workers") == 0
    };
    assert!(until(is_dead), "{dead:#?}");
    let said = |field: &str| dead[0].get::<String>(field).unwrap();
    assert_eq!(
        ["user_id", "email", "timestamp", "original_message_id"].map(said),
        ["123", "user@example.com", "2024-01-15T10:00:00", &id]
    );
    assert_eq!(said("error"), "`payload` is missing");
    web.process.until(&[&id]);
    assert_eq!(mails(&database).await, [("ada@example.com".to_owned(), 1)]);
}

#[tokio::test]
async fn in_a_file_users_mails_and_figures_outlive_the_process() {
    let file = File::new("users.db");
    let store = format!("sqlite:{}", file.path());
    for (number, name) in ["ada", "grace"].into_iter().enumerate() {
        let mut web = Web::start(&["--store", &store]);
        let created = web.register(name, &format!("{name}@example.com")).await;
        let read = web.get(&format!("/analytics?position={}", created.body["position"])).await;
        assert_eq!(read.body["registered_users"], number + 1);
        assert_eq!(web.register("Ada", "ada@example.com").await.status, 409);
        assert!(web.end("-INT"));
    }
    let mut web = Web::start(&["--store", &store]); // handles the events that the former workers left
    assert!(until(|| recipients(&file).len() >= 2));
    assert!(web.end("-TERM"));
    assert_eq!(recipients(&file), ["ada@example.com", "grace@example.com"]);
}
