//! Each route, and each refusal.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::json;

use crate::{common::run, web::Web};

#[tokio::test]
async fn a_user_is_created_shown_counted_and_welcomed() {
    let web = Web::start(&[]);
    let created = web.register("Ada", "ada@example.com").await;
    assert_eq!(created.status, 201, "{created:#?}");
    let id = created.body["id"].as_str().unwrap();
    assert_eq!(created.header("location"), format!("/users/{id}"));
    assert_eq!(created.body, json!({ "id": id, "name": "Ada", "email": "ada@example.com", "position": 1 }));

    let shown = web.get(created.header("location")).await;
    assert_eq!(shown.status, 200);
    assert_eq!(shown.body, json!({ "id": id, "name": "Ada", "email": "ada@example.com" }));
    web.process.until(&["a mail for ada@example.com"]);
}

#[tokio::test]
async fn whoever_asks_with_the_position_of_a_registration_finds_it_counted() {
    let web = Web::start(&[]);
    assert_eq!(web.get("/analytics").await.body, json!({ "registered_users": 0, "per_day": {} }));
    for number in 1..=20 {
        // requested before the event exists: the answer waits
        let (path, email) = (format!("/analytics?position={number}"), format!("ada-{number}@example.com"));
        let (read, created) = tokio::join!(web.get(&path), web.register("Ada", &email));
        assert_eq!((&created.body["position"], &read.body["registered_users"]), (&json!(number), &json!(number)));
        let per_day = read.body["per_day"].as_object().unwrap();
        assert_eq!(per_day.values().map(|users| users.as_u64().unwrap()).sum::<u64>(), number, "{read:#?}");
    }
}

#[tokio::test]
async fn what_is_not_counted_in_time_is_to_be_asked_for_again() {
    let web = Web::start(&["--wait-ms", "1"]);
    let read = web.get("/analytics?position=1").await;
    assert_eq!(read.problem().0, 503);
    assert_eq!(read.header("retry-after"), "1");
    assert_eq!(web.get("/analytics?position=first").await.problem().0, 400);
}

#[tokio::test]
async fn mistakes_are_named_by_field_all_at_once() {
    let web = Web::start(&[]);
    let refused = web.post(&json!({})).await;
    let (status, problem) = refused.problem();
    assert_eq!(status, 422);
    assert_eq!(
        problem["errors"],
        json!([{ "pointer": "#/name", "detail": "is missing" }, { "pointer": "#/email", "detail": "is missing" }])
    );
    for (user, pointer, detail) in [
        (json!({ "email": "ada@example.com" }), "#/name", "is missing"),
        (json!({ "name": "Ada" }), "#/email", "is missing"),
        (json!({ "name": "  ", "email": "ada@example.com" }), "#/name", "is empty"),
        (json!({ "name": ["Ada"], "email": "ada@example.com" }), "#/name", "is no text"),
        (json!({ "name": "a".repeat(101), "email": "ada@example.com" }), "#/name", "has 101 characters, 100 at most"),
        (json!({ "name": "Ada", "email": "ada" }), "#/email", "is no email address"),
        (
            json!({ "name": "Ada", "email": format!("ada@{}.com", "x".repeat(300)) }),
            "#/email",
            "has 308 characters, 254 at most",
        ),
    ] {
        let refused = web.post(&user).await;
        let (status, problem) = refused.problem();
        assert_eq!((status, &problem["errors"]), (422, &json!([{ "pointer": pointer, "detail": detail }])), "{user}");
    }
    assert_eq!(web.get("/analytics").await.body["registered_users"], 0, "nothing was stored");
}

#[tokio::test]
async fn what_is_no_request_of_ours_is_refused_as_http_has_it() {
    let web = Web::start(&[]);
    assert_eq!(web.post_text("application/json", "{\"name\": ").await.problem().0, 400);
    assert_eq!(web.post_text("application/json", "").await.problem().0, 400);
    assert_eq!(web.post_text("application/json", "[".repeat(10_000)).await.problem().0, 400);
    assert_eq!(web.post_text("application/json", vec![b'"', 0xff, b'"']).await.problem().0, 400);
    assert_eq!(web.post_text("text/plain", "Ada").await.problem().0, 415);
    let large = format!("{{\"name\": \"{}\"}}", "a".repeat(20_000));
    assert_eq!(web.post_text("application/json", large).await.problem().0, 413);
    assert_eq!(web.get("/nothing").await.problem().0, 404);
    let not_allowed = web.get("/users").await;
    assert_eq!((not_allowed.problem().0, not_allowed.header("allow")), (405, "POST"));
}

#[tokio::test]
async fn names_and_addresses_are_kept_in_any_script() {
    let web = Web::start(&[]);
    for (name, email) in
        [("Łukasz Żółć", "łukasz@example.com"), ("李小龍 🥋", "li@例子.測試"), ("O'Neil; --", "o'neil@example.com")]
    {
        let created = web.register(name, email).await;
        assert_eq!(created.status, 201, "{created:#?}");
        let shown = web.get(created.header("location")).await;
        assert_eq!((&shown.body["name"], &shown.body["email"]), (&json!(name), &json!(email)));
    }
}

#[tokio::test]
async fn who_is_not_registered_is_not_found() {
    let web = Web::start(&[]);
    web.register("Ada", "ada@example.com").await;
    let long = "x".repeat(300);
    for id in ["0190a6e2-5c5c-7b44-9d54-2f64f0a1b2c3", "ada", "%00", &long] {
        let unknown = web.get(&format!("/users/{id}")).await;
        let (status, problem) = unknown.problem();
        assert_eq!((status, &problem["detail"]), (404, &json!("there is no such user")), "{id}");
    }
    assert_eq!(web.get("/users/%FF").await.problem().0, 400, "no text at all");
}

#[tokio::test]
async fn the_same_address_is_a_conflict_however_it_is_written() {
    let web = Web::start(&[]);
    assert_eq!(web.register("Ada", "ada@example.com").await.status, 201);
    let refused = web.register("Ada L.", "ADA@Example.com").await;
    let (status, problem) = refused.problem();
    assert_eq!((status, &problem["detail"]), (409, &json!("a user with this email address is registered already")));
}

#[tokio::test]
async fn of_many_who_register_one_address_at_once_one_does() {
    let web = Web::start(&[]);
    let names: Vec<_> = (0..30).map(|number| format!("Ada {number}")).collect();
    let answers = join_all(names.iter().map(|name| web.register(name, "ada@example.com"))).await;
    let created: Vec<_> = answers.iter().filter(|answer| answer.status == 201).collect();
    let others: BTreeSet<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!((created.len(), others), (1, BTreeSet::from([201, 409])));
    let shown = web.get(created[0].header("location")).await;
    assert_eq!(shown.body["name"], created[0].body["name"], "whom it was told, and nobody else");
    let read = web.get(&format!("/analytics?position={}", created[0].body["position"])).await;
    assert_eq!(read.body["registered_users"], 1);
}

#[tokio::test]
async fn of_two_processes_that_register_one_address_at_once_one_does() {
    let database = eventbus_test::postgres();
    let webs = [(); 2].map(|()| Web::start(&["--store", database.url(), "--workers", "0"]));
    for round in 1..=20 {
        let email = format!("ada-{round}@example.com");
        let (one, other) = tokio::join!(webs[0].register("Ada", &email), webs[1].register("Grace", &email));
        let mut answers = [one.status.as_u16(), other.status.as_u16()];
        answers.sort_unstable();
        assert_eq!(answers, [201, 409], "{one:#?}{other:#?}");
        let position = if one.status == 201 { &one.body["position"] } else { &other.body["position"] };
        for web in &webs {
            let read = web.get(&format!("/analytics?position={position}")).await;
            assert_eq!(read.body["registered_users"], round, "{read:#?}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_started_is_explained() {
    let web = Web::start(&[]);
    let (taken, free) = (web.address.as_str(), "127.0.0.1:0");
    for (listen, more, said) in [
        (taken, ["--bus", "memory"], format!("cannot listen on {taken}: ")),
        (free, ["--store", "users.db"], "write `sqlite:path/to/file`".into()),
        (free, ["--store", "postgres://u:secret@127.0.0.1:1/users"], "`postgres://u@127.0.0.1:1/users`".into()),
        (free, ["--bus", "kafka://localhost"], "`redis_url` is no Redis URL".into()),
    ] {
        let ended = run(env!("CARGO_BIN_EXE_web"), &["--listen", listen, more[0], more[1]]);
        let (text, errors) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        assert!(!ended.status.success() && errors.contains(&said), "{errors}");
        assert!(!text.contains("secret") && !errors.contains("secret"), "{text}{errors}");
    }
}

#[tokio::test]
async fn a_repeated_registration_has_the_first_answer() {
    let web = Web::start(&[]);
    let (ada, bob) = (json!({ "name": "Ada", "email": "ada@x.com" }), json!({ "name": "Bob", "email": "bob@x.com" }));
    let first = web.post_once("\"k-1\"", &ada).await;
    assert_eq!(first.status, 201, "{first:#?}");
    let again = join_all((0..8).map(|_| web.post_once("k-1", &ada))).await;
    for again in again {
        assert_eq!((again.status, &again.body), (first.status, &first.body));
        assert_eq!(again.header("location"), first.header("location"));
    }
    let refused = web.post_once("k-1", &bob).await;
    let (status, problem) = refused.problem();
    assert_eq!((status, &problem["detail"]), (422, &json!("the idempotency key `k-1` was used for another request")));
    assert_eq!(web.post_once("k-2", &ada).await.problem().0, 409, "another key is another registration");
    assert_eq!(web.post_once("", &bob).await.problem().0, 400);
    web.process.until(&["a mail for ada@x.com"]);
    assert_eq!(web.get("/analytics?position=1").await.body["registered_users"], 1);
}

#[tokio::test]
async fn no_refusal_shows_words_of_the_inside() {
    let web = Web::start(&["--wait-ms", "1"]);
    let ada = json!({ "name": "Ada", "email": "ada@example.com" });
    assert_eq!(web.post_once("k-1", &ada).await.status, 201);
    for refused in [
        web.get("/users/ada").await,
        web.get("/users/%00").await,
        web.get("/users/%FF").await,
        web.post(&ada).await,
        web.post_once("k-1", &json!({ "name": "Bob", "email": "bob@example.com" })).await,
        web.post_once("", &ada).await,
        web.post(&json!({})).await,
        web.post_text("application/json", "{\"name\": ").await,
        web.post_text("text/plain", "Ada").await,
        web.get("/analytics?position=9").await,
        web.get("/analytics?position=first").await,
    ] {
        let (_, problem) = refused.problem();
        let text = problem.to_string();
        for word in ["User", "user_created", "Analytics", "Register", "aggregate", "stream", "eventbus", "projection"] {
            assert!(!text.contains(word), "`{word}` in {text}");
        }
    }
}
