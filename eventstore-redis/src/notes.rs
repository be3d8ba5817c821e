//! The notes of handled deliveries and commands, as the script of an append writes them.

use eventbus::{
    Name,
    repository::IdempotencyKey,
    store::{HandledCommand, HandledDelivery},
};
use uuid::Uuid;

use crate::keys::event_keys;

/// Returns the note of a delivery: the handler, and the key of the event within the store.
pub(crate) fn delivery_note(delivery: &HandledDelivery) -> Vec<u8> {
    let HandledDelivery { handler, stream, event_id } = delivery;
    // names have no control characters, so a zero byte separates
    [handler.as_bytes(), &[0], &event_keys(stream)(*event_id)].concat()
}

/// Returns the handler of a note, and the key of its event; `None` if it is no note of a delivery.
pub(crate) fn parse_delivery_note(note: &[u8]) -> Option<(Name, [u8; 16])> {
    let (handler, event) = note.split_last_chunk()?;
    let handler = std::str::from_utf8(handler.strip_suffix(&[0])?).ok()?;
    Some((Name::new("handler", handler).ok()?, *event))
}

/// Returns the field of a command in the hash of commands; the tenant comes first, as it has no colon.
pub(crate) fn command_field(tenant_id: Option<Uuid>, key: &IdempotencyKey) -> String {
    format!("{}:{key}", tenant_id.map(|id| id.to_string()).unwrap_or_default())
}

/// Returns the note of a command: the fingerprint of the request, and the answer.
pub(crate) fn command_note(command: &HandledCommand) -> String {
    format!("{} {}", command.request, command.answer)
}

/// Parses a [`command_note`].
pub(crate) fn parse_command(tenant_id: Option<Uuid>, key: &IdempotencyKey, note: &str) -> Option<HandledCommand> {
    let (request, answer) = note.split_once(' ')?;
    let request = Uuid::try_parse(request).ok()?;
    Some(HandledCommand { tenant_id, key: key.clone(), request, answer: answer.to_owned() })
}
