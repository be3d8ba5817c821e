//! The dead letters: searching, showing, replaying and discarding them.

use axum::{http::StatusCode, response::Response};
use eventbus::{
    bus::MessageId,
    dead_letter::{DeadLetter, DeadLetterFilter},
};
use maud::{Markup, html};
use serde::Deserialize;

use super::streams::stream_link;
use crate::{
    dashboard::{
        parts::{field_table, optional, search_field, table, time},
        source::DEAD_LETTERS_READ_MAX,
        visit::Visit,
    },
    dead_letter_action::DeadLetterAction,
    error::CommandError,
    query::{DeadLetterQuery, Payload, aggregate_text, search_dead_letters},
};

/// The number of dead letters on a page.
const DEAD_LETTERS: usize = 50;

/// A search of dead letters: they must match every field that is not empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wanted {
    group: String,
    handler: String,
    r#type: String,
    aggregate: String,
    error: String,
}

/// The dead letters that a page lists.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::dashboard) struct DeadLetterSearch {
    #[serde(flatten)]
    wanted: Wanted,
    /// The id after which the page begins.
    after: String,
    /// The numbers of the last change.
    replayed: Option<u64>,
    discarded: Option<u64>,
    gone: Option<u64>,
}

/// The dead letters that an operator replays or discards.
#[derive(Debug, Deserialize)]
pub(in crate::dashboard) struct DeadLetterForm {
    /// Their ids, with spaces between them.
    ids: String,
    /// The search of the page, which is shown again.
    #[serde(flatten)]
    wanted: Wanted,
}

/// The dead letter that a page shows.
#[derive(Debug, Deserialize)]
pub(in crate::dashboard) struct DeadLetterChoice {
    id: String,
}

impl Wanted {
    /// Returns the parameters of a link to the same search.
    fn parameters(&self) -> [(&'static str, &str); 5] {
        [
            ("group", &self.group),
            ("handler", &self.handler),
            ("type", &self.r#type),
            ("aggregate", &self.aggregate),
            ("error", &self.error),
        ]
    }

    fn query(&self) -> DeadLetterQuery {
        let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let filter = DeadLetterFilter {
            group: given(&self.group),
            handler: given(&self.handler),
            event_type: given(&self.r#type),
            aggregate_id: given(&self.aggregate),
            ..DeadLetterFilter::default()
        };
        DeadLetterQuery { filter, error: given(&self.error), ..DeadLetterQuery::default() }
    }
}

impl DeadLetterSearch {
    /// Returns the sentence about the last change.
    fn outcome(&self) -> Option<String> {
        let done =
            self.replayed.map(|number| (number, "replayed")).or(self.discarded.map(|number| (number, "discarded")));
        let gone = self.gone.filter(|gone| *gone > 0).map(|gone| format!(", {gone} were gone")).unwrap_or_default();
        done.map(|(number, done)| format!("{number} {done}{gone}."))
    }
}

pub(in crate::dashboard) async fn dead_letters(
    visit: &Visit,
    search: &DeadLetterSearch,
) -> Result<Markup, CommandError> {
    let (bus, wanted) = (visit.inner().source().bus(), &search.wanted);
    let after = Some(search.after.as_str()).filter(|after| !after.is_empty()).map(MessageId::new);
    let limits = (DEAD_LETTERS, DEAD_LETTERS_READ_MAX as usize);
    let (found, next) = search_dead_letters(bus.dead_letters()?, &wanted.query(), after, limits).await?;
    let rows = html! {
        @for dead_letter in &found {
            tr {
                th scope="row" { a href=(visit.link("dead-letter", &[("id", dead_letter.id.as_str())])) { (dead_letter.id) } }
                td.text { (optional(dead_letter.error.as_ref())) }
                td { (optional(dead_letter.event_type.as_ref())) }
                td { (optional(dead_letter.group.as_ref())) }
                td { (optional(dead_letter.handler.as_ref())) }
                td { (optional(aggregate_text(dead_letter))) }
                td.number { (optional(dead_letter.attempts)) }
                td { (time(dead_letter.dead_lettered_at)) }
            }
        }
    };
    let next = next.map(|next| {
        let parameters: Vec<_> = wanted.parameters().into_iter().chain([("after", next.as_str())]).collect();
        visit.link("dead-letters", &parameters)
    });
    let ids: Vec<_> = found.iter().map(|dead_letter| dead_letter.id.as_str()).collect();
    Ok(html! {
        @if let Some(outcome) = search.outcome() { p.done role="status" { (outcome) } }
        form.search method="get" action=(visit.link("dead-letters", &[])) role="search" {
            (search_field("group", "Group", &wanted.group))
            (search_field("handler", "Handler", &wanted.handler))
            (search_field("type", "Event type", &wanted.r#type))
            (search_field("aggregate", "Aggregate id", &wanted.aggregate))
            (search_field("error", "Error holds", &wanted.error))
            p.field { button { "Search" } }
        }
        @if !found.is_empty() {
            (table("Dead letters, the oldest first", "Dead letter, Error, Type, Group, Handler, Aggregate, Attempts>, Since", &rows))
            @if visit.may_change() { (actions(visit, &ids, wanted)) }
        } @else if next.is_some() {
            p { "None of the next " (DEAD_LETTERS_READ_MAX) " dead letters matches; the next page searches on." }
        } @else {
            p { "No dead letter matches." }
        }
        @if let Some(next) = &next {
            p { a.next href=(next) rel="next" { "Next page" } }
        }
    })
}

/// The forms that replay or discard dead letters; discarding needs a second step.
fn actions(visit: &Visit, ids: &[&str], wanted: &Wanted) -> Markup {
    let what = match ids.len() {
        1 => "this dead letter".into(),
        number => format!("these {number} dead letters"),
    };
    let form = |path: &str, class: &str, verb: &str| {
        html! {
            form method="post" action=(visit.link(path, &[])) {
                input type="hidden" name="ids" value=(ids.join("\n"));
                @for (name, value) in wanted.parameters().iter().filter(|(_, value)| !value.is_empty()) {
                    input type="hidden" name=(name) value=(value);
                }
                button class=(class) { (verb) " " (what) }
            }
        }
    };
    html! {
        div.actions {
            (form("replay", "primary", "Replay"))
            details {
                summary { "Discard " (what) " …" }
                p { "What is discarded is deleted for good: no handler gets it again." }
                (form("discard", "danger", "Discard"))
            }
        }
    }
}

/// The content of one dead letter; `None` if it is gone.
pub(in crate::dashboard) async fn dead_letter(
    visit: &Visit,
    choice: &DeadLetterChoice,
) -> Result<Option<Markup>, CommandError> {
    let bus = visit.inner().source().bus();
    let Some(found) = bus.dead_letters()?.find_dead_letter(&MessageId::new(choice.id.as_str())).await? else {
        return Ok(None);
    };
    let shown_fields = visit.inner().fields().await?;
    Ok(Some(html! {
        section aria-labelledby="error" {
            h2 #error { "Error" }
            pre.problem tabindex="0" { (found.error.as_deref().unwrap_or("not known")) }
        }
        (facts(visit, &found))
        section aria-labelledby="payload" {
            h2 #payload { "Payload" }
            @match &found.record {
                Some(record) => {
                    @let payload = Payload::new(record, &shown_fields);
                    (payload_table(&payload))
                },
                None => p { "The event cannot be decoded." },
            }
        }
        @if visit.may_change() {
            section aria-labelledby="act" {
                h2 #act { "Replay or discard" }
                p { "A replay delivers it to its group again, without the handlers that had succeeded. Its order among the events of its aggregate is lost." }
                (actions(visit, &[found.id.as_str()], &Wanted::default()))
            }
        }
    }))
}

fn facts(visit: &Visit, found: &DeadLetter) -> Markup {
    html! {
        dl.facts {
            div { dt { "Id" } dd { code { (found.id) } } }
            div { dt { "Group" } dd { (optional(found.group.as_ref())) } }
            div { dt { "Handler" } dd { (optional(found.handler.as_ref())) } }
            div { dt { "Attempts" } dd { (optional(found.attempts)) } }
            div { dt { "First failed" } dd { (time(found.first_failed_at)) } }
            div { dt { "Given up" } dd { (time(found.dead_lettered_at)) } }
            div { dt { "Event type" } dd { (optional(found.event_type.as_ref())) } }
            @if !found.done_handlers.is_empty() {
                div { dt { "Handlers that succeeded" } dd { (found.done_handlers.join(", ")) } }
            }
            @if let Some(record) = &found.record {
                @let stream = record.metadata().stream();
                @let (aggregate_type, id) = (stream.aggregate_type().as_str(), stream.aggregate_id().as_str());
                div {
                    dt { "Stream" }
                    dd { a href=(stream_link(visit, aggregate_type, id, stream.tenant_id())) { (aggregate_type) "/" (id) } }
                }
                div { dt { "Version" } dd { (record.version()) } }
                div { dt { "Event id" } dd { code { (record.metadata().event_id()) } } }
            }
        }
    }
}

fn payload_table(payload: &Payload) -> Markup {
    let rows = html! {
        @for field in payload.fields() {
            tr { th scope="row" { code { (field.path) } } td { (field.value) } }
        }
    };
    html! {
        @if payload.fields().is_empty() { p { "The payload has no fields." } } @else {
            (field_table("Fields", &rows))
        }
        @if payload.is_cut { p.hint { "More fields than are shown." } }
    }
}

/// Replays or discards dead letters, and redirects to the list; an error is shown with the result up to it.
pub(in crate::dashboard) async fn end_dead_letters(
    visit: &Visit,
    form: &DeadLetterForm,
    action: DeadLetterAction,
) -> Response {
    let dead_letters = match visit.inner().source().bus().dead_letters() {
        Ok(dead_letters) => dead_letters,
        Err(error) => return visit.show("Dead letters", Err(error)),
    };
    let [.., done_form] = action.forms();
    let (mut done, mut gone, mut failed) = (0_u64, 0_u64, Vec::new());
    for id in form.ids.lines().filter(|id| !id.is_empty()) {
        match action.end(dead_letters, &MessageId::new(id)).await {
            Ok(true) => done += 1,
            Ok(false) => gone += 1,
            Err(error) => {
                let is_away = matches!(error, CommandError::Unreachable { .. });
                failed.push((id, error.to_line()));
                // the rest would fail too
                if is_away {
                    break;
                }
            }
        }
    }
    if failed.is_empty() {
        let (done, gone) = (done.to_string(), gone.to_string());
        let outcome = [(done_form, &*done), ("gone", &gone)];
        let parameters: Vec<_> = form.wanted.parameters().into_iter().chain(outcome).collect();
        return visit.lead_to("dead-letters", &parameters);
    }
    let content = html! {
        p { (done) " " (done_form) ", " (gone) " gone, " (failed.len()) " failed:" }
        ul.problems { @for (id, error) in &failed { li { code { (id) } ": " (error) } } }
        p { a href=(visit.link("dead-letters", &[])) { "Dead letters" } }
    };
    visit.show_with(StatusCode::BAD_GATEWAY, "Some failed", &content)
}
