//! For the tests in eventbus's own repository: no part of the API, and may change without notice.

use std::path::PathBuf;

use crate::{
    error::expect,
    local::{self, PrivateRedis},
    port, private_redis_with,
};

pub use crate::actor::Actor;

/// Connects to a Redis server, so that a test can read or change its data.
///
/// The connection has no time limits: if many tests run at once, or this process was paused, a late answer is no
/// failure. By default redis-rs gives up connecting after a second, and waiting for an answer after half a second.
///
/// # Panics
/// If no server answers there.
pub async fn redis_connection(url: &str) -> ::redis::aio::MultiplexedConnection {
    let client = ::redis::Client::open(url).expect("a URL of Redis");
    let patient = ::redis::AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&patient).await.expect("a Redis that answers")
}

/// Returns a port of 127.0.0.1 on which no process listens. This crate gives it to no other caller while this process
/// lives.
///
/// # Panics
/// If there is no free port.
#[must_use]
pub fn closed_port() -> u16 {
    expect(port::closed())
}

/// Returns the path of the browser Chromium, for tests of pages; installs it if tests may install servers.
///
/// # Panics
/// If it is neither found nor installed.
#[must_use]
#[track_caller]
pub fn chromium() -> PathBuf {
    expect(local::find_chromium())
}

/// Starts a [`private_redis`](crate::private_redis) that is a cluster of one node, which has no slots yet.
///
/// # Panics
/// Like [`private_redis`](crate::private_redis).
#[must_use]
pub fn private_redis_cluster() -> PrivateRedis {
    let bus_port = closed_port().to_string();
    private_redis_with(&["--cluster-enabled", "yes", "--cluster-port", &bus_port])
}

/// Joins two [nodes](private_redis_cluster) to one cluster; each learns the slots of the other a moment later.
///
/// # Panics
/// If one of them refuses.
pub async fn join_clusters(one: &PrivateRedis, other: &PrivateRedis) {
    let mut nodes = ::redis::cmd("CLUSTER");
    let told = nodes.arg("NODES").query_async::<String>(&mut redis_connection(other.url()).await).await;
    // `<id> <host>:<port>@<port among nodes> …`
    let told = told.expect("the nodes that it knows");
    let port_among_nodes = told.split(['@', ' ']).nth(2).expect("its port among nodes");
    let mut meet = ::redis::cmd("CLUSTER");
    meet.arg("MEET").arg("127.0.0.1").arg(other.port()).arg(port_among_nodes);
    meet.query_async::<()>(&mut redis_connection(one.url()).await).await.expect("it meets the other one");
}
