//! Scripts of the consumers of a group.

use std::sync::OnceLock;

use redis::Script;

use super::{BACKLOG, ENTRY_BYTES, ENTRY_IDS, FENCE, GONE, Lua, MEMBERS, PAGES, RELAY, lua};

pub(crate) static HEARTBEAT: Lua = lua(&[ENTRY_IDS, MEMBERS, RELAY, include_str!("heartbeat.lua")]);
pub(crate) static RENEW_CLAIMS: Lua = lua(&[ENTRY_IDS, RELAY, include_str!("renew_claims.lua")]);
pub(crate) static CLAIM_IDLE: ConsumerScript =
    fenceable(&[ENTRY_IDS, ENTRY_BYTES, MEMBERS, RELAY, GONE, include_str!("claim_idle.lua")]);
pub(crate) static RECLAIM_OWN: ConsumerScript =
    fenceable(&[ENTRY_IDS, ENTRY_BYTES, RELAY, include_str!("reclaim_own.lua")]);
pub(crate) static READ_DUE: ConsumerScript = fenceable(&[ENTRY_IDS, ENTRY_BYTES, RELAY, include_str!("read_due.lua")]);
pub(crate) static READ_NEW: Lua = lua(&[ENTRY_IDS, ENTRY_BYTES, PAGES, include_str!("read_new.lua")]);
pub(crate) static SAVE_ATTEMPTS: ConsumerScript = fenceable(&[ENTRY_IDS, RELAY, include_str!("save_attempts.lua")]);
pub(crate) static ACKNOWLEDGE_WITH_ATTEMPTS: ConsumerScript =
    fenceable(&[include_str!("acknowledge_with_attempts.lua")]);
pub(crate) static MOVE_TO_DEAD_LETTERS: ConsumerScript = fenceable(&[include_str!("move_to_dead_letters.lua")]);
pub(crate) static SKIP_OR_HAND_OFF: ConsumerScript =
    fenceable(&[ENTRY_IDS, MEMBERS, RELAY, include_str!("skip_or_hand_off.lua")]);
pub(crate) static HAND_OFF_UNKNOWN_VERSION: ConsumerScript =
    fenceable(&[ENTRY_IDS, MEMBERS, include_str!("hand_off_unknown_version.lua")]);
pub(crate) static CLAIM_HANDED_OFF: ConsumerScript =
    fenceable(&[ENTRY_IDS, ENTRY_BYTES, MEMBERS, RELAY, include_str!("claim_handed_off.lua")]);
pub(crate) static COLLECT_GARBAGE: Lua = lua(&[ENTRY_IDS, include_str!("collect_garbage.lua")]);
pub(crate) static DEREGISTER_CONSUMER: Lua = lua(&[ENTRY_IDS, RELAY, include_str!("deregister_consumer.lua")]);
pub(crate) static FIND_DONE_IN_BACKLOG: Lua = lua(&[ENTRY_IDS, BACKLOG, include_str!("find_done_in_backlog.lua")]);
pub(crate) static LIST_PENDING_IN_BACKLOG: Lua =
    lua(&[ENTRY_IDS, ENTRY_BYTES, BACKLOG, include_str!("list_pending_in_backlog.lua")]);

/// A consumer's script in two texts: one for whole streams, and a fenced one, which the server refuses if the consumer
/// no longer owns its partition.
pub(crate) struct ConsumerScript {
    parts: &'static [&'static str],
    plain: Lua,
    fenced: OnceLock<Script>,
}

pub(super) const fn fenceable(parts: &'static [&'static str]) -> ConsumerScript {
    ConsumerScript { parts, plain: lua(parts), fenced: OnceLock::new() }
}

impl ConsumerScript {
    /// Returns the text for the consumer of a partition, or of a whole stream.
    pub(crate) fn select(&self, is_fenced: bool) -> &Script {
        match is_fenced {
            true => self.fenced.get_or_init(|| Script::new(&(FENCE.to_owned() + &self.parts.concat()))),
            false => &self.plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use redis::{Value, aio::MultiplexedConnection};

    use super::*;
    use crate::{
        reply::Entry,
        script::{PASSED_BYTES_MAX, group::FORGET_TYPE},
    };

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
        let mut read = READ_DUE.select(false).key("stream");
        read.key("retry").key("relay").arg("group").arg("one").arg(PASSED_BYTES_MAX);
        for id in &ids {
            read.arg(id).arg(0);
        }
        let (entries, _, _, _, _, reached): (Vec<Entry>, Value, Value, Value, Value, usize) =
            read.invoke_async(&mut connection).await.unwrap();
        assert_eq!((entries.len(), reached), (8, 8));
    }

    /// Fails if the script limits the bytes of the entries that it claims, and not of those that it passes.
    #[tokio::test]
    async fn large_handed_off_entries_are_read_a_few_mib_at_a_time() {
        let server = eventbus_test::private_redis();
        let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
        let ids = add_large(&mut connection, "absent").await;
        for (types, claimed, read) in [(r#"["Large@1"]"#, 8, 8), (r#"["Small@1"]"#, 0, 16)] {
            let mut claim = CLAIM_HANDED_OFF.select(false).key("stream");
            claim.key("retry").key("relay").arg("group").arg("one").arg(types).arg("-");
            claim.arg(500).arg(20).arg(PASSED_BYTES_MAX);
            let (last, entries, _, _, has_more): (String, Vec<Entry>, Value, Value, bool) =
                claim.invoke_async(&mut connection).await.unwrap();
            assert_eq!((last, entries.len(), has_more), (format!("({}", ids[read - 1]), claimed, true));
        }
    }

    /// Fails if the script limits the number alone of the entries that it reads, whose fields never leave the server.
    #[tokio::test]
    async fn large_pending_entries_of_a_backlog_are_listed_a_few_mib_at_a_time() {
        let server = eventbus_test::private_redis();
        let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
        let ids = add_large(&mut connection, "one").await;
        let (mut from, mut pages) = ("-".to_owned(), Vec::new());
        while !from.is_empty() {
            let mut list = LIST_PENDING_IN_BACKLOG.key("stream");
            list.key("retry").arg("group").arg("one").arg(&from).arg(500).arg(PASSED_BYTES_MAX);
            let reply: Vec<String> = list.invoke_async(&mut connection).await.unwrap();
            from = reply.concat();
            pages.push(from.clone());
        }
        assert_eq!(pages, [format!("({}", ids[7]), format!("({}", ids[15]), String::new()]);
    }

    /// Fails if entries of a live silent member, which the script reads and does not claim, do not count.
    #[tokio::test]
    async fn large_entries_of_a_silent_member_are_passed_a_few_mib_at_a_time() {
        let server = eventbus_test::private_redis();
        let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
        let ids = add_large(&mut connection, "silent").await;
        let (mut note, mut age) = (redis::cmd("HSET"), redis::cmd("XCLAIM"));
        note.arg("retry");
        for id in &ids {
            note.arg(id).arg(r#"{"left_to":"silent","attempts":0}"#);
        }
        age.arg("stream").arg("group").arg("silent").arg(0).arg(&ids).arg("IDLE").arg(7_200_000).arg("JUSTID");
        for command in [note, age] {
            let _: Value = command.query_async(&mut connection).await.unwrap();
        }
        let mut claim = CLAIM_IDLE.select(false).key("stream");
        claim.key("retry").key("relay").key("members").arg("group").arg("one").arg(3_600_000).arg("-");
        claim.arg(1_000).arg(20).arg(4 * PASSED_BYTES_MAX).arg(PASSED_BYTES_MAX).arg(0);
        let (cursor, entries, _, _, _): (String, Vec<Entry>, Value, Value, Value) =
            claim.invoke_async(&mut connection).await.unwrap();
        assert_eq!((cursor, entries.len()), (format!("({}", ids[7]), 0));
    }

    #[tokio::test]
    async fn large_handed_off_entries_of_a_forgotten_type_are_read_a_few_mib_at_a_time() {
        let server = eventbus_test::private_redis();
        let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
        let ids = add_large(&mut connection, "absent").await;
        let (mut from, mut starts) = ("-".to_owned(), Vec::new());
        while !from.is_empty() {
            let mut forget = FORGET_TYPE.key("known");
            forget.key("stream").key("relay").arg("group").arg("Large").arg(&from).arg(PASSED_BYTES_MAX);
            (_, from) = forget.invoke_async::<(bool, String)>(&mut connection).await.unwrap();
            starts.push(from.clone());
        }
        assert_eq!(starts, [format!("({}", ids[7]), format!("({}", ids[15]), String::new()]);
    }
}
