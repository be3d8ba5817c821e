//! The command that a transaction handles, for the commit to note.

use eventbus::{repository::IdempotencyKey, store::HandledCommand};
use eventbus_redis_core::program::AtomicProgram;
use uuid::Uuid;

use crate::keys::StoreKeys;

/// Returns the field of a command in the hash of commands; the tenant comes first, as it has no colon.
pub(crate) fn command_field(tenant_id: Option<Uuid>, key: &IdempotencyKey) -> String {
    format!("{}:{key}", tenant_id.map(|id| id.to_string()).unwrap_or_default())
}

/// Parses a text of [`note`].
pub(crate) fn parse_command(tenant_id: Option<Uuid>, key: &IdempotencyKey, note: &str) -> Option<HandledCommand> {
    let (request, answer) = note.split_once(' ')?;
    let request = Uuid::try_parse(request).ok()?;
    Some(HandledCommand { tenant_id, key: key.clone(), request, answer: answer.to_owned() })
}

/// Writes the fingerprint of the request and the answer.
fn note(command: &HandledCommand) -> String {
    format!("{} {}", command.request, command.answer)
}

/// Adds the step that checks that no commit has noted the command.
pub(crate) fn add_check(command: &HandledCommand, keys: &StoreKeys, program: &mut AtomicProgram) {
    program.step("new_command").key(&keys.commands()).arg(command_field(command.tenant_id, &command.key));
}

pub(crate) fn add_write(command: &HandledCommand, keys: &StoreKeys, program: &mut AtomicProgram) {
    let field = command_field(command.tenant_id, &command.key);
    program.step("command").key(&keys.commands()).key(&keys.command_times()).arg(field).arg(note(command));
}
