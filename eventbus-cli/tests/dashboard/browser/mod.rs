//! The dashboard in a browser: keyboard, colours, the width of a phone, its policy. Chromium is installed if it is missing,
//! so these tests run on request: `cargo test -p eventbus-cli --test dashboard -- --ignored`. With `EVENTBUS_BLESS=1` they
//! also write the pictures of the guide anew.

mod chromium;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use axum::Router;
use eventbus::App;
use eventbus_cli::dashboard::dashboard_with;

use self::chromium::Chromium;
use crate::{
    mounted::{TOKEN, changing, serve},
    served::Served,
    shop::{FileShop, ServerShop, placed, shipped},
};

/// The pages of a shop whose application runs.
struct Open {
    shop: FileShop,
    app: App,
    url: String,
}

impl Open {
    async fn new() -> Self {
        let shop = FileShop::new().await;
        for number in 0..30 {
            shop.append("o-2", vec![placed(number * number)]).await;
        }
        let app = shop.start_app().await;
        let address = serve(Router::new().nest_service("/operate", dashboard_with(&app, changing()))).await;
        Self { shop, app, url: format!("http://{address}/operate") }
    }

    async fn close(self) {
        self.app.shutdown(Duration::from_secs(60)).await.unwrap();
    }
}

/// The pages by the names of their pictures.
const PAGES: [(&str, &str); 9] = [
    ("overview", ""),
    ("streams", "/streams"),
    ("stream", "/stream?type=Order&id=o-2"),
    ("projections", "/projections"),
    ("groups", "/groups"),
    ("dead-letters", "/dead-letters"),
    ("relay", "/relay"),
    ("health", "/health"),
    ("login", "/login"),
];

/// The folder of the pictures, in that of the build.
fn pictures() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("dashboard")
}

/// Returns the least ratio of contrast between a text and what is behind it.
const CONTRAST: &str = "(() => {
    const light = (color) => {
        const parts = color.match(/\\d+/g).slice(0, 3).map((part) => part / 255);
        const [r, g, b] = parts.map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        const color = getComputedStyle(element).backgroundColor;
        return /, 0\\)$/.test(color) && element.parentElement ? behind(element.parentElement) : light(color);
    };
    const ratio = (element) => {
        const [text, ground] = [light(getComputedStyle(element).color), behind(element)];
        return (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
    };
    const texts = 'h1, h2, p, a, li, td, th, dt, dd, pre, code, ins, del, span, button, summary, caption, figcaption, label';
    return Math.min(...[...document.querySelectorAll(texts)].map(ratio));
})()";

/// Checks that the open page fits its screen, and that its texts can be read.
#[track_caller]
fn check_fit(browser: &mut Chromium, name: &str, width: u32, is_dark: bool) {
    let wide = browser.evaluate("document.documentElement.scrollWidth");
    assert!(wide.as_u64().unwrap() <= u64::from(width), "{name} is {wide} wide on {width}");
    let background = browser.text("getComputedStyle(document.body).backgroundColor");
    let wanted = if is_dark { "rgb(20, 23, 27)" } else { "rgb(255, 255, 255)" };
    assert_eq!(background, wanted, "{name}: the style is not applied");
    let contrast = browser.evaluate(CONTRAST).as_f64().unwrap();
    assert!(contrast >= 4.5, "{name}: contrast {contrast}");
}

/// Returns the name of what has the focus.
const FOCUSED: &str =
    "document.activeElement.textContent.trim() || document.activeElement.id || document.activeElement.name";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium"]
async fn pages_fit_their_screens_in_light_and_dark_and_break_no_policy() {
    let open = Open::new().await;
    let mut browser = Chromium::start();
    for (screen, width, is_phone) in [("desk", 1_280, false), ("phone", 390, true)] {
        browser.set_screen(width, 844, is_phone);
        for is_dark in [false, true] {
            browser.set_dark(is_dark);
            browser.open(&format!("{}/dead-letters", open.url));
            let dead_letter = browser.text("document.querySelector('a[href*=\"dead-letter?id=\"]').href");
            let pages = PAGES.map(|(name, path)| (name, format!("{}{path}", open.url)));
            for (name, url) in pages.into_iter().chain([("dead-letter", dead_letter)]) {
                browser.open(&url);
                check_fit(&mut browser, name, width, is_dark);
                let color = if is_dark { "dark" } else { "light" };
                browser.take_picture(&pictures().join(format!("{name}-{screen}-{color}.png")));
            }
        }
    }
    assert_eq!(browser.errors, [""; 0]);
    // the check itself sees a violation
    browser.evaluate(
        "document.body.appendChild(Object.assign(document.createElement('script'), { text: 'window.bad = 1' })), 1",
    );
    browser.evaluate("document.body.setAttribute('style', 'color: red'), 1");
    browser.wait_until("window.bad === undefined");
    assert!(browser.errors.iter().any(|error| error.contains("Content Security Policy")), "{:?}", browser.errors);
    open.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium"]
async fn the_findings_of_the_doctor_fit_their_screens() {
    let shop = ServerShop::new().await;
    let served = Served::start(&shop.arguments(&[]));
    shop.replay_dead_letters().await;
    shop.read_one_as("worker-7").await;
    let mut browser = Chromium::start();
    for (width, is_phone) in [(1_280, false), (390, true)] {
        browser.set_screen(width, 844, is_phone);
        for is_dark in [false, true] {
            browser.set_dark(is_dark);
            browser.open(&format!("http://{}/health", served.site.address));
            tab_to(&mut browser, "Examine the servers");
            browser.press_and_load("Enter");
            assert!(browser.text("document.querySelector('main').textContent").contains("pg-fsync"));
            check_fit(&mut browser, "findings", width, is_dark);
        }
    }
    assert_eq!(browser.errors, [""; 0]);
}

/// The pages that the guide shows.
const GUIDE_PAGES: [(&str, &str); 2] = [("overview", ""), ("dead-letters", "/dead-letters")];

/// Replaces the path of the file and the name of the process.
const WITHOUT_THIS_MACHINE: &str = r"document.body.innerHTML = document.body.innerHTML
    .replace(/[^ >]*\/shop\.db/g, 'shop.db')
    .replace(/[\w.-]+:\d+:[0-9a-f]{8}/g, 'web-1:7:40e8f3e2'), 1";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium"]
async fn the_guide_has_pictures_of_a_shop_at_work() {
    let shop = FileShop::empty().await;
    let app = shop.start_app().await;
    let address = serve(Router::new().nest("/operate", dashboard_with(&app, changing()))).await;
    let mut browser = Chromium::start();
    browser.set_screen(1_000, 700, false);
    browser.open(&format!("http://{address}/operate"));
    for second in 0..8 {
        for number in 0..5 * (second % 4 + 1) {
            shop.append(&format!("o-{second}{number}"), vec![placed(120)]).await;
        }
        if second % 3 == 0 {
            shop.append(&format!("o-{second}0"), vec![shipped(&format!("p-{second}"))]).await;
        }
        // no synchronisation: the charts show the pace of the writes
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    for (name, path) in GUIDE_PAGES {
        browser.open(&format!("http://{address}/operate{path}"));
        browser.evaluate(WITHOUT_THIS_MACHINE);
        let picture = pictures().join(format!("guide-{name}.png"));
        browser.take_picture(&picture);
        if std::env::var_os("EVENTBUS_BLESS").is_some() {
            let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guide/src/images");
            std::fs::copy(picture, guide.join(format!("dashboard-{name}.png"))).unwrap();
        }
    }
    assert_eq!(browser.errors, [""; 0]);
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium"]
async fn dead_letters_are_discarded_and_a_projection_rebuilt_by_keyboard() {
    let open = Open::new().await;
    let mut browser = Chromium::start();
    browser.set_screen(1_280, 844, false);
    browser.open(&open.url);
    browser.press("Tab");
    assert_eq!(browser.text(FOCUSED), "Skip to the content");
    assert_ne!(browser.text("getComputedStyle(document.activeElement).outlineStyle"), "none", "the focus is visible");
    browser.press("Enter");
    browser.wait_until("document.activeElement.id === 'content'");
    browser.open(&open.url);
    browser.press("Tab");
    let mut tabs = Vec::new();
    for _ in 0..7 {
        browser.press("Tab");
        tabs.push(browser.text(FOCUSED));
    }
    assert_eq!(tabs, ["Overview", "Streams", "Projections", "Groups", "Dead letters", "Relay", "Health"]);

    tab_to(&mut browser, "Log in");
    browser.press_and_load("Enter");
    tab_to(&mut browser, "token");
    browser.type_text(TOKEN);
    browser.press_and_load("Enter");
    assert_eq!(browser.text("document.querySelector('h1').textContent"), "Overview");
    assert_eq!(browser.text("document.querySelector('footer button').textContent"), "Log out");
    assert_eq!(browser.text("document.cookie"), "", "a script reads the cookie");

    browser.open(&format!("{}/dead-letters", open.url));
    let count = "document.querySelectorAll('tbody tr').length";
    assert_eq!(browser.evaluate(count), 2);
    tab_to(&mut browser, "Discard these 2 dead letters …");
    browser.press("Enter");
    tab_to(&mut browser, "Discard these 2 dead letters");
    browser.press_and_load("Enter");
    assert_eq!(browser.text("document.querySelector('[role=status].done').textContent"), "2 discarded.");
    assert_eq!(browser.evaluate(count), 0);

    browser.open(&format!("{}/projections", open.url));
    tab_to(&mut browser, "Rebuild from the first event …");
    browser.press("Enter");
    tab_to(&mut browser, "Rebuild counted");
    browser.press_and_load("Enter");
    // the script shows the progress
    browser.evaluate("document.activeElement.blur()");
    browser.wait_until("document.body.textContent.includes('rebuilt up to position')");
    assert_eq!(browser.errors, [""; 0]);
    open.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium"]
async fn the_overview_is_refreshed_by_its_script() {
    let open = Open::new().await;
    let mut browser = Chromium::start();
    browser.set_screen(1_280, 844, false);
    browser.open(&open.url);
    let head = open.app.store().head().await.unwrap().get();
    let shows = |position: u64| format!("document.querySelector('.facts').textContent.includes('position{position}')");
    browser.wait_until(&shows(head));
    open.shop.append("o-8", vec![placed(1)]).await;
    browser.wait_until(&shows(head + 1));
    // a table that has the focus to be scrolled keeps it, and is refreshed
    browser.evaluate("document.querySelector('.scroll').focus()");
    open.shop.append("o-8", vec![placed(1)]).await;
    browser.wait_until(&shows(head + 2));
    assert_eq!(browser.evaluate("document.activeElement === document.querySelector('.scroll')"), true);
    assert_eq!(browser.evaluate("document.querySelectorAll('[data-live]').length"), 1);
    open.close().await;
}

/// Presses Tab until an element with this text, id or name has the focus.
#[track_caller]
fn tab_to(browser: &mut Chromium, wanted: &str) {
    for _ in 0..100 {
        if browser.text(FOCUSED) == wanted {
            return;
        }
        browser.press("Tab");
    }
    panic!("`{wanted}` cannot be reached by Tab");
}
