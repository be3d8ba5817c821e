//! The stream of an example on the server.

use redis::{Commands, Connection, FromRedisValue, streams::StreamRangeReply};

pub struct Stream {
    pub prefix: String,
    connection: Connection,
}

impl Stream {
    /// A stream of its own, not there yet.
    pub fn new() -> Self {
        Self::on(eventbus_test::redis_url())
    }

    pub fn on(url: &str) -> Self {
        let connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        Self { prefix: eventbus_test::unique_name("example"), connection }
    }

    /// `--bus` and `--prefix`.
    pub fn arguments(&self) -> [&str; 4] {
        ["--bus", eventbus_test::redis_url(), "--prefix", &self.prefix]
    }

    /// Runs a command, the words of which are separated by spaces; `{}` is the prefix.
    pub fn run<T: FromRedisValue>(&mut self, command: &str) -> T {
        let command = command.replace("{}", &self.prefix);
        let (name, arguments) = command.split_once(' ').unwrap();
        let arguments: Vec<_> = arguments.split(' ').collect();
        redis::cmd(name).arg(arguments).query(&mut self.connection).unwrap()
    }

    /// The payloads of all entries, the oldest first.
    pub fn payloads(&mut self) -> Vec<String> {
        let entries: StreamRangeReply = self.connection.xrange_all(format!("{}:stream", self.prefix)).unwrap();
        entries.ids.iter().map(|entry| entry.get("payload").unwrap()).collect()
    }

    /// The number of pending entries of a group.
    pub fn pending(&mut self, group: &str) -> u64 {
        let (pending, ..): (u64, redis::Value, redis::Value, redis::Value) =
            self.run(&format!("XPENDING {{}}:stream {group}"));
        pending
    }
}
