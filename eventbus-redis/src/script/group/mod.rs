//! Scripts of groups: their creation, their end and trimming.

use super::{BACKLOG, ENTRY_BYTES, ENTRY_IDS, FORMAT, Lua, MEMBERS, MISSING, PAGES, RELAY, TRIM_FLOOR, lua};

pub(crate) static CREATE_GROUP: Lua =
    lua(&[ENTRY_IDS, ENTRY_BYTES, PAGES, BACKLOG, RELAY, MISSING, FORMAT, include_str!("create_group.lua")]);
pub(crate) static FIND_POSITION: Lua = lua(&[ENTRY_IDS, ENTRY_BYTES, PAGES, include_str!("find_position.lua")]);
pub(crate) static COUNT_AFTER: Lua = lua(&[ENTRY_IDS, ENTRY_BYTES, PAGES, include_str!("count_after.lua")]);
pub(crate) static RETIRE_GROUP: Lua = lua(&[ENTRY_IDS, BACKLOG, include_str!("retire_group.lua")]);
pub(crate) static RETIRE_STORE: Lua = lua(&[ENTRY_IDS, include_str!("retire_store.lua")]);
pub(crate) static FORGET_TYPE: Lua = lua(&[ENTRY_IDS, ENTRY_BYTES, MEMBERS, RELAY, include_str!("forget_type.lua")]);
pub(crate) static TRIM: Lua =
    lua(&[ENTRY_IDS, ENTRY_BYTES, PAGES, BACKLOG, RELAY, TRIM_FLOOR, include_str!("trim.lua")]);
pub(crate) static TRIM_BLOCKER: Lua = lua(&[ENTRY_IDS, BACKLOG, RELAY, TRIM_FLOOR, include_str!("trim_blocker.lua")]);
pub(crate) static COUNT_STAYING: Lua = lua(&[ENTRY_IDS, BACKLOG, include_str!("count_staying.lua")]);

#[cfg(test)]
mod tests {
    use redis::{Value, aio::MultiplexedConnection};
    use uuid::Uuid;

    use super::*;
    use crate::script::relay::{GROUP_FLOORS, RESYNC};

    /// Returns the most memory that the server has used so far, with that of its scripts.
    async fn memory(connection: &mut MultiplexedConnection) -> u64 {
        let info: String = redis::cmd("INFO").arg("memory").query_async(connection).await.unwrap();
        let field =
            |name: &str| -> u64 { info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap() };
        field("used_memory_peak:") + field("used_memory_vm_eval:")
    }

    /// Creates a group for its consumers, which begins with the oldest event of each store.
    async fn create_group(connection: &mut MultiplexedConnection) {
        assert!(try_create_group(connection, 2).await);
    }

    /// Creates a group, or joins it; `listing` says whether it is listed in the floors. Returns `true` if it is new.
    async fn try_create_group(connection: &mut MultiplexedConnection, listing: u32) -> bool {
        let mut create = CREATE_GROUP.key("stream");
        create.key("floors").key("relay").key("meta").arg("group").arg("0-0").arg(listing).arg(1).arg(1);
        create.invoke_async(connection).await.unwrap()
    }

    /// Returns the positions between which the group lacks the events of a store.
    async fn missing_of(connection: &mut MultiplexedConnection, store: &str) -> String {
        let mut missing = redis::cmd("HGET");
        missing.arg("fills").arg(format!("fill {store} group\n"));
        missing.query_async(connection).await.unwrap()
    }

    /// Adds an entry of a store for each position, with the position as its id.
    fn entries(store: &str, positions: impl IntoIterator<Item = u64>) -> redis::Pipeline {
        let mut add = redis::pipe();
        for position in positions {
            add.cmd("XADD").arg("stream").arg(format!("{position}-0"));
            add.arg("store").arg(store).arg("position").arg(position);
        }
        add
    }

    #[tokio::test]
    async fn the_first_entry_of_a_store_is_found_without_reading_many_large_ones() {
        let server = eventbus_test::private_redis();
        let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
        let (store, text) = (Uuid::nil().to_string(), "x".repeat(512 * 1024));
        for position in 8..48 {
            let mut add = redis::cmd("XADD");
            add.arg("stream").arg("*").arg("store").arg(&store).arg("position").arg(position).arg("text").arg(&text);
            let _: String = add.query_async(&mut connection).await.unwrap();
        }
        let mut note = redis::cmd("HSET");
        note.arg("relay").arg(&store).arg("1 47 - - - -");
        let _: u64 = note.query_async(&mut connection).await.unwrap();
        let before = memory(&mut connection).await;
        create_group(&mut connection).await;
        let grown = memory(&mut connection).await.saturating_sub(before);
        assert!(grown < 8 * 1024 * 1024, "{grown} bytes");
        assert_eq!(missing_of(&mut connection, &store).await, "0 7");
    }

    /// Fails if the script reads the attempts of all entries at once.
    #[tokio::test]
    async fn entries_that_stay_pending_are_counted_a_page_at_a_time() {
        let server = eventbus_test::private_redis();
        let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
        let mut fill = redis::pipe();
        fill.cmd("XGROUP").arg("CREATE").arg("stream").arg("group").arg("0").arg("MKSTREAM");
        for number in 1..=25 {
            let id = format!("{number}-0");
            let attempts = match number % 5 {
                0 => r#"{"attempts":1,"is_exhausted":true}"#,
                1 => r#"{"stays":true,"attempts":0}"#,
                _ => r#"{"attempts":1,"next_at":1}"#,
            };
            fill.cmd("XADD").arg("stream").arg(&id).arg("number").arg(number);
            fill.cmd("HSET").arg("retry").arg(id).arg(attempts);
        }
        fill.cmd("XREADGROUP").arg("GROUP").arg("group").arg("one").arg("STREAMS").arg("stream").arg(">");
        let _: Value = fill.query_async(&mut connection).await.unwrap();
        for (is_exhausted, counts) in [(true, [2, 2, 1]), (false, [4, 4, 2])] {
            let (mut from, mut pages) = ("-".to_owned(), Vec::new());
            while !from.is_empty() {
                let mut count = COUNT_STAYING.key("stream");
                count.key("retry").arg("group").arg(&from).arg(10).arg(u8::from(is_exhausted));
                let found: u64;
                (from, found) = count.invoke_async::<(String, u64)>(&mut connection).await.unwrap();
                pages.push((from.clone(), found));
            }
            let starts = ["(10-0", "(20-0", ""].map(str::to_owned);
            assert_eq!(pages, starts.into_iter().zip(counts).collect::<Vec<(String, u64)>>());
        }
    }

    /// Fails if a relay lists a group before its first consumer joins, or tells its store that the group has finished what
    /// the stream lacks: the group would get neither the trimmed events, nor those of a store that was resynced meanwhile.
    #[tokio::test]
    async fn a_group_that_relays_know_before_its_first_consumer_joins_gets_what_the_stream_lacks() {
        let server = eventbus_test::private_redis();
        let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
        let [first, second] = [1, 2].map(|number| Uuid::from_u128(number).to_string());
        let mut add = entries(&first, 501..=510);
        add.cmd("HSET").arg("relay").arg(&first).arg("1 510 510-0 - - -");
        let _: Value = add.query_async(&mut connection).await.unwrap();
        // as a bus does while it connects
        assert!(try_create_group(&mut connection, 0).await);
        let mut check = GROUP_FLOORS.key("stream");
        check.key("relay").key("floors").arg(&first).arg(1).arg("group");
        let floors: [String; 4] = check.invoke_async(&mut connection).await.unwrap();
        assert_eq!(floors, ["groups", "group", "unknown", ""]);
        let mut resync = RESYNC.key("stream");
        resync.key("relay").key("floors").arg(&second).arg(1).arg(40).arg(1);
        let _: Value = resync.invoke_async(&mut connection).await.unwrap();
        assert!(!try_create_group(&mut connection, 2).await);
        assert_eq!(missing_of(&mut connection, &first).await, "0 500");
        assert_eq!(missing_of(&mut connection, &second).await, "0 40");
    }

    /// Fails if a relay that has seen the stream since makes it one from which no entry was removed.
    #[tokio::test]
    async fn a_new_group_gets_the_events_that_other_software_trimmed() {
        for connects_before in [false, true] {
            let server = eventbus_test::private_redis();
            let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
            let store = Uuid::from_u128(1).to_string();
            let mut add = entries(&store, 1..=10);
            let mut note = redis::cmd("HSET");
            note.arg("relay").arg(&store).arg("1 10 10-0 - - -").arg(format!("began:{store}")).arg(0);
            let _: Value =
                add.add_command(note.arg("head").arg("1-0").clone()).query_async(&mut connection).await.unwrap();
            if connects_before {
                assert!(try_create_group(&mut connection, 0).await);
            }
            let trim = redis::cmd("XTRIM").arg("stream").arg("MAXLEN").arg(5).query_async::<u64>(&mut connection).await;
            assert_eq!(trim.unwrap(), 5);
            let mut check = GROUP_FLOORS.key("stream");
            check.key("relay").key("floors").arg(&store).arg(1);
            let _: Value = check.invoke_async(&mut connection).await.unwrap();
            assert_eq!(try_create_group(&mut connection, 2).await, !connects_before);
            assert_eq!(missing_of(&mut connection, &store).await, "0 5");
        }
    }

    /// Fails if such a group gets only the events of the store whose relay lists it first.
    #[tokio::test]
    async fn a_group_that_a_resync_lists_before_its_first_consumer_joins_gets_the_events_of_all_stores() {
        for connects_before in [false, true] {
            let server = eventbus_test::private_redis();
            let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
            let [own, other] = [1, 2].map(|number| Uuid::from_u128(number).to_string());
            let mut add = entries(&other, 6..=10);
            add.cmd("HSET").arg("relay").arg(&other).arg("1 10 10-0 - - -");
            let _: Value = add.query_async(&mut connection).await.unwrap();
            if connects_before {
                assert!(try_create_group(&mut connection, 0).await);
            }
            let mut resync = RESYNC.key("stream");
            resync.key("relay").key("floors").arg(&own).arg(1).arg(40).arg(1).arg("group").arg(1);
            let _: Value = resync.invoke_async(&mut connection).await.unwrap();
            assert!(!try_create_group(&mut connection, 2).await);
            assert_eq!(missing_of(&mut connection, &own).await, "0 40");
            assert_eq!(missing_of(&mut connection, &other).await, "0 5");
        }
    }

    /// Fails if the search for one store leaves no reads for the next one.
    #[tokio::test]
    async fn the_first_entry_of_a_store_is_found_though_that_of_a_different_one_is_far_away() {
        let server = eventbus_test::private_redis();
        let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
        let far: Vec<_> = (1..=4).map(|number| Uuid::from_u128(number).to_string()).collect();
        let near: Vec<_> = (5..=8).map(|number| Uuid::from_u128(number).to_string()).collect();
        let mut add = redis::pipe();
        for number in 1..25_000_usize {
            add.cmd("XADD").arg("stream").arg(format!("{number}-0"));
            add.arg("store").arg(&near[number % 4]).arg("position").arg(number + 9);
        }
        let mut note = redis::cmd("HSET");
        note.arg("relay");
        for store in &far {
            add.cmd("XADD").arg("stream").arg("*").arg("store").arg(store).arg("position").arg(70);
        }
        for store in far.iter().chain(&near) {
            note.arg(store).arg("1 30000 - - - -");
        }
        let _: Value = add.query_async(&mut connection).await.unwrap();
        let _: u64 = note.query_async(&mut connection).await.unwrap();
        create_group(&mut connection).await;
        for (number, store) in near.iter().enumerate() {
            let first = if number == 0 { 4 } else { number };
            assert_eq!(missing_of(&mut connection, store).await, format!("0 {}", first + 8));
        }
        for store in &far {
            assert_eq!(missing_of(&mut connection, store).await, "0 30000", "beyond the limit of reads");
        }
    }

    /// Fails if the script searches the whole stream for a store that has none of its entries any more.
    #[tokio::test]
    async fn entries_after_the_last_one_of_a_store_are_not_searched() {
        let server = eventbus_test::private_redis();
        let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
        let [busy, quiet] = [1, 2].map(|number| Uuid::from_u128(number).to_string());
        let _: Value = entries(&busy, 8..3_008).query_async(&mut connection).await.unwrap();
        // trimming has made the oldest entry the sentinel of the quiet store
        let mut note = redis::cmd("HSET");
        note.arg("relay").arg(&busy).arg("1 3007 3007-0 - - -").arg(&quiet).arg("1 5 8-0 - - -");
        let _: u64 = note.query_async(&mut connection).await.unwrap();
        let _: Value = redis::cmd("CONFIG").arg("RESETSTAT").query_async(&mut connection).await.unwrap();
        create_group(&mut connection).await;
        let info: String = redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await.unwrap();
        let reads = info.lines().find_map(|line| line.strip_prefix("cmdstat_xrange:calls=")?.split(',').next());
        let reads: u64 = reads.unwrap().parse().unwrap();
        assert!(reads < 20, "{reads} reads");
        assert_eq!(missing_of(&mut connection, &busy).await, "0 7");
        assert_eq!(missing_of(&mut connection, &quiet).await, "0 5");
    }
}
