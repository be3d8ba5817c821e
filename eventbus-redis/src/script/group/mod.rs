//! Scripts of groups: their creation, their end and trimming.

use super::{ENTRY_BYTES, ENTRY_IDS, FORMAT, Lua, PAGES, TRIM_FLOOR, lua};

pub(crate) static CREATE_GROUP: Lua = lua(&[FORMAT, include_str!("create_group.lua")]);
pub(crate) static COUNT_AFTER: Lua = lua(&[ENTRY_IDS, ENTRY_BYTES, PAGES, include_str!("count_after.lua")]);
pub(crate) static RETIRE_GROUP: Lua = lua(&[ENTRY_IDS, include_str!("retire_group.lua")]);
pub(crate) static TRIM: Lua = lua(&[ENTRY_IDS, ENTRY_BYTES, PAGES, TRIM_FLOOR, include_str!("trim.lua")]);
pub(crate) static TRIM_BLOCKER: Lua = lua(&[ENTRY_IDS, TRIM_FLOOR, include_str!("trim_blocker.lua")]);
pub(crate) static COUNT_EXHAUSTED: Lua = lua(&[ENTRY_IDS, include_str!("count_exhausted.lua")]);

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    #[tokio::test]
    async fn exhausted_entries_are_counted_a_page_at_a_time() {
        let server = eventbus_test::private_redis();
        let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
        let mut fill = redis::pipe();
        fill.cmd("XGROUP").arg("CREATE").arg("stream").arg("group").arg("0").arg("MKSTREAM");
        for number in 1..=25 {
            let id = format!("{number}-0");
            let attempts = match number % 5 {
                0 => r#"{"attempts":1,"is_exhausted":true}"#,
                _ => r#"{"attempts":1,"next_at":1}"#,
            };
            fill.cmd("XADD").arg("stream").arg(&id).arg("number").arg(number);
            fill.cmd("HSET").arg("retry").arg(id).arg(attempts);
        }
        fill.cmd("XREADGROUP").arg("GROUP").arg("group").arg("one").arg("STREAMS").arg("stream").arg(">");
        let _: Value = fill.query_async(&mut connection).await.unwrap();
        let (mut from, mut pages) = ("-".to_owned(), Vec::new());
        while !from.is_empty() {
            let mut count = COUNT_EXHAUSTED.key("stream");
            count.key("retry").arg("group").arg(&from).arg(10);
            let found: u64;
            (from, found) = count.invoke_async::<(String, u64)>(&mut connection).await.unwrap();
            pages.push((from.clone(), found));
        }
        let expected = [("(10-0", 2), ("(20-0", 2), ("", 1)];
        assert_eq!(pages, expected.map(|(from, found)| (from.to_owned(), found)));
    }
}
