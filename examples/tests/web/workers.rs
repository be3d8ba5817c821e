//! The workers as the bus and the store see them.

use crate::{
    common::{Database, File, Stream, until},
    web::{Web, recipients},
};

/// The lists of names and numbers that `XINFO` answers with.
type Infos = Vec<std::collections::HashMap<String, redis::Value>>;

fn names(infos: &Infos) -> Vec<String> {
    let mut names: Vec<_> = infos.iter().map(|info| redis::from_redis_value_ref(&info["name"]).unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn on_redis_they_are_three_consumers_of_a_group_that_begins_with_the_first_event() {
    let (mut stream, database) = (Stream::new(), Database::create());
    let mut web = Web::start(&[&["--store", &database.url][..], &stream.arguments()].concat());
    for number in 0..30 {
        assert_eq!(web.register("Ada", &format!("ada-{number}@example.com")).await.status, 201);
    }
    let groups: Infos = stream.run("XINFO GROUPS {}:stream");
    assert_eq!(names(&groups), ["email_workers"]);
    let all_joined =
        || names(&stream.run("XINFO CONSUMERS {}:stream email_workers")) == ["worker-0", "worker-1", "worker-2"];
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
    let mut web = Web::start(&["--store", &store]); // handles what the others left
    assert!(until(|| recipients(&file).len() >= 2));
    assert!(web.end("-TERM"));
    assert_eq!(recipients(&file), ["ada@example.com", "grace@example.com"]);
}
