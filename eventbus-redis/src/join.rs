//! Joining a bus: the first one on a stream records the format of its keys, which all later ones must know.
//!
//! Invariant: a bus sends no other command before it has joined.

use std::error::Error as _;

use crate::{
    RedisConnectError, RedisEventBusConfig,
    inner::BusInner,
    keys::{self, FORMAT},
    script,
    url::address,
};

/// Connects and joins the bus; does so once.
pub(crate) async fn join(bus: &BusInner) -> Result<(), RedisConnectError> {
    let mut joined = bus.joined().lock().await;
    if *joined {
        return Ok(());
    }
    let result = try_join(bus).await;
    match &result {
        Ok(()) => *joined = true,
        Err(error) => {
            let why = error.source().map_or_else(String::new, |source| format!(": {source}"));
            // an unjoined bus may not know the format, so it must not send other commands
            bus.connection().block_commands(&format!("{error}{why}"));
        }
    }
    result
}

async fn try_join(bus: &BusInner) -> Result<(), RedisConnectError> {
    let mut join = script::bus::JOIN.key(keys::meta(bus.stream()));
    FORMAT.add_arguments(&mut join);
    let reply: Vec<String> = bus.connection().connect(&join).await?;
    check_joined(bus, &reply)?;
    bus.connection().allow_commands();
    Ok(())
}

/// Connects to the bus that a configuration names, which must exist. Writes no key.
pub(crate) async fn attach(config: RedisEventBusConfig) -> Result<BusInner, RedisConnectError> {
    let bus = BusInner::new(config)?;
    let mut attach = script::bus::ATTACH.key(keys::meta(bus.stream()));
    attach.key(bus.stream());
    FORMAT.add_arguments(&mut attach);
    let reply: Vec<String> = bus.connection().connect(&attach).await?;
    check_joined(&bus, &reply)?;
    bus.connection().allow_commands();
    *bus.joined().lock().await = true;
    Ok(bus)
}

/// Returns the refusal in the reply of a script, if it refuses.
fn check_joined(bus: &BusInner, reply: &[String]) -> Result<(), RedisConnectError> {
    let address = address(&bus.config().redis_url);
    match &reply.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["joined"] => Ok(()),
        ["none"] => Err(RedisConnectError::NotFound { address, of: "bus", key: bus.stream().to_owned() }),
        ["too new", format, min_reader] => {
            Err(FORMAT.too_new_error(&address, &keys::meta(bus.stream()), format, min_reader))
        }
        _ => Err(RedisConnectError::Refused { address, source: format!("unexpected reply: {reply:?}").into() }),
    }
}
