//! The macros of `eventbus`; use them through that crate, where their documentation is.
//!
//! Every macro reads its input into a model and collects all mistakes on the way (`parse`), then writes code from the
//! model alone (`expand`). Generated code names only `eventbus`, the standard library by absolute paths, and the types
//! of its input.

mod aggregate;
mod decision;
mod derived;
mod domain_event;
mod event_enum;
mod handler;
mod krate;
mod misplaced;
mod mistakes;
mod old_event;
mod options;
mod parameters;
mod projection;
mod serde_attributes;
mod sets;
mod shared;
mod surroundings;
#[cfg(test)]
mod tests;
mod text;

use proc_macro::TokenStream;

use mistakes::Mistakes;

/// # Options
///
/// The options in `#[event(..)]`:
///
/// | option | meaning |
/// |---|---|
/// | `aggregate = Order` | the aggregate it belongs to, which lists it |
/// | `aggregate_type = "Order"` | the same by name, when the aggregate is in another crate |
/// | `type = "order.created"` | the durable name; the struct's name if left out |
/// | `version = 2` | the version of the payload's shape; 1 if left out |
/// | `was("OrderPlaced")` | the durable names that it had before: stored events of these names are read as this one |
/// | `unique(email, normalize = str::to_lowercase)` | the unique values that it takes for its stream |
/// | `releases(email)` | those that it gives back |
/// | `tags(course, student = pupil, event_type)` | what it is about, for decisions: fields, a field under another name, its own type |
/// | `personal(email, address)` | its fields with data of a person, which the dashboard does not show |
/// | `upcast(OrderCreatedV1, add_currency)` | the upcasters, one for each earlier version from 1: a struct with `#[derive(OldEvent)]`, a function, or `_` |
/// | `crate = path` | where `eventbus` is re-exported; the only option of an enum |
#[proc_macro_derive(DomainEvent, attributes(event))]
pub fn domain_event(item: TokenStream) -> TokenStream {
    run(|mistakes| domain_event::derive(item.into(), mistakes))
}

/// # Options
///
/// The options in `#[event(..)]`, the first two never left out:
///
/// | option | meaning |
/// |---|---|
/// | `of = OrderCreated` | the event, which lists the struct in its `upcast(..)` |
/// | `version = 1` | the version of the event that has these fields |
/// | `crate = path` | where `eventbus` is re-exported |
#[proc_macro_derive(OldEvent, attributes(event))]
pub fn old_event(item: TokenStream) -> TokenStream {
    run(|mistakes| old_event::derive(item.into(), mistakes))
}

/// # Options
///
/// The options in `#[aggregate(..)]`:
///
/// | option | meaning |
/// |---|---|
/// | `events(OrderCreated, legacy::Closed as LegacyClosed)` | all its events; a name after `as` is that of the variant |
/// | `type = "Order"` | the durable name; the type's name if left out |
/// | `fold_of = Order` | a second state of the streams of that aggregate, with its durable name and ids |
/// | `event = OrderEvent` | the name of the enum; the type's name and `Event` if left out |
/// | `snapshot(every = 100, version = 2)` | keeps the state of every 100 events, so that a load reads only the events after it; a new `version` whenever `apply` changes, 1 if left out |
/// | `typed_id` | its ids are of the type `Id<Order>` instead of `AggregateId` |
/// | `retired("OrderViewed")` | the durable names of stored events that it no longer knows: loading passes them by |
/// | `crate = path` | where `eventbus` is re-exported |
#[proc_macro_derive(Aggregate, attributes(aggregate))]
pub fn aggregate(item: TokenStream) -> TokenStream {
    run(|mistakes| aggregate::derive(item.into(), mistakes))
}

/// # Options
///
/// The options in `#[decision(..)]`:
///
/// | option | meaning |
/// |---|---|
/// | `events(CourseDefined, Enrolled)` | all events that it reads, each with tags; a name after `as` is that of the variant |
/// | `event = SeatsEvent` | the name of the enum; the type's name and `Event` if left out |
/// | `crate = path` | where `eventbus` is re-exported |
#[proc_macro_derive(Decision, attributes(decision))]
pub fn decision(item: TokenStream) -> TokenStream {
    run(|mistakes| decision::derive(item.into(), mistakes))
}

/// # Options
///
/// The options in `#[handler(..)]`:
///
/// | option | meaning |
/// |---|---|
/// | `name = "send-receipt"` | the durable name; the function's name if left out |
/// | `group = "mail"` | the consumer group; the bus's own if left out |
/// | `retries = 5` | how often the bus retries a failed delivery, after growing delays, before it is a dead letter; the bus decides if left out |
/// | `timeout_ms = 30_000` | the time limit of one attempt, which then fails; 60 s if left out. The wait for a store that is away does not count |
/// | `concurrency = 4` | how many deliveries run at once, each of a different aggregate, however long they take; if left out the bus decides, and one that awaits for 10 s lets a second one begin beside it |
/// | `start = "oldest"` | where the handler begins if its group is new, or skipped its events longer ago than a day: with the oldest event, or with `"now"`; if left out, a new group begins with the oldest, and events that were skipped long ago are an error at the start |
/// | `manual` | not found by `discover()`: give it to the builder, by `.handler::<..>()` |
/// | `crate = path` | where `eventbus` is re-exported |
#[proc_macro_attribute]
pub fn handler(arguments: TokenStream, item: TokenStream) -> TokenStream {
    run(|mistakes| handler::attribute(arguments.into(), &item.into(), mistakes))
}

/// # Options
///
/// The options in `#[projection(..)]`:
///
/// | option | meaning |
/// |---|---|
/// | `name = "order-statistics"` | the durable name of the projection and its checkpoint; never left out |
/// | `tables("order_rows", "order_lines")` | the tables of its rows, which a rebuild replaces; needed for rows in the store |
/// | `key = "order_id"` | the column of each table that holds the aggregate's id, to rebuild one aggregate; with `tables` |
/// | `set_up = "CREATE TABLE IF NOT EXISTS .."` | the SQL that creates its tables, run at each start; for rows in the store |
/// | `version = 2` | the version of its methods: an interrupted rebuild goes on only in the same one; with `tables` |
/// | `timeout_ms = 30_000` | the time limit of a method that writes rows, which then fails; 60 s if left out |
/// | `manual` | not found by `discover()`: give it to the builder, by `.projection(..)` or `.projection_with(..)` |
/// | `crate = path` | where `eventbus` is re-exported |
#[proc_macro_attribute]
pub fn projection(arguments: TokenStream, item: TokenStream) -> TokenStream {
    run(|mistakes| projection::attribute(arguments.into(), &item.into(), mistakes))
}

/// The only place that turns mistakes into `compile_error!`.
fn run(expand: impl FnOnce(&mut Mistakes) -> proc_macro2::TokenStream) -> TokenStream {
    let mut mistakes = Mistakes::default();
    let mut code = expand(&mut mistakes);
    code.extend(mistakes.into_compile_errors());
    code.into()
}
