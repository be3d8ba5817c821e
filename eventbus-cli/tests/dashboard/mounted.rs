//! The dashboard in an application.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use eventbus::{
    App, ExpectedVersion, HandlerError, InMemoryEventBus, Name, NewEvent, StreamId, port::AppendEvents as _, prelude::*,
};
use eventbus_cli::dashboard::{DashboardConfig, DashboardToken, dashboard_with};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use tokio::net::TcpListener;

use crate::{
    common::OrderPlaced,
    http::{Site, between, link},
    pages::{PAGES, wait_for, wait_until},
    shop::{FileShop, ServerShop, placed, shipped},
};

/// Serves routes, and returns their address.
pub(crate) async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address.to_string()
}

pub(crate) const TOKEN: &str = "a-token-of-enough-characters";

pub(crate) fn changing() -> DashboardConfig {
    DashboardConfig {
        token: Some(DashboardToken::new(TOKEN).unwrap()),
        allow_changes: true,
        sample_interval: Some(Duration::from_millis(100)),
        ..DashboardConfig::default()
    }
}

pub(crate) async fn mount(app: &App, config: DashboardConfig) -> Site {
    let router = Router::new().route("/", get(async || "the shop"));
    let router = router.nest_service("/a/operate", dashboard_with(app, config));
    Site::new(&format!("http://{}/a/operate", serve(router).await))
}

#[tokio::test(flavor = "multi_thread")]
async fn links_of_a_mounted_dashboard_stay_below_its_path() {
    let shop = FileShop::new().await;
    let app = shop.start_app().await;
    let plain = Router::new().nest("/a/operate", eventbus_cli::dashboard(&app));
    let site = Site::new(&format!("http://{}/a/operate", serve(plain).await));
    let overview = site.send("GET", "", &[], "").await.ok();
    assert!(
        overview.contains("href=\"./operate/streams\"") && overview.contains("src=\"./operate/dashboard.js\""),
        "{overview}"
    );
    for path in PAGES.into_iter().filter(|path| *path != "/") {
        let page = site.get(path).await.ok();
        for link in between(&page, "href=\"", "\"").into_iter().chain(between(&page, "action=\"", "\"")) {
            assert!(link.starts_with("./") || link.starts_with('#') || link == "../operate", "{path}: {link}");
        }
    }
    let health = site.get("/health").await.ok();
    assert!(health.contains("href=\"../operate\">Overview</a>") && health.contains("<dd>healthy</dd>"), "{health}");
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_lies_at_the_path_of_a_service_with_and_without_a_slash_after_it() {
    let shop = FileShop::new().await;
    let app = shop.start_app().await;
    let site = mount(&app, DashboardConfig::default()).await;
    for (path, base) in [("", "./operate/"), ("/", "./")] {
        let overview = site.send("GET", path, &[], "").await.ok();
        let link = format!("href=\"{base}streams\"");
        assert!(overview.contains("<h1>Overview</h1>") && overview.contains(&link), "{path}: {overview}");
    }
    assert_eq!(site.get("/none").await.status, 404);
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_shows_what_each_event_changed_in_the_state() {
    let shop = FileShop::new().await;
    for cents in 1..=60 {
        shop.append("o-2", vec![placed(cents)]).await;
    }
    let app = shop.start_app().await;
    let site = mount(&app, DashboardConfig::default()).await;
    let changed = |page: &str| {
        let tables = between(page, "<caption>State</caption>", "</table>");
        tables.iter().map(|table| between(table, "<td>", "</td>").concat()).collect::<Vec<_>>()
    };
    let total = |before: i64, after: i64| {
        format!("<del>{before}</del> → <ins>{after}</ins><span class=\"change\"> changed</span>")
    };
    let one = site.get("/stream?type=Order&id=o-1").await.ok();
    let parcel = "<ins>p-1</ins><span class=\"change\"> new</span><del>[]</del><span class=\"change\"> gone</span>";
    assert_eq!(changed(&one), [parcel.to_owned(), total(0, 120)], "{one}");
    // a page that does not begin with the first event knows the state before it
    let newest = changed(&site.get("/stream?type=Order&id=o-2").await.ok());
    assert_eq!((newest.len(), &newest[49]), (50, &total(120 + 10 * 11 / 2, 120 + 11 * 12 / 2)), "{newest:?}");
    let config = DashboardConfig { hidden_fields: vec!["parcel".into()], ..DashboardConfig::default() };
    let hiding = mount(&app, config).await;
    let one = hiding.get("/stream?type=Order&id=o-1").await.ok();
    assert_eq!(changed(&one), [total(0, 120)], "the state holds a hidden field under another name: {one}");
    assert!(one.contains("the state is unknown from version 2 on") && !one.contains("p-1"), "{one}");
    shop.append("o-2", (0..900).map(placed).collect()).await;
    let long = site.get("/stream?type=Order&id=o-2").await.ok();
    assert!(changed(&long).is_empty() && long.contains("shown for the first 900 events"), "{long}");
    let older = changed(&site.get("/stream?type=Order&id=o-2&upto=61").await.ok());
    assert_eq!((older.len(), &older[..]), (50, &newest[..]));
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Meter)]
struct Metered {
    watts: u32,
}

#[derive(Debug, Default, Serialize, Aggregate)]
#[aggregate(events(Metered))]
struct Meter {
    #[serde(serialize_with = "write_counted")]
    watts: u32,
}

impl Apply for Meter {
    fn apply(&mut self, MeterEvent::Metered(event): &MeterEvent) {
        self.watts = event.watts;
    }
}

/// The number of states of meters that were written.
static WRITTEN: AtomicU32 = AtomicU32::new(0);

fn write_counted<S: serde::Serializer>(watts: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    WRITTEN.fetch_add(1, Ordering::SeqCst);
    serializer.serialize_u32(*watts)
}

/// The states of a long stream may be large, and are written on the threads of the application.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_writes_only_the_states_that_it_shows() {
    let shop = FileShop::empty().await;
    let events = (1..=300).map(|watts| NewEvent::from_event(&Metered { watts }).unwrap()).collect();
    shop.store.append(&StreamId::parse("Meter", "m-1").unwrap(), ExpectedVersion::NoStream, events).await.unwrap();
    let app = shop.start_app().await;
    let page = mount(&app, DashboardConfig::default()).await.get("/stream?type=Meter&id=m-1").await.ok();
    assert_eq!(between(&page, "<caption>State</caption>", "</table>").len(), 50, "{page}");
    assert_eq!(WRITTEN.load(Ordering::SeqCst), 52, "the first, the one before the events, and 50 after them");
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_large_events_shows_few_and_no_state() {
    let shop = FileShop::empty().await;
    let large = format!(r#"{{"cents":1,"note":"{}"}}"#, "x".repeat(1 << 20));
    for _ in 0..17 {
        shop.append("o-1", vec![NewEvent::new(Name::from_static("OrderPlaced"), 1, large.clone())]).await;
    }
    let app = shop.start_app().await;
    let site = mount(&app, DashboardConfig::default()).await;
    let versions = |page: &str| between(page, "<span class=\"version\">v", "<").join(" ");
    let page = site.get("/stream?type=Order&id=o-1").await.ok();
    assert_eq!(versions(&page), "17 16 15");
    assert!(page.contains("have more than 16 MiB") && !page.contains("<caption>State</caption>"), "{page}");
    let older = site.get(&link(&page, "Older events")).await.ok();
    assert_eq!(versions(&older), "14 13 12");
    assert_eq!(between(&older, "<caption>State</caption>", "</table>").len(), 3, "{older}");
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

/// Fails, and waits for longer than the test runs.
#[handler(group = "billing", manual)]
async fn charge(_event: &OrderPlaced) -> Result<(), HandlerError> {
    Err(HandlerError::retry_after(Duration::from_secs(3_600), "the bank is closed"))
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_wait_for_handlers_are_counted_and_groups_are_paused() {
    let shop = FileShop::empty().await;
    let app = shop.app().handler::<charge>().start().await.unwrap();
    let mut site = mount(&app, changing()).await;
    shop.append("o-1", vec![placed(1), placed(2)]).await;
    shop.append("o-2", vec![placed(3)]).await;
    let waits = |page: &str, handler: &str, number: u64| {
        let row = between(page, &format!("{handler}</th>"), "</tr>");
        row.first()
            .is_some_and(|row| row.contains(&format!("<td class=\"number\">{number}</td><td class=\"number\"><a ")))
    };
    wait_until(&site, "/groups", |page| waits(page, "charge", 3) && waits(page, "send", 0)).await;
    // an operator pauses them
    site.log_in(TOKEN).await;
    assert_eq!(site.post("/pause", "group=billing").await.status, 303);
    let page = wait_for(&site, "/groups", "<td>paused</td>").await;
    assert!(page.contains("Resume billing") && page.contains("Pause mail"), "{page}");
    assert_eq!(site.post("/resume", "group=billing").await.status, 303);
    assert!(site.get("/groups").await.ok().contains("Pause billing"));
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_of_the_application_replaces_what_the_store_shows_of_the_same() {
    let shop = FileShop::new().await;
    let app = shop.start_app().await;
    let site = mount(&app, DashboardConfig::default()).await;
    assert!(site.get("/health").await.ok().contains("2 dead letters wait for an operator"));
    shop.append("o-2", (0..9).map(|number| shipped(&format!("p-{number}"))).collect()).await;
    let health = wait_for(&site, "/health", "11 dead letters, more than 10").await;
    assert!(!health.contains("wait for an operator"), "{health}");
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_whose_bus_is_away_shows_its_alerts_and_the_error_of_its_relay() {
    let (shop, mut redis) = (FileShop::empty().await, eventbus_test::private_redis());
    let config = RedisEventBusConfig { redis_url: redis.url().into(), ..RedisEventBusConfig::default() };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let app = App::builder().store(shop.store.clone()).bus(bus).start().await.unwrap();
    let site = mount(&app, changing()).await;
    shop.append("o-1", vec![placed(1)]).await;
    wait_for(&site, "/relay", "<td class=\"number\">1</td><td class=\"number\">1</td>").await;
    redis.stop();
    shop.append("o-1", vec![placed(2)]).await;
    let relay = wait_for(&site, "/relay", "The relay of this process does not publish: ").await;
    assert!(relay.contains("The positions are those that the leader saved last: "), "{relay}");
    let overview = site.send("GET", "", &[], "").await.ok();
    let alerts = between(&overview, "<ul class=\"problems\">", "</ul>").concat();
    assert!(alerts.contains("not connected") && overview.contains("<dt>Last position</dt><dd>2</dd>"), "{overview}");
    assert!(site.get("/health").await.ok().contains("not connected"));
    redis.start();
    wait_for(&site, "/relay", "<td class=\"number\">2</td><td class=\"number\">2</td>").await;
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_only_consumes_shows_its_health() {
    let app = App::builder().bus(InMemoryEventBus::new()).handler::<charge>().start().await.unwrap();
    let health = mount(&app, DashboardConfig::default()).await.get("/health").await.ok();
    assert!(health.contains("<dd>healthy</dd>") && health.contains("No alerts."), "{health}");
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

/// Returns what a page says of the last rebuild of a projection.
fn rebuild_of<'p>(name: &str, page: &'p str) -> &'p str {
    let section = page.split_once(&format!("<section aria-label=\"Rebuild of {name}\">"));
    section.and_then(|(_, rest)| rest.split("</section>").next()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn projections_are_rebuilt_with_the_token() {
    let shop = FileShop::new().await;
    let app = shop.start_app().await;
    let mut site = mount(&app, changing()).await;
    let page = site.get("/projections").await.ok();
    assert!(page.contains("counted") && page.contains("each process") && !page.contains("./rebuild"), "{page}");
    assert_eq!(site.post("/rebuild", "projection=totals").await.status, 403);
    site.log_in(TOKEN).await;
    assert!(site.get("/projections").await.ok().contains("action=\"./rebuild\""));
    let rows = rusqlite::Connection::open(shop.url().trim_start_matches("sqlite:")).unwrap();
    assert_eq!(rows.execute("DELETE FROM totals", []).unwrap(), 3);
    let count_rows = || rows.query_row("SELECT count(*) FROM totals", [], |row| row.get::<_, i64>(0)).unwrap();
    for (name, rebuilt) in [("counted", 0), ("totals", 3)] {
        assert_eq!(site.post("/rebuild", &format!("projection={name}")).await.status, 303);
        wait_until(&site, "/projections", |page| rebuild_of(name, page).contains("rebuilt up to position 5")).await;
        assert_eq!(count_rows(), rebuilt, "rows after the rebuild of {name}");
    }
    // a rebuild that waits, as this connection holds the file
    rows.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(site.post("/rebuild", "projection=totals").await.status, 303);
    let page = site.get("/projections").await.ok();
    let running = rebuild_of("totals", &page);
    assert!(running.contains("<progress max=\"1\" value=\"0.") && !running.contains("<form"), "{running}");
    rows.execute_batch("ROLLBACK").unwrap();
    wait_until(&site, "/projections", |page| rebuild_of("totals", page).contains("rebuilt up to position 5")).await;
    assert_eq!(site.post("/rebuild", "projection=none").await.status, 404);
    app.shutdown(Duration::from_secs(60)).await.unwrap();
    let failed = site.post("/rebuild", "projection=totals").await;
    assert_eq!(failed.status, 303);
    wait_for(&site, "/projections", "role=\"alert\"").await;
}

#[derive(Debug)]
struct Fragile;

#[projection(name = "fragile", manual)]
impl Fragile {
    fn placed(&mut self, _event: &OrderPlaced) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_panics_has_failed_and_may_begin_again() {
    let shop = FileShop::new().await;
    let may_make = Arc::new(AtomicBool::new(true));
    let is_allowed = Arc::clone(&may_make);
    let make = move || {
        assert!(is_allowed.load(Ordering::SeqCst), "the factory has no more parts");
        Fragile
    };
    let app = shop.app().projection_with(make).start().await.unwrap();
    let mut site = mount(&app, changing()).await;
    site.log_in(TOKEN).await;
    let rebuild = async |text: &str| {
        assert_eq!(site.post("/rebuild", "projection=fragile").await.status, 303);
        wait_until(&site, "/projections", |page| rebuild_of("fragile", page).contains(text)).await
    };
    may_make.store(false, Ordering::SeqCst);
    rebuild("the factory has no more parts").await;
    may_make.store(true, Ordering::SeqCst);
    rebuild("rebuilt up to position 5").await;
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_on_redis_shows_its_groups_and_relay() {
    let shop = ServerShop::new().await;
    let app = shop.start_app().await;
    let mut site = mount(&app, changing()).await;
    site.log_in(TOKEN).await;
    shop.append("o-3", vec![placed(1)]).await;
    let groups = wait_for(&site, "/groups", "mail</th><td class=\"number\">1</td>").await;
    assert!(groups.contains("./dead-letters?group=mail\">list</a>"), "{groups}");
    wait_for(&site, "/relay", "<td class=\"number\">5</td><td class=\"number\">5</td>").await;
    // what the application has no alert for
    let health = site.get("/health").await.ok();
    let problems = between(&health, "<ul class=\"problems\">", "</ul>");
    assert_eq!(problems, ["<li>2 dead letters wait for an operator</li>"], "{health}");
    let mut redis = eventbus_test::internal::redis_connection(shop.redis.url()).await;
    let create = ["CREATE", &format!("{}:stream", shop.redis.prefix()), "post", "0"];
    let _: () = redis::cmd("XGROUP").arg(&create[..]).query_async(&mut redis).await.unwrap();
    wait_for(&site, "/health", "<li>group `post` has unfinished entries and no consumer</li>").await;
    // the handler fails again
    let list = site.get("/dead-letters").await.ok();
    let ids = between(&list, "href=\"./dead-letter?id=", "\"").into_iter().map(|id| id.replace("%2D", "-"));
    let first = ids.clone().next().unwrap();
    assert_eq!(site.post("/replay", &format!("ids={first}")).await.status, 303);
    let is_dead_again = |page: &str| page.matches("href=\"./dead-letter?id=").count() == 2 && !page.contains(&first);
    wait_until(&site, "/dead-letters", is_dead_again).await;
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}
