//! Who may read the pages and change data, and what no page shows.

use std::time::Duration;

use eventbus::{
    EventContext, ExpectedVersion, Name, NewEvent, StreamId,
    app::SettleError,
    port::{AppendEvents as _, EventStore as _},
    prelude::*,
};
use eventbus_cli::dashboard::DashboardConfig;

use crate::{
    common::eventbus,
    http::{Answer, between},
    mounted::mount,
    pages::PAGES,
    served::Served,
    shop::{FileShop, ServerShop, placed, shipped},
};

#[track_caller]
fn check_headers(path: &str, answer: &Answer) {
    let policy = answer.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{path}: {policy}");
    let directives: Vec<_> = policy.split("; ").collect();
    for directive in ["form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"] {
        assert!(directives.contains(&directive) && !policy.contains("unsafe"), "{path}: {directive} in {policy}");
    }
    for (name, value) in [
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(answer.header(name), value, "{path}: {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_the_headers() {
    let shop = FileShop::new().await;
    let url = shop.url();
    let served = Served::start(&["--store", &url]);
    for path in
        PAGES.into_iter().chain(["/dashboard.css", "/dashboard.js", "/dashboard.svg", "/none", "/stream?type=Order"])
    {
        check_headers(path, &served.site.get(path).await);
    }
    check_headers("refused", &served.site.send("POST", "/replay", &[], "ids=1").await);
    check_headers("host", &served.site.send("GET", "/", &[("host", "evil.example")], "").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dashboard_without_a_token_changes_no_data() {
    let shop = FileShop::new().await;
    let url = shop.url();
    let served = Served::start(&["--store", &url]);
    let list = served.site.get("/dead-letters").await.ok();
    assert!(!list.contains("method=\"post\""), "{list}");
    for path in ["/replay", "/discard", "/rebuild", "/pause", "/resume"] {
        let field = match path {
            "/rebuild" => "projection=totals",
            "/replay" | "/discard" => "ids=1",
            _ => "group=mail",
        };
        let answer = served.site.post(path, field).await;
        assert_eq!((answer.status, answer.body.contains("read-only")), (403, true), "{path}: {answer:?}");
    }
    assert_eq!(served.site.post("/login", "token=").await.status, 403);
    assert_eq!(between(&served.site.get("/dead-letters").await.ok(), "href=\"./dead-letter?", "\"").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_need_the_token_and_a_page_of_the_same_origin() {
    let shop = FileShop::new().await;
    let url = shop.url();
    let served = Served::start(&["--store", &url, "--allow-changes"]);
    let token = &*served.token.clone().unwrap();
    let mut site = served.site.clone();
    let list = site.get("/dead-letters").await.ok();
    assert!(!list.contains("action=\"./replay\""), "a form for an operator who may not send it:\n{list}");
    let ids: Vec<_> = between(&list, "dead-letter?id=", "\"").into_iter().map(str::to_owned).collect();
    let form = format!("ids={}", ids[0]);
    let same = ("sec-fetch-site", "same-origin");
    assert_eq!(site.send("POST", "/replay", &[same], &form).await.status, 403, "without the token");
    let wrong = site.post("/login", "token=a-token-of-enough-characterS").await;
    assert_eq!((wrong.status, wrong.header("set-cookie")), (403, ""));
    let port = site.address.rsplit(':').next().unwrap().to_owned();
    site.cookie = Some(format!("eventbus_dashboard_{port}=a-token-of-enough-characterS"));
    assert_eq!(site.send("POST", "/replay", &[same], &form).await.status, 403, "with a wrong token");
    site.cookie = Some(format!("eventbus_dashboard_1={token}"));
    assert_eq!(site.send("POST", "/replay", &[same], &form).await.status, 403, "with the cookie of a different port");
    site.cookie = None;

    let entered = site.post("/login", &format!("token={token}")).await;
    let cookie = entered.header("set-cookie");
    assert_eq!(cookie, format!("eventbus_dashboard_{port}={token}; HttpOnly; SameSite=Strict"));
    let encrypted = [same, ("origin", "https://ops.example.org")];
    let entered = site.send("POST", "/login", &encrypted, &format!("token={token}")).await;
    assert!(entered.header("set-cookie").ends_with("; SameSite=Strict; Secure"), "{entered:?}");
    site.log_in(token).await;
    let origin = format!("http://{}", site.address);
    let other_port = "http://127.0.0.1:1";
    for headers in [
        &[][..],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site"), ("origin", &origin)],
        &[("sec-fetch-site", "none")],
        &[("origin", "null")],
        &[("origin", "https://evil.example")],
        &[("origin", other_port)],
    ] {
        for path in ["/replay", "/discard", "/login", "/logout", "/rebuild", "/pause", "/resume", "/examine"] {
            assert_eq!(site.send("POST", path, headers, &form).await.status, 403, "{path} with {headers:?}");
        }
    }
    assert_eq!(site.get("/dead-letters").await.ok().matches("./dead-letter?id=").count(), 2, "none was replayed");
    assert_eq!(site.get(&format!("/replay?{form}")).await.status, 405, "a link changes no data");
    assert_eq!(site.send("POST", "/replay", &[("origin", &origin)], &form).await.status, 303);
    assert_eq!(site.send("POST", "/discard", &[same], &format!("ids={}", ids[1])).await.status, 303);
    assert!(site.get("/dead-letters").await.ok().contains("No dead letter matches."));
    let out = site.post("/logout", "").await;
    assert_eq!(out.header("set-cookie"), format!("eventbus_dashboard_{port}=; HttpOnly; SameSite=Strict; Max-Age=0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_not_those_of_the_server_are_refused() {
    let shop = FileShop::new().await;
    let url = shop.url();
    let served = Served::start(&["--store", &url, "--host", "ops.example.org"]);
    for (host, status) in [
        ("evil.example", 421),
        ("localhost.evil.example:80", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
        ("localhost", 200),
        ("LOCALHOST:9000", 200),
        ("127.0.0.1:9000", 200),
        ("[::1]:9000", 200),
        ("ops.example.org", 200),
    ] {
        assert_eq!(served.site.send("GET", "/login", &[("host", host)], "").await.status, status, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_other_machines_needs_the_token_for_every_page() {
    let shop = FileShop::new().await;
    let url = shop.url();
    let served = Served::start(&["--store", &url, "--listen", "0.0.0.0:0"]);
    let mut site = served.site.clone();
    site.address = site.address.replace("0.0.0.0", "127.0.0.1");
    for path in PAGES {
        let answer = site.get(path).await;
        let wanted = if path == "/login" { (200, "") } else { (303, "./login") };
        assert_eq!((answer.status, answer.header("location")), wanted, "{path}");
    }
    assert_eq!(site.get("/dashboard.css").await.status, 200);
    site.log_in(&served.token.clone().unwrap()).await;
    assert_eq!(site.get("/streams").await.status, 200);
    assert_eq!(site.post("/replay", "ids=1").await.status, 403, "reading is no right to change");
    let short = eventbus(&["--store", &url, "dashboard", "--token", "short"]);
    assert_eq!(short.code, 64, "{short:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_and_sealed_fields_are_on_no_page() {
    let shop = FileShop::new().await;
    shop.append("o-5", vec![shipped("hush-hidden")]).await;
    let sealed = NewEvent::new(Name::from_static("OrderShipped"), 1, r#"{"parcel":"hush-sealed"}"#);
    let stream = StreamId::parse("Order", "o-6").unwrap();
    shop.store.append(&stream, ExpectedVersion::NoStream, vec![sealed]).await.unwrap();
    let connection = rusqlite::Connection::open(shop.url().trim_start_matches("sqlite:")).unwrap();
    let set = "UPDATE eventbus_events SET has_sealed_fields = 1 WHERE payload LIKE '%hush-sealed%'";
    assert_eq!(connection.execute(set, []).unwrap(), 1);
    drop(connection);
    let url = shop.url();
    for choice in [["--hide", "parcel"], ["--show", "cents"]] {
        let served = Served::start(&["--store", &url, choice[0], choice[1]]);
        let hidden = served.site.get("/stream?type=Order&id=o-5").await.ok();
        assert!(hidden.contains("(hidden)") && !hidden.contains("hush"), "{choice:?} {hidden}");
        let dead_letters = served.site.get("/dead-letters").await.ok();
        let first = between(&dead_letters, "href=\"./dead-letter?id=", "\"")[0];
        let dead_letter = served.site.get(&format!("/dead-letter?id={first}")).await.ok();
        assert!(dead_letter.contains("(hidden)") && !dead_letter.contains("<td>p-1</td>"), "{choice:?} {dead_letter}");
    }
    let served = Served::start(&["--store", &url]);
    let sealed = served.site.get("/stream?type=Order&id=o-6").await.ok();
    assert!(sealed.contains("(sealed)") && !sealed.contains("hush"), "{sealed}");
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order", personal(street))]
struct OrderAddressed {
    street: String,
}

fn addressed(street: &str) -> NewEvent {
    NewEvent::from_event(&OrderAddressed { street: street.into() }).unwrap()
}

/// Gives each address up at once.
#[handler(group = "post", manual)]
async fn deliver(_event: &OrderAddressed) -> Result<(), HandlerError> {
    Err(HandlerError::permanent("no such house"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_hides_what_its_events_declare_as_personal() {
    let shop = FileShop::new().await;
    shop.append("o-2", vec![addressed("hush-street")]).await;
    let app = shop.start_app().await;
    let site = mount(&app, DashboardConfig::default()).await;
    let page = site.get("/stream?type=Order&id=o-2").await.ok();
    assert!(page.contains("street") && page.contains("(hidden)") && !page.contains("hush"), "{page}");
    assert!(site.get("/stream?type=Order&id=o-1").await.ok().contains("p-1"));
    // by an application with a release of the event that declares it
    let note = Name::from_static("personal:OrderShipped:parcel");
    shop.store.notes().unwrap().save_note(&note, "parcel").await.unwrap();
    let page = site.get("/stream?type=Order&id=o-1").await.ok();
    assert!(page.contains("(hidden)") && !page.contains("p-1") && page.contains("<td>120</td>"), "{page}");
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_hides_what_applications_have_noted_as_personal() {
    let shop = FileShop::empty().await;
    let url = shop.url();
    shop.append("o-1", vec![addressed("hush-old"), addressed("hush-new")]).await;
    let stream = "/stream?type=Order&id=o-1";
    let earlier = Served::start(&["--store", &url]);
    let page = earlier.site.get(stream).await.ok();
    assert!(page.contains("<del>hush-old</del>"), "no application has started on the store: {page}");

    let app = shop.app().handler::<deliver>().start().await.unwrap();
    assert!(matches!(app.settled().await, Err(SettleError::DeadLetters { dead: 2, .. })));
    app.shutdown(Duration::from_secs(60)).await.unwrap();
    let of_next_release = NewEvent::new(Name::from_static("OrderAddressed"), 2, r#"{"street":"hush-next","floor":3}"#);
    shop.append("o-1", vec![of_next_release]).await;
    let listing = Served::start(&["--store", &url, "--show", "street", "--show", "floor"]);
    let later = Served::start(&["--store", &url]);
    let list = later.site.get("/dead-letters").await.ok();
    let dead_letter = format!("/dead-letter?id={}", between(&list, "href=\"./dead-letter?id=", "\"")[0]);
    for served in [&earlier, &listing, &later] {
        for path in [stream, &dead_letter] {
            let page = served.site.get(path).await.ok();
            assert!(page.contains("street") && page.contains("(hidden)") && !page.contains("hush"), "{path}: {page}");
        }
        assert!(served.site.get(stream).await.ok().contains("<ins>3</ins>"), "the other fields of all versions");
    }
    shop.store.notes().unwrap().delete_note(&Name::from_static("personal:OrderAddressed:street")).await.unwrap();
    let page = later.site.get(stream).await.ok();
    assert!(page.contains("<del>hush-old</del>") && page.contains("hush-next"), "{page}");
    let page = later.site.get(&dead_letter).await.ok();
    assert!(page.contains("hush-"), "{page}");
    let connection = rusqlite::Connection::open(url.trim_start_matches("sqlite:")).unwrap();
    connection.execute_batch("ALTER TABLE eventbus_notes RENAME TO notes_of_before").unwrap();
    for path in [stream, &dead_letter] {
        let answer = later.site.get(path).await;
        assert!(answer.status != 200 && !answer.body.contains("hush"), "the notes cannot be read: {path}: {answer:?}");
    }
    let warns = |notes: &[String]| notes.iter().any(|note| note.contains("the pages show all fields"));
    assert_eq!((warns(&earlier.end()), warns(&later.end())), (true, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_actor_of_events_is_hidden_as_a_field_of_this_name() {
    let shop = FileShop::empty().await;
    let context = EventContext::default().with_actor("hush-actor");
    shop.append("o-1", vec![placed(120).with_context(context)]).await;
    let url = shop.url();
    let cases: [(&[&str], bool); 6] = [
        (&[], true),
        (&["--hide", "cents"], true),
        (&["--show", "cents", "--show", "actor"], true),
        (&["--show", "cents"], false),
        (&["--hide", "actor"], false),
        (&["--show", "actor_id", "--hide", "Actor-Id"], false),
    ];
    for (choice, is_shown) in cases {
        let served = Served::start(&[&["--store", &*url], choice].concat());
        let page = served.site.get("/stream?type=Order&id=o-1").await.ok();
        let found = (page.contains("· by hush-actor"), page.contains("hush"), page.contains("· by (hidden)"));
        assert_eq!(found, (is_shown, is_shown, !is_shown), "{choice:?} {page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_of_urls_are_on_no_page() {
    let shop = ServerShop::new().await;
    let (_, rest) = shop.database.url().split_once('@').unwrap();
    let store = format!("postgres://postgres:sesame@{rest}");
    let bus = shop.redis.url().replace("redis://", "redis://default:sesame@");
    let served = Served::start(&["--store", &store, "--bus", &bus, "--prefix", shop.redis.prefix()]);
    let mut pages = vec![served.site.post("/examine", "").await.ok()];
    for path in PAGES {
        pages.push(served.site.get(path).await.ok());
    }
    for page in pages {
        assert!(!page.contains("sesame"), "{page}");
    }
    assert!(served.site.get("/").await.ok().contains("postgres"), "the server is named");
}
