//! Scripts of the consumers of a group.

use super::{ENTRY_BYTES, ENTRY_IDS, Lua, lua};

pub(crate) static HEARTBEAT: Lua = lua(&[ENTRY_IDS, include_str!("heartbeat.lua")]);
pub(crate) static RENEW_CLAIMS: Lua = lua(&[ENTRY_IDS, include_str!("renew_claims.lua")]);
pub(crate) static CLAIM_IDLE: Lua = lua(&[ENTRY_IDS, ENTRY_BYTES, include_str!("claim_idle.lua")]);
pub(crate) static READ_AGAIN: Lua = lua(&[ENTRY_BYTES, include_str!("read_again.lua")]);
pub(crate) static SAVE_ATTEMPTS: Lua = lua(&[ENTRY_IDS, include_str!("save_attempts.lua")]);
pub(crate) static MOVE_TO_DEAD_LETTERS: Lua = lua(&[include_str!("move_to_dead_letters.lua")]);
pub(crate) static COLLECT_GARBAGE: Lua = lua(&[ENTRY_IDS, include_str!("collect_garbage.lua")]);
pub(crate) static DEREGISTER_CONSUMER: Lua = lua(&[ENTRY_IDS, include_str!("deregister_consumer.lua")]);

#[cfg(test)]
mod tests {
    use redis::{Value, aio::MultiplexedConnection};

    use super::*;
    use crate::{reply::Entry, script::PASSED_BYTES_MAX};

    /// Adds twenty entries of 512 KiB that are pending on a consumer; returns their ids.
    async fn add_large(connection: &mut MultiplexedConnection, consumer: &str) -> Vec<String> {
        let (text, mut ids) = ("x".repeat(512 * 1024), Vec::new());
        for _ in 0..20 {
            let mut add = redis::cmd("XADD");
            add.arg("stream").arg("*").arg("event_type").arg("Large").arg("text").arg(&text);
            ids.push(add.query_async(connection).await.unwrap());
        }
        let read = format!("XREADGROUP GROUP group {consumer} STREAMS stream >");
        for command in ["XGROUP CREATE stream group 0", &read] {
            let words: Vec<_> = command.split(' ').collect();
            let _: Value = redis::cmd(words[0]).arg(&words[1..]).query_async(connection).await.unwrap();
        }
        ids
    }

    /// The server executes no other command while a script reads entries.
    #[tokio::test]
    async fn large_entries_are_read_again_a_few_mib_at_a_time() {
        let server = eventbus_test::private_redis();
        let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
        let ids = add_large(&mut connection, "one").await;
        let mut read = READ_AGAIN.key("stream");
        read.key("retry").arg("group").arg("one").arg(PASSED_BYTES_MAX);
        read.arg(&ids);
        let (entries, _, _, reached): (Vec<Entry>, Value, Value, usize) =
            read.invoke_async(&mut connection).await.unwrap();
        assert_eq!((entries.len(), reached), (8, 8));
    }
}
