//! `streams`: the streams of a store, and the events of one.

use clap::{Args, Subcommand};
use eventbus::{
    Name, RecordedEvent, StreamId, Uuid, Version,
    port::{Direction, listings::StreamFilter},
};
use futures_util::TryStreamExt as _;
use serde::Serialize;

use crate::{
    error::{CommandError, ExitStatus},
    output::{Progress, Table, optional, printable, time_text},
    query::{
        Change, Difference, EventView, FieldChoice, Payload, PayloadComparison, StateComparison, StreamPage,
        list_streams,
    },
    session::Session,
};

/// Show the streams of the store, or the events of one
#[derive(Debug, Args)]
pub(crate) struct StreamArgs {
    #[command(subcommand)]
    action: StreamAction,
}

#[derive(Debug, Subcommand)]
enum StreamAction {
    /// List the streams, by the order of their aggregate ids
    List {
        /// Only of aggregates of this type
        #[arg(long = "type", value_name = "TYPE")]
        aggregate_type: Option<String>,
        /// Only of aggregates whose ids begin with this text
        #[arg(long, value_name = "TEXT", default_value = "")]
        id_prefix: String,
        /// Only of this tenant; the nil UUID stands for none
        #[arg(long, value_name = "UUID")]
        tenant: Option<Uuid>,
        /// Go on after a page: the text that the former page named
        #[arg(long, value_name = "CURSOR")]
        after: Option<String>,
        /// The most streams to list; of a store on Redis there may be more
        #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
    },
    /// Show the events of one stream, in order
    Show {
        /// The type of its aggregate
        #[arg(value_name = "TYPE")]
        aggregate_type: String,
        /// The id of its aggregate
        #[arg(value_name = "ID")]
        aggregate_id: String,
        /// The tenant of its aggregate
        #[arg(long, value_name = "UUID")]
        tenant: Option<Uuid>,
        /// Begin with this version
        #[arg(long, value_name = "VERSION", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        from: u64,
        /// The most events to show
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
        /// Also show what differs from the last event of the same type, among those that are shown; in the application's own
        /// binary also what changed in the state of the aggregate, if it implements `Serialize`
        #[arg(long)]
        diff: bool,
    },
}

/// An event as one document.
#[derive(Debug, Serialize)]
pub(super) struct EventDocument {
    event: EventView,
}

impl From<EventView> for EventDocument {
    fn from(event: EventView) -> Self {
        Self { event }
    }
}

/// An event of a stream, perhaps with the differences from the last event of its type.
#[derive(Debug, Serialize)]
struct ComparedEventDocument {
    event: EventView,
    #[serde(flatten)]
    compared: Option<Changes>,
}

#[derive(Debug, Serialize)]
struct Changes {
    changes: Vec<FieldChange>,
    /// Set if the event has more fields than are compared.
    is_cut: bool,
    /// The changes of the event in the state of its aggregate; `None` if they are unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    state_changes: Option<Vec<FieldChange>>,
}

/// The earlier events and the state with which an event is compared.
struct Comparison<'a> {
    choice: &'a FieldChoice,
    payloads: PayloadComparison,
    state: Option<StateComparison<'a>>,
}

impl<'a> Comparison<'a> {
    /// Begins before the first event of a stream; in the binary of its application also compares the state.
    fn begin(stream: &StreamId, choice: &'a FieldChoice, is_in_app: bool) -> Self {
        let state = if is_in_app { StateComparison::begin(stream, choice) } else { None };
        Self { choice, payloads: PayloadComparison::default(), state }
    }

    /// Applies an event that is not shown.
    fn pass(&mut self, event: &RecordedEvent) {
        if let Some(state) = &mut self.state {
            state.pass(event);
        }
    }

    fn compare(&mut self, event: &RecordedEvent) -> Changes {
        let payload = Payload::new(event, self.choice);
        let fields = self.payloads.compare(event.event_type().as_str(), &payload);
        let changed = self.state.as_mut().map(|state| state.advance(event));
        let is_known = self.state_fault().is_none();
        let changes = |fields: Vec<Difference>| fields.into_iter().filter_map(FieldChange::of).collect();
        Changes {
            changes: changes(fields),
            is_cut: payload.is_cut,
            state_changes: changed.filter(|_| is_known).map(changes),
        }
    }

    /// Returns why the state is unknown.
    fn state_fault(&self) -> Option<&str> {
        self.state.as_ref().and_then(StateComparison::fault)
    }
}

/// A field whose values in two events differ; `None` stands for an event without it.
#[derive(Debug, Serialize)]
struct FieldChange {
    field: String,
    before: Option<String>,
    after: Option<String>,
}

impl FieldChange {
    /// Returns `None` for a field that does not differ.
    fn of(Difference { path, value, change }: Difference) -> Option<Self> {
        let (before, after) = match change {
            Change::None => return None,
            Change::New => (None, Some(value)),
            Change::From(before) => (Some(before), Some(value)),
            Change::Gone => (Some(value), None),
        };
        Some(Self { field: path, before, after })
    }
}

impl ComparedEventDocument {
    fn text(&self) -> String {
        let value = |value: &Option<String>| value.as_deref().map_or_else(|| "(none)".to_owned(), printable);
        let mut text = event_text(&self.event);
        let Some(compared) = &self.compared else { return text };
        let in_state = compared.state_changes.iter().flatten().map(|change| ("state", change));
        for (label, change) in compared.changes.iter().map(|change| ("changed", change)).chain(in_state) {
            let FieldChange { field, before, after } = change;
            text += &format!("    {label:<12}{}: {} -> {}\n", printable(field), value(before), value(after));
        }
        if compared.is_cut {
            text += "    more fields than are compared\n";
        }
        text
    }
}

impl StreamArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        match &self.action {
            StreamAction::List { aggregate_type, id_prefix, tenant, after, limit } => {
                let filter = StreamFilter {
                    aggregate_type: aggregate_type.as_deref().map(aggregate_type_name).transpose()?,
                    id_prefix: id_prefix.clone(),
                    tenant: *tenant,
                };
                let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
                let store = session.store().await?;
                let page = Progress::while_reading(list_streams(&*store, &filter, after.as_deref(), limit)).await?;
                session.show(&page, page_text)
            }
            StreamAction::Show { aggregate_type, aggregate_id, tenant, from, limit, diff } => {
                let stream = StreamId::parse(aggregate_type, aggregate_id)
                    .map_err(|error| CommandError::Usage(error.to_string()))?
                    .with_tenant_id(tenant.filter(|tenant| !tenant.is_nil()));
                let choice = FieldChoice::default();
                let comparison = diff.then(|| Comparison::begin(&stream, &choice, session.is_in_app()));
                show_stream(session, &stream, Version::new(*from), limit.unwrap_or(u64::MAX), comparison).await
            }
        }
    }
}

fn aggregate_type_name(text: &str) -> Result<Name, CommandError> {
    Name::new("aggregate type", text).map_err(|error| CommandError::Usage(error.to_string()))
}

async fn show_stream(
    session: &Session,
    stream: &StreamId,
    from: Version,
    limit: u64,
    mut comparison: Option<Comparison<'_>>,
) -> Result<ExitStatus, CommandError> {
    let (store, printer) = (session.store().await?, session.printer());
    // the state before the first event that is shown is that of all events before
    let has_state = comparison.as_ref().is_some_and(|comparison| comparison.state.is_some());
    let mut events = store.read_stream(stream, if has_state { Version::FIRST } else { from }, Direction::Forward);
    let (line, mut shown) = (Progress::beside_output("reading")?, 0);
    while shown < limit
        && let Some(event) = events.try_next().await?
    {
        if event.version() < from {
            comparison.iter_mut().for_each(|comparison| comparison.pass(&event));
            continue;
        }
        let compared = comparison.as_mut().map(|comparison| comparison.compare(&event));
        let document = ComparedEventDocument { event: EventView::from(&event), compared };
        line.hide_while(|| printer.show(&document, ComparedEventDocument::text))?;
        shown += 1;
    }
    drop(line);
    if shown == 0 {
        return session.finding(&format!("stream `{stream}` has no event from version {from} on"));
    }
    if let Some(fault) = comparison.as_ref().and_then(Comparison::state_fault) {
        printer.note(fault);
    }
    Ok(ExitStatus::Done)
}

/// Returns the lines of an event.
pub(super) fn event_text(event: &EventView) -> String {
    let json = |json: &Option<Box<serde_json::value::RawValue>>| json.as_ref().map(|json| json.get().to_owned());
    let mut text = format!(
        "{}  {}/{}  v{}  {} (schema {})  {}\n",
        optional(event.position.as_ref()),
        event.aggregate_type,
        event.aggregate_id,
        event.version,
        event.event_type,
        event.schema_version,
        time_text(event.recorded_at.unwrap_or(event.occurred_at)),
    );
    let lines = [
        ("id", Some(event.event_id.clone())),
        ("tenant", event.tenant.map(|tenant| tenant.to_string())),
        ("correlation", Some(event.correlation_id.to_string())),
        ("causation", event.causation_id.map(|cause| cause.to_string())),
        ("actor", event.actor_id.clone()),
        ("attributes", json(&event.attributes)),
        ("fields", json(&event.fields)),
    ];
    for (name, value) in lines {
        let value = value.as_deref().map(printable);
        text.extend(value.map(|value| format!("    {name:<12}{value}\n")));
    }
    text
}

fn page_text(page: &StreamPage) -> String {
    let table = Table::new("TYPE, ID, EVENTS>, LAST EVENT, TENANT").rows(&page.streams, |row| {
        [
            row.aggregate_type.clone(),
            row.aggregate_id.clone(),
            row.version.to_string(),
            optional(row.recorded_at.map(time_text)),
            row.tenant.map(|tenant| tenant.to_string()).unwrap_or_default(),
        ]
    });
    let next = page.next.as_ref().map(|next| format!("more with --after '{}'\n", next.replace('\'', r"'\''")));
    table.to_text() + &next.unwrap_or_default()
}
