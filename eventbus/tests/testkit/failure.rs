//! The text and place of a test that must fail.

use std::{
    cell::RefCell,
    panic::{self, AssertUnwindSafe, Location},
    sync::Once,
};

thread_local! {
    /// File and line of the last panic of this thread.
    static PLACE: RefCell<(String, u32)> = RefCell::default();
}

fn record_places() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if let Some(place) = info.location() {
                PLACE.with_borrow_mut(|last| *last = (place.file().into(), place.line()));
            }
            report(info);
        }));
    });
}

/// Returns the text with which `test` fails. The failure must name a line of the caller, near this call.
#[track_caller]
pub fn failure_of<T>(test: impl FnOnce() -> T) -> String {
    record_places();
    let failed = panic::catch_unwind(AssertUnwindSafe(test)).err().expect("the test must fail");
    at_caller(Location::caller());
    text_of(&*failed)
}

/// Does the same for a test that awaits.
pub async fn async_failure_of<T>(test: impl Future<Output = T>) -> String {
    use futures_util::FutureExt as _;
    record_places();
    let failed = AssertUnwindSafe(test).catch_unwind().await.err().expect("the test must fail");
    text_of(&*failed)
}

#[track_caller]
fn at_caller(caller: &Location<'_>) {
    let (file, line) = PLACE.with_borrow(Clone::clone);
    assert_eq!(file, caller.file(), "the failure names the line of the test");
    assert!(caller.line().abs_diff(line) < 12, "{line} is not at {caller}");
}

fn text_of(failed: &(dyn std::any::Any + Send)) -> String {
    let text = failed.downcast_ref::<String>().cloned();
    text.or_else(|| failed.downcast_ref::<&str>().map(|text| (*text).to_owned())).expect("a panic with a text")
}
