//! The catalog as rows.

use std::collections::BTreeMap;

use eventbus::{
    app::StandaloneApp,
    catalog::{Catalog, LinkedEvent},
    event::{EventFilter, Source},
    handler::HandlerDefinition,
    projection::ProjectionDefinition,
};
use serde::Serialize;
use serde_json::Value;

use super::json_schema::event_schema;

/// The events, aggregates, handlers with their groups, and projections of a program.
#[derive(Debug, Clone, Serialize)]
pub struct CatalogView {
    /// The aggregates, by type.
    pub aggregates: Vec<AggregateRow>,
    /// The events, by type.
    pub events: Vec<EventRow>,
    /// The handlers, by name.
    pub handlers: Vec<HandlerRow>,
    /// The consumer groups of the handlers, by name; the default group of the bus comes first.
    pub groups: Vec<HandlerGroupRow>,
    /// The projections, by name.
    pub projections: Vec<ProjectionReaderRow>,
}

/// An aggregate.
#[derive(Debug, Clone, Serialize)]
pub struct AggregateRow {
    /// Its durable type.
    pub aggregate_type: &'static str,
    /// The path of its struct.
    pub rust_type: &'static str,
    /// Where it is declared.
    pub source: String,
    /// Set if it is a second state type, for the streams of a different aggregate.
    pub is_fold: bool,
    /// Event types that are stored, and no longer saved.
    pub retired: &'static [&'static str],
}

/// An event.
#[derive(Debug, Clone, Serialize)]
pub struct EventRow {
    /// Its durable type.
    pub event_type: &'static str,
    /// The names that it had before.
    pub former_types: &'static [&'static str],
    /// The aggregate to which it belongs.
    pub aggregate_type: &'static str,
    /// The version of its shape.
    pub schema_version: u32,
    /// The names of its tags.
    pub tags: &'static [&'static str],
    /// The path of its struct.
    pub rust_type: &'static str,
    /// Where it is declared.
    pub source: String,
    /// The JSON Schema of its own fields, or `None` if its fields are unknown. An enum whose variants are a subset of
    /// an enum around it may be anything there, because samples of a recursive enum end like this.
    pub schema: Option<Value>,
    /// The reason why its fields are unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_schema: Option<String>,
    /// Sample payloads.
    pub examples: Vec<Value>,
}

/// A handler.
#[derive(Debug, Clone, Serialize)]
pub struct HandlerRow {
    /// Its name.
    pub name: &'static str,
    /// Its consumer group; `None` for the default group of the bus, if the bus is unknown.
    pub group: Option<String>,
    /// The event types that it takes, those from before a renaming included; `None` for all.
    pub events: Option<Vec<&'static str>>,
    /// Where it is declared.
    pub source: String,
}

/// A consumer group of handlers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HandlerGroupRow {
    /// Its name; `None` for the default group of the bus, if the bus is unknown.
    pub name: Option<String>,
    /// The names of its handlers, in their order.
    pub handlers: Vec<&'static str>,
}

/// A projection.
#[derive(Debug, Clone, Serialize)]
pub struct ProjectionReaderRow {
    /// Its name.
    pub name: &'static str,
    /// Where its state or its rows are, and the delivery guarantee of their changes: `in_memory`, `transactional` or
    /// `at_least_once`.
    pub kind: eventbus::projection::ProjectionKind,
    /// The version of its methods.
    pub version: u32,
    /// The tables of its rows.
    pub tables: &'static [&'static str],
    /// The event types that it takes, those from before a renaming included; `None` for all.
    pub events: Option<Vec<&'static str>>,
    /// Where it is declared.
    pub source: String,
}

impl CatalogView {
    /// Describes the parts that are linked into this program, whether an application runs them or not. Handlers and
    /// projections that are declared `manual` are not among them.
    #[must_use]
    pub fn linked() -> Self {
        let linked = Catalog::linked();
        let handlers = linked.handlers.iter().map(handler_row).collect();
        let projections = linked.projections.iter().map(projection_row).collect();
        Self::new(&linked, handlers, projections)
    }

    /// Describes the handlers and projections that an application runs, and the events and aggregates that are linked
    /// into this program.
    #[must_use]
    pub fn of_app(app: &StandaloneApp) -> Self {
        let in_group = |handler: &HandlerDefinition| {
            let group = Some(app.group_of(handler).to_string());
            HandlerRow { group, ..handler_row(handler) }
        };
        let handlers = app.handlers().iter().map(in_group).collect();
        Self::new(&Catalog::linked(), handlers, app.projections().map(projection_row).collect())
    }

    fn new(linked: &Catalog, handlers: Vec<HandlerRow>, projections: Vec<ProjectionReaderRow>) -> Self {
        Self {
            aggregates: linked
                .aggregates
                .iter()
                .map(|aggregate| AggregateRow {
                    aggregate_type: aggregate.aggregate_type,
                    rust_type: aggregate.rust_type,
                    source: place(aggregate.source),
                    is_fold: aggregate.is_fold,
                    retired: aggregate.retired,
                })
                .collect(),
            events: linked.events.iter().map(event_row).collect(),
            groups: groups_of(&handlers),
            handlers,
            projections,
        }
    }

    /// Returns the event types that the program knows, each with the highest schema version that it reads: current
    /// names, names from before a renaming, and retired ones.
    #[must_use]
    pub fn known_types(&self) -> Vec<(String, u32)> {
        let of_event = |event: &EventRow| {
            let names = [event.event_type].into_iter().chain(event.former_types.iter().copied());
            let version = event.schema_version;
            names.map(move |name| (name.to_owned(), version)).collect::<Vec<_>>()
        };
        // a type that a fold ignores may be an event of the aggregate
        let retired = self.aggregates.iter().filter(|aggregate| !aggregate.is_fold).flat_map(|main| main.retired);
        // a retired event is never decoded, so no version of it is too new
        let retired = retired.map(|name| ((*name).to_owned(), u32::MAX));
        retired.chain(self.events.iter().flat_map(of_event)).collect()
    }
}

fn place(source: Source) -> String {
    source.to_string()
}

fn event_row(event: &LinkedEvent) -> EventRow {
    let descriptor = event.descriptor;
    let (schema, no_schema, payloads) = match event.samples() {
        Ok(samples) => (Some(event_schema(&samples)), None, samples.payloads),
        Err(error) => (None, Some(error.reason), Vec::new()),
    };
    EventRow {
        event_type: descriptor.event_type,
        former_types: descriptor.former_types,
        aggregate_type: descriptor.aggregate_type,
        schema_version: descriptor.schema_version,
        tags: descriptor.tags,
        rust_type: descriptor.rust_type,
        source: place(descriptor.source),
        schema,
        no_schema,
        examples: payloads.iter().filter_map(|payload| serde_json::from_str(payload).ok()).collect(),
    }
}

fn handler_row(handler: &HandlerDefinition) -> HandlerRow {
    HandlerRow {
        name: handler.name,
        group: handler.group.map(str::to_owned),
        events: types_of(handler.events),
        source: place(handler.source),
    }
}

/// Returns the groups of handlers, sorted.
fn groups_of(handlers: &[HandlerRow]) -> Vec<HandlerGroupRow> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for handler in handlers {
        groups.entry(handler.group.clone()).or_default().push(handler.name);
    }
    groups.into_iter().map(|(name, handlers)| HandlerGroupRow { name, handlers }).collect()
}

fn projection_row(projection: &ProjectionDefinition) -> ProjectionReaderRow {
    ProjectionReaderRow {
        name: projection.name,
        kind: projection.kind,
        version: projection.version,
        tables: projection.tables,
        events: types_of(projection.events),
        source: place(projection.source),
    }
}

fn types_of(events: EventFilter) -> Option<Vec<&'static str>> {
    match events {
        EventFilter::All => None,
        EventFilter::Only(_) => Some(events.event_types()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_lists_its_handlers() {
        let named = |group: Option<&str>| group.map(str::to_owned);
        let row = |name, group| HandlerRow { name, group: named(group), events: None, source: String::new() };
        let handlers = [row("charge", Some("billing")), row("log", None), row("refund", Some("billing"))];
        let group =
            |name, handlers: &[&'static str]| HandlerGroupRow { name: named(name), handlers: handlers.to_vec() };
        assert_eq!(groups_of(&handlers), [group(None, &["log"]), group(Some("billing"), &["charge", "refund"])]);
    }
}
