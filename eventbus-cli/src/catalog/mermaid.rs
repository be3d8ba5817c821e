//! The catalog as a picture: a flowchart in the language of Mermaid.

use std::{collections::BTreeMap, fmt::Write as _};

use super::view::{CatalogView, EventRow};

/// The node of readers that take every event.
const ALL: &str = "all([\"all events\"])";

/// Returns a flowchart in the language of Mermaid: the events of each aggregate, with the handlers, by group, and the
/// projections that take them.
#[must_use]
pub fn mermaid(catalog: &CatalogView) -> String {
    let mut chart = String::from("flowchart LR\n");
    let mut aggregates: BTreeMap<&str, Vec<(usize, &EventRow)>> = BTreeMap::new();
    for (index, event) in catalog.events.iter().enumerate() {
        aggregates.entry(event.aggregate_type).or_default().push((index, event));
    }
    // writing to a string cannot fail
    for (number, (aggregate, events)) in aggregates.iter().enumerate() {
        let _ = writeln!(chart, "  subgraph a{number}[\"{}\"]", escaped(aggregate));
        for (index, event) in events {
            let _ = writeln!(chart, "    e{index}[\"{}\"]", escaped(event.event_type));
        }
        chart.push_str("  end\n");
    }
    for (number, group) in catalog.groups.iter().enumerate() {
        let _ = writeln!(
            chart,
            "  subgraph g{number}[\"group {}\"]",
            escaped(group.name.as_deref().unwrap_or("of the bus"))
        );
        for (index, handler) in catalog.handlers.iter().enumerate().filter(|(_, handler)| handler.group == group.name) {
            let _ = writeln!(chart, "    h{index}(\"{}\")", escaped(handler.name));
        }
        chart.push_str("  end\n");
    }
    for (index, projection) in catalog.projections.iter().enumerate() {
        let _ = writeln!(chart, "  p{index}[(\"{}\")]", escaped(projection.name));
    }
    let handlers = catalog.handlers.iter().enumerate().map(|(index, handler)| (format!("h{index}"), &handler.events));
    let projections =
        catalog.projections.iter().enumerate().map(|(index, projection)| (format!("p{index}"), &projection.events));
    for (reader, types) in handlers.chain(projections) {
        match types {
            None => {
                let _ = writeln!(chart, "  {ALL} --> {reader}");
            }
            Some(types) => {
                let taken = catalog.events.iter().enumerate().filter(|(_, event)| types.contains(&event.event_type));
                for (index, _) in taken {
                    let _ = writeln!(chart, "  e{index} --> {reader}");
                }
            }
        }
    }
    chart
}

/// Returns a name escaped for a label.
fn escaped(name: &str) -> String {
    name.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;")
}
