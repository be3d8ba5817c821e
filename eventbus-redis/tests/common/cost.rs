//! The cost of operations on a server of Redis.

use redis::aio::MultiplexedConnection;

/// What a server has done so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) commands: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
}

impl Cost {
    /// Fails if the work since `before` cost more than `bound`, which is what was measured when it was written.
    pub(crate) fn assert_at_most(self, before: Self, bound: Self) {
        let (commands, received) = (self.commands - before.commands, self.bytes_received - before.bytes_received);
        let sent = self.bytes_sent - before.bytes_sent;
        let is_within = commands <= bound.commands
            && received <= bound.bytes_received * 21 / 20
            && sent <= bound.bytes_sent * 21 / 20;
        assert!(is_within, "{commands} commands, {received} bytes received, {sent} bytes sent, bound {bound:?}");
    }
}

pub(crate) async fn counters(connection: &mut MultiplexedConnection) -> Cost {
    let info: String = redis::cmd("INFO").arg("stats").query_async(connection).await.unwrap();
    let counter = |name: &str| {
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap().trim().parse().unwrap()
    };
    Cost {
        commands: counter("total_commands_processed"),
        bytes_received: counter("total_net_input_bytes"),
        bytes_sent: counter("total_net_output_bytes"),
    }
}
