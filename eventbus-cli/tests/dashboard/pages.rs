//! What each page shows.

use std::time::Duration;

use eventbus::{
    ExpectedVersion, Name, Position, StreamId,
    port::{AppendEvents as _, Checkpoints as _, HandlerProgress as _},
    store::EventStore as _,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};
use redis::aio::MultiplexedConnection;

use crate::{
    filling::add_first_dead_letters,
    http::{Site, between, find_link, link},
    served::Served,
    shop::{FileShop, ServerShop, placed, shipped},
};

/// All pages, and an item of each sort.
pub(crate) const PAGES: [&str; 10] = [
    "/",
    "/streams",
    "/stream?type=Order&id=o-1",
    "/projections",
    "/groups",
    "/dead-letters",
    "/relay",
    "/health",
    "/login",
    "/stream?type=Order&id=none",
];

/// Loads a page until it holds a text.
pub(crate) async fn wait_for(site: &Site, path: &str, text: &str) -> String {
    wait_until(site, path, |page| page.contains(text)).await
}

/// Loads a page until it is as wanted.
pub(crate) async fn wait_until(site: &Site, path: &str, is_wanted: impl Fn(&str) -> bool) -> String {
    let mut page = String::new();
    let waiting = async {
        loop {
            page = site.get(path).await.ok();
            if is_wanted(&page) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "{path} stays\n{page}");
    page
}

/// Checks the structure that makes a page usable by keyboard and screen reader, and allowed by its policy.
#[track_caller]
fn check_structure(path: &str, page: &str) {
    let count = |text: &str| page.matches(text).count();
    assert_eq!([count("<h1"), count("<main"), count("<nav "), count("<html lang=")], [1; 4], "{path}\n{page}");
    assert_eq!([count(" style="), count("<style"), count("javascript:"), count("http://")], [0; 4], "{path}\n{page}");
    for script in between(page, "<script", "</script>") {
        assert!(script.starts_with(" src=\"") && script.ends_with('>'), "{path}: inline script {script}");
    }
    for tag in between(page, "<", ">") {
        assert!(!tag.split(' ').skip(1).any(|attribute| attribute.starts_with("on")), "{path}: {tag}");
    }
    assert_eq!(count("<th") - count("<thead"), count(" scope=\""), "{path}: a header without scope\n{page}");
    let labels = between(page, "<label for=\"", "\"");
    for input in between(page, "<input", ">").into_iter().filter(|input| !input.contains("type=\"hidden\"")) {
        let id = between(input, " id=\"", "\"");
        assert!(id.len() == 1 && labels.contains(&id[0]), "{path}: no label for {input}");
    }
    let ids = between(page, " id=\"", "\"");
    let mut unique = ids.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), ids.len(), "{path}: an id twice in {ids:?}");
    for named in between(page, " aria-labelledby=\"", "\"") {
        assert!(ids.contains(&named), "{path}: {named}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_has_landmarks_headers_and_labels() {
    let shop = FileShop::new().await;
    let url = shop.url();
    let served = Served::start_logged_in(&["--store", &url]).await;
    for path in PAGES {
        check_structure(path, &served.site.get(path).await.ok());
    }
    let page = served.site.get("/dead-letters").await.ok();
    let first = between(&page, "href=\"./dead-letter?", "\"")[0];
    check_structure("dead letter", &served.site.get(&format!("/dead-letter?{first}")).await.ok());
    for (path, status) in
        [("/none", 404), ("/dead-letter?id=1-2-mail", 404), ("/stream?type=Order", 400), ("/streams?tenant=x", 400)]
    {
        assert_eq!(served.site.get(path).await.status, status, "{path}");
    }
}

/// Returns the highest throughput that the overview shows.
fn highest_rate(page: &str) -> f64 {
    let label = between(page, "Stored over the last ", "\"").first().copied();
    label.and_then(|label| label.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_shows_throughput_and_lag_over_time() {
    let shop = FileShop::new().await;
    let url = shop.url();
    let served = Served::start(&["--store", &url, "--sample-every", "100ms"]);
    let page = served.site.get("/").await.ok();
    for part in ["<dt>Last position</dt><dd>5</dd>", "totals", "2</a>", "SqliteEventStore"] {
        assert!(page.contains(part), "{part} in\n{page}");
    }
    for number in 0..30 {
        shop.append(&format!("n-{number}"), vec![placed(1)]).await;
    }
    // the application is down, so that no process feeds the projection
    wait_for(&served.site, "/", "<dt>Last position</dt><dd>35</dd>").await;
    wait_for(&served.site, "/", "<td class=\"number\">30</td>").await;
    wait_until(&served.site, "/", |page| highest_rate(page) > 0.0).await;
    assert!(between(&served.site.get("/").await.ok(), "<polyline points=\"", "\"").len() >= 3);
    assert!(served.site.get("/health").await.ok().contains("2 dead letters wait for an operator"));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_listed_page_by_page() {
    let shop = FileShop::empty().await;
    for number in 0..120 {
        shop.append(&format!("o-{number:03}"), vec![placed(number)]).await;
    }
    let url = shop.url();
    let served = Served::start(&["--store", &url]);
    let (mut path, mut ids, mut pages) = ("/streams".to_owned(), Vec::new(), 0);
    loop {
        let page = served.site.get(&path).await.ok();
        ids.extend(between(&page, "id=o%2D", "\"").into_iter().map(str::to_owned));
        pages += 1;
        match find_link(&page, "Next page") {
            Some(next) => path = next,
            None => break,
        }
    }
    assert!(!served.site.get("/streams").await.ok().contains("A page searches"), "it is full");
    assert_eq!((pages, ids), (3, (0..120).map(|number| format!("{number:03}")).collect()));
    let found = served.site.get("/streams?type=Order&prefix=o-11&tenant=").await.ok();
    assert_eq!(between(&found, "id=o%2D", "\"").len(), 10);
    assert!(served.site.get("/streams?type=Cart").await.ok().contains("No further stream matches."));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_shows_its_events_with_differences() {
    let shop = FileShop::new().await;
    for number in 0..100 {
        shop.append("o-2", vec![placed(number)]).await;
    }
    shop.append("o-2", vec![shipped("p-9")]).await;
    let url = shop.url();
    let served = Served::start(&["--store", &url]);
    let page = served.site.get("/stream?type=Order&id=o-2").await.ok();
    let versions = between(&page, "<span class=\"version\">v", "<");
    assert_eq!((versions.len(), versions[0], versions[49]), (50, "102", "53"));
    assert!(page.contains("<del>98</del> → <ins>99</ins>"), "{page}");
    assert!(page.contains("<td>p-9</td>"), "the first event of its type differs from none: {page}");
    // the oldest one of the page is compared, too
    assert!(page.contains("<del>50</del> → <ins>51</ins>"), "{page}");
    let older = served.site.get(&link(&page, "Older events")).await.ok();
    assert!(older.contains("<del>49</del> → <ins>50</ins>"), "{older}");
    let oldest = served.site.get(&link(&older, "Older events")).await.ok();
    assert_eq!(between(&oldest, "<span class=\"version\">v", "<"), ["2", "1"]);
    let tenant = "00000000-0000-0000-0000-000000000007";
    let escaped = served.site.get(&format!("/stream?type=Order&id=o-3&tenant={tenant}")).await.ok();
    assert!(escaped.contains("&lt;script&gt;p&lt;/script&gt;"), "{escaped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_stream_that_misses_an_event_the_later_ones_are_shown() {
    let shop = FileShop::empty().await;
    shop.append("o-1", (1..=5).map(placed).collect()).await;
    let url = shop.url();
    let rows = rusqlite::Connection::open(url.trim_start_matches("sqlite:")).unwrap();
    assert_eq!(rows.execute("DELETE FROM eventbus_events WHERE version = 2", []).unwrap(), 1);
    let served = Served::start(&["--store", &url]);
    let page = served.site.get("/stream?type=Order&id=o-1").await.ok();
    assert_eq!(between(&page, "<span class=\"version\">v", "<"), ["5", "4", "3"], "{page}");
    let reason = "Earlier events cannot be read: event store holds corrupt data at event 2 of stream `Order/o-1`";
    assert!(page.contains(reason), "{page}");
    check_structure("a damaged stream", &page);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_found_shown_replayed_and_discarded() {
    let shop = FileShop::new().await;
    let url = shop.url();
    let served = Served::start_logged_in(&["--store", &url]).await;
    let site = &served.site;
    let ids = |page: &str| -> Vec<String> {
        between(page, "href=\"./dead-letter?id=", "\"")
            .into_iter()
            .map(|id| id.replace("%2D", "-").replace("%3A", ":").replace("%2F", "/"))
            .collect()
    };
    let all = site.get("/dead-letters").await.ok();
    assert_eq!(ids(&all).len(), 2, "{all}");
    assert!(all.contains("no mailbox for p-1") && all.contains("no mailbox for &lt;script&gt;"), "{all}");
    for (search, found) in
        [("error=MAILBOX%20for%20p-1", 1), ("group=bills", 0), ("type=OrderShipped", 2), ("aggregate=o-3", 1)]
    {
        let page = site.get(&format!("/dead-letters?{search}")).await.ok();
        assert_eq!(ids(&page).len(), found, "{search}\n{page}");
    }
    let one = site.get(&format!("/dead-letter?id={}", between(&all, "dead-letter?id=", "\"")[0])).await.ok();
    for part in ["<code>parcel</code></th><td>p-1</td>", "no mailbox for p-1", "<dt>Attempts</dt><dd>1</dd>"] {
        assert!(one.contains(part), "{part} in\n{one}");
    }
    let form = |id: &str| format!("ids={}", id.replace(':', "%3A").replace('/', "%2F"));
    // of the dead letters that match a search
    let found = site.get("/dead-letters?group=mail&error=no%20mailbox").await.ok();
    let hidden = "<input type=\"hidden\" name=\"error\" value=\"no mailbox\">";
    assert_eq!(found.matches(hidden).count(), 2, "{found}");
    let none = site.post("/replay", "ids=&group=mail&error=no+mailbox").await;
    let again = "./dead-letters?group=mail&error=no%20mailbox&replayed=0&gone=0";
    assert_eq!((none.status, none.header("location")), (303, again));
    let replayed = site.post("/replay", &form(&ids(&all)[0])).await;
    assert_eq!((replayed.status, replayed.header("location")), (303, "./dead-letters?replayed=1&gone=0"));
    assert!(site.get("/dead-letters?replayed=1&gone=0").await.ok().contains("1 replayed."));
    let again = site.post("/replay", &form(&ids(&all)[0])).await;
    assert_eq!(again.header("location"), "./dead-letters?replayed=0&gone=1");
    let rest = site.get("/dead-letters").await.ok();
    assert_eq!(ids(&rest), ids(&all)[1..]);
    let discarded = site.post("/discard", &form(&ids(&all).join("%0D%0A"))).await;
    assert_eq!(discarded.header("location"), "./dead-letters?discarded=1&gone=1");
    assert!(site.get("/dead-letters").await.ok().contains("No dead letter matches."));
    let handlers = shop.store.list_handlers().await.unwrap();
    assert_eq!(handlers[0].waiting_rows, 1, "the replayed one alone: {handlers:?}");
    // a name may hold a space
    add_first_dead_letters(&shop.store, "mail service", 2).await;
    let page = site.get("/dead-letters").await.ok();
    let listed = between(&page, "name=\"ids\" value=\"", "\"")[0].replace(' ', "+").replace('\n', "%0D%0A");
    let discarded = site.post("/discard", &format!("ids={listed}")).await;
    assert_eq!(discarded.header("location"), "./dead-letters?discarded=2&gone=0", "{listed}");
    let failed = site.post("/discard", "ids=no-id").await;
    assert_eq!(failed.status, 502);
    assert!(failed.body.contains("0 discarded, 0 gone, 1 failed"), "{}", failed.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_shown_beside_a_dead_application() {
    let shop = ServerShop::new().await;
    let served = Served::start_logged_in(&shop.arguments(&[])).await;
    let site = &served.site;
    shop.append("o-9", vec![placed(5)]).await;
    let groups = site.get("/groups").await.ok();
    assert!(groups.contains("mail</th><td class=\"number\">0</td><td class=\"number\">0</td>"), "{groups}");
    assert!(groups.contains("./dead-letters?group=mail\">list</a>"), "{groups}");
    let relay = site.get("/relay").await.ok();
    for part in
        [&format!("redis:{}:stream", shop.redis.prefix()), "<td class=\"number\">4</td><td class=\"number\">5</td>"]
    {
        assert!(relay.contains(part), "{part} in\n{relay}");
    }
    let projections = site.get("/projections").await.ok();
    assert!(projections.contains("no process feeds it"), "{projections}");
    assert!(projections.contains("mount the dashboard there") && !projections.contains("action=\"./rebuild\""));
    let note = Name::from_static("projection:totals");
    let noted = r#"{"stopped":{"position":5,"event_type":"OrderPlaced","event_id":"00000000-0000-0000-0000-000000000005",
        "error":"no <mailbox>","owner":"vm:1","since":"2026-11-21T09:30:00.5Z"}}"#;
    shop.store.notes().unwrap().save_note(&note, noted).await.unwrap();
    let projections = site.get("/projections").await.ok();
    assert!(projections.contains("stopped at position 5 (OrderPlaced): no &lt;mailbox&gt;<"), "{projections}");
    assert!(projections.contains("2026-11-21 09:30:00 UTC") && projections.contains(" in vm:1"), "{projections}");
    assert!(!projections.contains("no process feeds it"), "{projections}");
    // the projection has passed the event
    shop.store.notes().unwrap().save_note(&note, &noted.replace("position\":5", "position\":4")).await.unwrap();
    let projections = site.get("/projections").await.ok();
    assert!(projections.contains("no process feeds it"), "{projections}");
    let overview = site.get("/").await.ok();
    assert!(overview.contains("./dead-letters\">2</a>"), "{overview}");
    let list = site.get("/dead-letters").await.ok();
    let first = between(&list, "href=\"./dead-letter?id=", "\"")[0].replace("%2D", "-");
    assert_eq!(site.post("/replay", &format!("ids={first}")).await.status, 303);
    assert!(site.get("/").await.ok().contains("./dead-letters\">1</a>"));
    // its entry waits for a consumer
    assert!(site.get("/groups").await.ok().contains("and entries wait"), "{}", site.get("/groups").await.ok());
    let health = site.get("/health").await.ok();
    assert!(health.contains("group `mail` has unfinished entries and no consumer"), "{health}");
    shop.read_one_as("worker-7").await;
    let health = site.post("/examine", "").await.ok();
    assert!(health.contains("checks found all well") && health.contains("pg-"), "{health}");
    let finding = [
        "<code>pg-fsync</code></th><td>fault</td>",
        "`fsync` is off",
        "a power failure damages the database, all of it",
        "remove `fsync` from the command line of the server",
    ];
    for part in finding {
        assert!(health.contains(part), "{part} in\n{health}");
    }
}

/// Returns how many calls of `SCAN` a server has answered.
async fn count_scans(server: &mut MultiplexedConnection) -> u64 {
    let calls: String = redis::cmd("INFO").arg("commandstats").query_async(server).await.unwrap();
    let of_scan = calls.lines().find_map(|line| line.strip_prefix("cmdstat_scan:calls=")?.split(',').next());
    of_scan.map_or(0, |calls| calls.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_the_streams_on_redis_scans_a_part_of_its_keys_even_if_none_matches() {
    let redis = eventbus_test::private_redis();
    let config = RedisEventStoreConfig { redis_url: redis.url().into(), ..RedisEventStoreConfig::default() };
    drop(RedisEventStore::connect(config).await.unwrap());
    let mut server = eventbus_test::internal::redis_connection(redis.url()).await;
    let mut orders = redis::pipe();
    for number in 0..3_000 {
        let key = format!("aggregate:Order:o-{number}");
        orders.cmd("XADD").arg((key, "1-0", "type", "OrderPlaced")).ignore();
    }
    let () = orders.query_async(&mut server).await.unwrap();
    let served = Served::start(&["--store", redis.url()]);
    let (mut path, mut pages) = ("/streams?type=Cart".to_owned(), 0);
    loop {
        let before = count_scans(&mut server).await;
        let page = served.site.get(&path).await.ok();
        let scans = count_scans(&mut server).await - before;
        // 1,000 keys, by scans of 50, 100, 200 and then 250
        assert!((1..=6).contains(&scans), "{path}: {scans} scans\n{page}");
        pages += 1;
        let Some(next) = find_link(&page, "Next page") else {
            assert!(page.contains("No further stream matches."), "{page}");
            break;
        };
        assert!(page.contains("No stream of this part of the store matches."), "{page}");
        assert!(page.contains("A page searches about 1,000 streams"), "{page}");
        path = next;
    }
    assert_eq!(pages, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readers_of_a_store_on_redis_are_listed_without_a_scan_of_its_keys() {
    let redis = eventbus_test::private_redis();
    let config = RedisEventStoreConfig { redis_url: redis.url().into(), ..RedisEventStoreConfig::default() };
    let store = RedisEventStore::connect(config).await.unwrap();
    store.save_checkpoint(&Name::from_static("projection:totals"), Position::new(1)).await.unwrap();
    let mut server = eventbus_test::internal::redis_connection(redis.url()).await;
    let served = Served::start(&["--store", redis.url()]);
    for path in ["/", "/projections", "/relay", "/groups", "/health"] {
        let page = served.site.get(path).await.ok();
        assert_eq!(count_scans(&mut server).await, 0, "{path} scans\n{page}");
        assert_eq!(page.contains("totals"), ["/", "/projections"].contains(&path), "{path}\n{page}");
    }
    served.site.get("/streams").await.ok();
    assert!(count_scans(&mut server).await > 0, "a page of the streams scans some keys");

    // a reader that waits before an event which the store cannot read
    let order = StreamId::parse("Order", "o-1").unwrap();
    for _ in 0..2 {
        store.append(&order, ExpectedVersion::Any, vec![placed(1)]).await.unwrap();
    }
    let _: u64 = redis::cmd("DEL").arg("aggregate:Order:o-1").query_async(&mut server).await.unwrap();
    let health = served.site.get("/health").await.ok();
    assert!(health.contains("cannot read the next event of projection `totals`"), "{health}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_an_error_on_the_pages_that_need_it() {
    let shop = FileShop::new().await;
    let mut redis = eventbus_test::private_redis();
    let config = RedisEventBusConfig { redis_url: redis.url().into(), ..RedisEventBusConfig::default() };
    drop(RedisEventBus::connect(config).await.unwrap());
    for (name, position) in [("relay:bus", 5), ("relay-halted:bus", 3)] {
        shop.store.save_checkpoint(&Name::new("checkpoint", name).unwrap(), Position::new(position)).await.unwrap();
    }
    let url = shop.url();
    let served = Served::start(&["--store", &url, "--bus", redis.url(), "--timeout", "1s", "--sample-every", "100ms"]);
    assert_eq!(served.site.get("/groups").await.status, 200);
    redis.stop();
    let away = served.site.get("/groups").await;
    assert_eq!((away.status, away.body.contains("cannot be reached")), (503, true), "{}", away.body);
    check_structure("an error", &away.body);
    assert_eq!(served.site.get("/streams").await.status, 200);
    // what the store knows is shown beside the error of the bus
    shop.append("o-9", vec![placed(5)]).await;
    // at first the overview has a sample from before
    wait_until(&served.site, "/", |page| page.contains("cannot be reached")).await;
    for (path, part) in [
        ("/", "<dt>Last position</dt><dd>6</dd>"),
        ("/", "totals</a></th><td>projection</td>"),
        ("/", "Groups, and what the bus holds, are not shown: "),
        ("/relay", "The positions are those that the leader saved last: "),
        ("/relay", "<th scope=\"row\">bus</th>"),
        ("/health", "the relay to `bus` has stopped until an operator decides"),
        ("/health", "groups and dead letters are not shown: "),
    ] {
        let page = served.site.get(path).await.ok();
        assert!(page.contains(part) && page.contains("cannot be reached"), "{path}: {part} in\n{page}");
        check_structure(path, &page);
    }
    wait_until(&served.site, "/", |page| highest_rate(page) > 0.0).await;
    redis.start();
    assert_eq!(served.site.get("/groups").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_the_dashboard_without_an_error() {
    let shop = FileShop::new().await;
    let url = shop.url();
    // without a field the command would note that personal data is shown
    let served = Served::start(&["--store", &url, "--show", "cents"]);
    assert_eq!(served.interrupt(), (Some(130), Vec::new()));
}
