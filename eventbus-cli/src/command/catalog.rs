//! `catalog`: what is linked into the binary of an application, or what the application runs.

use clap::{Args, ValueEnum};

use super::rebuild::to_command_error;
use crate::{
    catalog::{CatalogView, async_api, event_schemas},
    connection::OpenBus,
    error::{CommandError, ExitStatus},
    output::Table,
    session::Session,
};

/// Show the events, aggregates, handlers, consumer groups and projections of this program
///
/// Without `--app` it shows what is linked into the program, and needs no store, no bus and no server. Code of a crate that the
/// program never names is not linked, and not shown. Nor are handlers and projections that are declared `manual`; those that
/// the application does not run are shown.
#[derive(Debug, Args)]
pub(crate) struct CatalogArgs {
    /// Show the handlers and projections that the application runs, and the names of its default group and of its stream
    ///
    /// The application is made for this, and not started: it opens its store and its bus.
    #[arg(long)]
    app: bool,
    /// The form of the output
    #[arg(long, value_enum, default_value_t)]
    format: CatalogFormat,
    /// The title of an AsyncAPI document
    #[arg(long, default_value = "Events")]
    title: String,
    /// The version of an AsyncAPI document
    #[arg(long, value_name = "VERSION", default_value = "1.0.0")]
    document_version: String,
}

/// The text in tables for the default group of the bus, whose name the catalog knows only from the application.
const DEFAULT_GROUP: &str = "(of the bus)";

/// A form of the catalog.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum CatalogFormat {
    /// Tables; with `--json` all that is known
    #[default]
    Text,
    /// The JSON Schema of each event
    JsonSchema,
    /// An AsyncAPI 3 document
    Asyncapi,
}

impl CatalogArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        let (printer, named) = (session.printer(), session.settings().bus_config().map(|config| config.stream_name()));
        let (catalog, stream) = if self.app {
            let app = session.take_app().await?.standalone().map_err(|error| to_command_error(error.into()))?;
            let of_app = match OpenBus::of_app(app.bus(), None) {
                OpenBus::Redis(bus, _) => Some(bus.config().stream_name()),
                _ => None,
            };
            (CatalogView::of_app(&app), named.or(of_app))
        } else {
            (CatalogView::linked(), named)
        };
        match self.format {
            CatalogFormat::Text => printer.show(&catalog, text)?,
            CatalogFormat::JsonSchema => printer.show_value(&event_schemas(&catalog))?,
            CatalogFormat::Asyncapi => {
                let document = async_api(&catalog, &self.title, &self.document_version, stream.as_deref());
                printer.show_value(&document)?;
            }
        }
        Ok(ExitStatus::Done)
    }
}

fn text(catalog: &CatalogView) -> String {
    let events = Table::new("EVENT, VERSION>, AGGREGATE, BEFORE, TAGS, DECLARED").rows(&catalog.events, |event| {
        [
            event.event_type.to_owned(),
            event.schema_version.to_string(),
            event.aggregate_type.to_owned(),
            listed(event.former_types),
            listed(event.tags),
            event.source.clone(),
        ]
    });
    let aggregates = Table::new("AGGREGATE, STATE, RETIRED, DECLARED").rows(&catalog.aggregates, |aggregate| {
        let state = if aggregate.is_fold { "further" } else { "main" };
        [aggregate.aggregate_type.to_owned(), state.into(), listed(aggregate.retired), aggregate.source.clone()]
    });
    let all_or = |events: Option<&[&str]>| events.map_or_else(|| "all".into(), listed);
    let group = |name: Option<&str>| name.unwrap_or(DEFAULT_GROUP).to_owned();
    let handlers = Table::new("HANDLER, GROUP, EVENTS, DECLARED").rows(&catalog.handlers, |handler| {
        let events = all_or(handler.events.as_deref());
        [handler.name.to_owned(), group(handler.group.as_deref()), events, handler.source.clone()]
    });
    let groups = Table::new("GROUP, HANDLERS")
        .rows(&catalog.groups, |of_group| [group(of_group.name.as_deref()), listed(&of_group.handlers)]);
    let projections = "PROJECTION, VERSION>, TABLES, EVENTS, DECLARED";
    let projections = Table::new(projections).rows(&catalog.projections, |projection| {
        let (tables, events) = (listed(projection.tables), all_or(projection.events.as_deref()));
        [projection.name.to_owned(), projection.version.to_string(), tables, events, projection.source.clone()]
    });
    [events, aggregates, handlers, groups, projections].map(|table| table.to_text()).join("\n")
}

/// Returns names in one cell.
fn listed(names: &[&str]) -> String {
    if names.is_empty() { "-".into() } else { names.join(", ") }
}
