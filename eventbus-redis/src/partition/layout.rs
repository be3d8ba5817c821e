//! The layout of the partitions, which the first bus on a stream records and all later ones must match.
//!
//! Invariant: a bus sends no other command before it has joined. Order of the join: JOIN_LAYOUT, comparing the number
//! of partitions, recording the generation, allowing commands, creating the default group.

use std::error::Error as _;

use redis::ScriptInvocation;

use crate::{
    RedisConnectError, RedisEventBusConfig,
    error::CommandError,
    group::{self, GroupCreation},
    inner::BusInner,
    keys::{self, FORMAT},
    script,
    url::address,
};

/// Connects, joins the layout of the stream, and creates the default group; does so once.
pub(crate) async fn join(bus: &BusInner) -> Result<(), RedisConnectError> {
    let mut joined = bus.layout().lock_join().await;
    if *joined {
        return Ok(());
    }
    let result = try_join(bus).await;
    match &result {
        Ok(()) => *joined = true,
        Err(error) => {
            let why = error.source().map_or_else(String::new, |source| format!(": {source}"));
            // an unjoined bus may not match the layout, so it must not send other commands
            bus.connection().block_commands(&format!("{error}{why}"));
        }
    }
    result
}

async fn try_join(bus: &BusInner) -> Result<(), RedisConnectError> {
    let reply: Vec<String> = bus.connection().connect(&join_layout_script(bus)).await?;
    let (recorded, generation) = parse_joined(bus, &reply)?;
    if recorded != bus.config().partitions {
        return Err(bus.partition_count_mismatch(recorded).into());
    }
    bus.layout().set_generation(generation);
    bus.connection().allow_commands();
    for part in bus.partitions_or_self() {
        // the group does not hold up trimming until a consumer joins it
        let create = group::create_group_script(part, bus.default_group(), "0-0", GroupCreation::Unjoined);
        bus.connection()
            .run_idempotent::<redis::Value>(&create)
            .await
            .map_err(|error| bus.connection().setup_error(error))?;
    }
    Ok(())
}

/// Connects to the bus that a configuration names, which must exist, and takes over its number of partitions. Writes no
/// key.
pub(crate) async fn attach(config: RedisEventBusConfig) -> Result<BusInner, RedisConnectError> {
    let found = BusInner::new(config.clone())?;
    let mut find = script::partition::FIND_LAYOUT.key(keys::meta(found.bus_stream()));
    find.key(keys::layout(found.base_stream())).key(found.base_stream());
    FORMAT.add_arguments(&mut find);
    let reply: Vec<String> = found.connection().connect(&find).await?;
    let (partitions, generation) = parse_joined(&found, &reply)?;
    let bus = BusInner::new(RedisEventBusConfig { partitions, ..config })?;
    bus.layout().set_generation(generation);
    bus.connection().connect::<Vec<String>>(&find).await?;
    bus.connection().allow_commands();
    *bus.layout().lock_join().await = true;
    Ok(bus)
}

/// Prepares joining the layout of the stream, or recording it.
fn join_layout_script(bus: &BusInner) -> ScriptInvocation<'static> {
    let mut join = script::partition::JOIN_LAYOUT.key(keys::meta(bus.bus_stream()));
    join.key(keys::layout(bus.base_stream())).key(bus.base_stream());
    for number in 0..bus.config().partitions {
        join.key(keys::partition(bus.base_stream(), number));
    }
    FORMAT.add_arguments(join.arg(bus.config().partitions).arg(bus.layout().generation()));
    join
}

/// Returns the recorded number of partitions and the generation of the layout, or the refusal.
fn parse_joined(bus: &BusInner, reply: &[String]) -> Result<(u32, String), RedisConnectError> {
    let address = address(&bus.config().redis_url);
    match &reply.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["joined", partitions, generation] if let Ok(partitions) = partitions.parse() => {
            Ok((partitions, (*generation).to_owned()))
        }
        ["none"] => Err(RedisConnectError::NotFound { address, of: "bus", key: bus.base_stream().to_owned() }),
        ["too new", format, min_reader] => {
            Err(FORMAT.too_new_error(&address, &keys::meta(bus.bus_stream()), format, min_reader))
        }
        _ => Err(RedisConnectError::Refused { address, source: format!("unexpected reply: {reply:?}").into() }),
    }
}

/// Adds the layout that a script relies on when it adds to partitions.
pub(crate) fn add_layout_arguments(bus: &BusInner, script: &mut ScriptInvocation<'_>) {
    script.key(keys::layout(bus.base_stream())).arg(bus.layout().generation());
}

/// Runs a script that adds to partitions; records the layout again if the server has lost it.
pub(crate) async fn add_to_partitions<T: redis::FromRedisValue>(
    bus: &BusInner,
    script: &ScriptInvocation<'_>,
) -> Result<T, CommandError> {
    match bus.connection().run(script).await {
        Err(CommandError::Sent(error)) if error.code() == Some("NOLAYOUT") => {
            // if a newer format is recorded, this records no layout, and the script fails again
            let _: Vec<String> = bus.connection().run_idempotent(&join_layout_script(bus)).await?;
            tracing::warn!(
                stream = bus.base_stream(),
                "the server has lost the layout of the partitions; recording it again"
            );
            bus.connection().run(script).await
        }
        reply => reply,
    }
}
