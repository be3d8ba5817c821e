//! Every option of a handler.

use std::time::Duration;

use eventbus::{handler::Handler, prelude::*};

#[handler(
    name = "accounts.audit",
    group = "audit",
    retries = 0,
    timeout_ms = 30_000,
    concurrency = 4,
    start = "now",
    manual
)]
pub(crate) async fn audit(_event: &RecordedEvent) {}

#[handler()]
async fn defaults(_event: &RecordedEvent) {}

#[handler(manual)]
async fn never_named(_event: &RecordedEvent) {}

#[test]
fn runs() {
    let definition = audit::definition();
    assert_eq!(definition.name, "accounts.audit");
    assert_eq!(definition.group, Some("audit"));
    assert_eq!(definition.options.retries, Some(0));
    assert_eq!(definition.options.timeout, Some(Duration::from_secs(30)));
    assert_eq!(definition.options.concurrency, Some(4));
    assert_eq!(definition.options.start, Some(eventbus::handler::HandlerStart::Now));
    let definition = defaults::definition();
    assert_eq!((definition.name, definition.group), ("defaults", None));
    assert_eq!(definition.options.retries, None);
    assert!(definition.source.file.ends_with("handler_options.rs"));
    assert_eq!(definition.source.line, 19);
}
