//! The macros of `eventbus`; use them through that crate, which documents them.
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
/// | `aggregate = Order` | the aggregate that the event belongs to; its `events(..)` lists the event |
/// | `aggregate_type = "Order"` | the same by name, for an aggregate in a different crate |
/// | `type = "order.created"` | the durable name; the struct's name if left out |
/// | `version = 2` | the version of the payload's shape; 1 if left out |
/// | `was("OrderPlaced")` | earlier durable names of the event: stored events with these names are read as this event |
/// | `unique(email, normalize = str::to_lowercase)` | the unique values that the event takes for its stream |
/// | `releases(email)` | the unique values that the event gives back |
/// | `tags(course, student = pupil, event_type)` | the event's tags, for decisions: a field, a field under a different name, the event's own type |
/// | `personal(email, address)` | the fields with personal data, which the dashboard does not show |
/// | `upcast(OrderCreatedV1, add_currency)` | the upcasters, one for each earlier version from 1: a struct with `#[derive(OldEvent)]`, a function, or `_` |
/// | `crate = path` | where `eventbus` is re-exported; the only option of an enum |
#[proc_macro_derive(DomainEvent, attributes(event))]
pub fn domain_event(item: TokenStream) -> TokenStream {
    run(|mistakes| domain_event::derive(item.into(), mistakes))
}

/// # Options
///
/// The options in `#[event(..)]`; the first two are required:
///
/// | option | meaning |
/// |---|---|
/// | `of = OrderCreated` | the event; its `upcast(..)` lists the struct |
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
/// | `events(OrderCreated, legacy::Closed as LegacyClosed)` | all events of the aggregate; a name after `as` is the name of the variant |
/// | `type = "Order"` | the durable name; the type's name if left out |
/// | `fold_of = Order` | makes this a second state, folded from the streams of `Order`, with the durable name and ids of `Order` |
/// | `event = OrderEvent` | the name of the generated enum; the type's name and `Event` if left out |
/// | `snapshot(every = 100, version = 2)` | keeps the state after about every 100 events, so that a load reads only the events after it; give a new `version` whenever `apply` changes; 1 if left out |
/// | `typed_id` | its ids are of the type `Id<Order>` instead of `AggregateId` |
/// | `retired("OrderViewed")` | the durable names of stored events that the aggregate no longer knows: a load passes them by |
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
/// | `events(CourseDefined, Enrolled)` | all events that the decision reads, each with tags; a name after `as` is the name of the variant |
/// | `event = SeatsEvent` | the name of the generated enum; the type's name and `Event` if left out |
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
/// | `group = "mail"` | the group by which the handler is started, paused and listed; the handler's name if left out. On a consumed stream the consumer group, and the bus's default group if left out |
/// | `retries = 5` | how often a failed delivery is retried, after growing delays, before it becomes a dead letter; as often as fits into four hours if left out, on a consumed stream as the bus decides |
/// | `timeout_ms = 30_000` | the time limit of one attempt, which fails when it exceeds that; 60 s if left out. The wait for a store that does not answer does not count |
/// | `concurrency = 4` | how many deliveries run at once in a process, each of a different aggregate, however long they take; if left out, one, and a delivery that has awaited for 10 s lets the next one begin beside it. On a consumed stream the bus decides if left out |
/// | `shards = 8` | in how many parts processes share the handler's events, from 1 to 256; 1 if left out. The store keeps the first number |
/// | `start = "now"` | a new handler, or an event type that it newly takes, begins with the next event; with the oldest one if left out |
/// | `when_dead = "hold"` | later events of an aggregate wait behind its dead letter; they go on if left out |
/// | `max_waiting = 10_000` | how many events may wait for a retry, or behind one that does, before the handler reads no more; 100,000 if left out |
/// | `stream = "orders"` | the stream of another service that the handler consumes, see `AppBuilder::consume`; the events of the store if left out |
/// | `manual` | `discover()` does not find the handler: give it to the builder, by `.handler::<..>()` |
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
/// | `name = "order-statistics"` | the durable name of the projection and its checkpoint; required |
/// | `tables("order_rows", "order_lines")` | the tables with the projection's rows, which a rebuild replaces; needed for rows in the store |
/// | `key = "order_id"` | the column of each table that holds the aggregate's id, for rebuilds of one aggregate; with `tables` |
/// | `set_up = "CREATE TABLE IF NOT EXISTS .."` | the SQL that creates the tables, which runs at each start; for rows in the store |
/// | `version = 2` | the version of the methods: an interrupted rebuild continues only with the same version; with `tables` |
/// | `timeout_ms = 30_000` | the time limit of a method that writes rows, which fails when it exceeds that; 60 s if left out |
/// | `manual` | `discover()` does not find the projection: give it to the builder, by `.projection(..)` or `.projection_with(..)` |
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
