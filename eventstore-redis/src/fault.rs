//! Faults of the server, as distinct from its refusals of a command.

use std::error::Error;

use eventbus::{port::ServerFault, support::source_chain};
use eventbus_redis_core::{error::CommandError, reply::is_connection_lost};
use redis::RedisError;

/// The error codes with which the server refuses every command for now: its memory or disk is full, it loads its data,
/// is a replica, waits for replicas or a script, or its cluster is not complete or has moved the keys.
const SERVER_FAULT_CODES: [&str; 10] =
    ["OOM", "READONLY", "LOADING", "BUSY", "MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED"];

/// Returns the server fault that an error or one of its sources reports, a broken connection included.
pub(crate) fn server_fault(error: &(dyn Error + 'static)) -> Option<ServerFault> {
    source_chain(error).find_map(|error| {
        if let Some(error) = error.downcast_ref::<RedisError>() {
            return fault_of_reply(error);
        }
        error.downcast_ref::<CommandError>().and_then(fault_of_command)
    })
}

fn fault_of_command(error: &CommandError) -> Option<ServerFault> {
    match error {
        CommandError::NotSent(_) => Some(connection_fault()),
        CommandError::Sent(error) => fault_of_reply(error),
    }
}

/// Returns the server fault that a reply reports, if any.
pub(crate) fn fault_of_reply(error: &RedisError) -> Option<ServerFault> {
    match error.code() {
        Some(code) => fault_of_code(code),
        None if is_connection_lost(error) || error.is_timeout() || error.is_connection_refusal() => {
            Some(connection_fault())
        }
        None => None,
    }
}

fn fault_of_code(code: &str) -> Option<ServerFault> {
    SERVER_FAULT_CODES.into_iter().find(|known| *known == code).map(ServerFault::new)
}

fn connection_fault() -> ServerFault {
    ServerFault::new("connection broken")
}

#[cfg(test)]
mod tests {
    use eventbus::{BoxError, port::AppendError};
    use eventbus_redis_core::error::boxed;

    use super::*;

    #[test]
    fn faults_of_the_server_are_told_from_refusals() {
        for code in ["OOM", "READONLY", "LOADING"] {
            assert!(fault_of_code(code).is_some(), "{code}");
        }
        for code in ["WRONGTYPE", "ERR", "NOPERM", ""] {
            assert_eq!(fault_of_code(code), None, "{code}");
        }
        let not_sent = AppendError::Unavailable(boxed(CommandError::NotSent("cannot connect".into())));
        let io = RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        for error in [BoxError::from(not_sent), AppendError::OutcomeUnknown(io.clone().into()).into(), io.into()] {
            assert!(server_fault(&*error).is_some(), "{error}");
        }
        assert_eq!(server_fault(&AppendError::NoStore), None);
    }
}
