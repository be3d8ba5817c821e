//! Connections are lost.

use std::time::Instant;

use eventbus::port::EventBus;
use eventbus_redis::RedisEventBusConfig;

use crate::{
    common::{
        proxy::Network,
        seen::{event, settled},
        until,
    },
    rig::{Rig, configs, for_each, for_each_rig, outage},
};

/// The connections of the remaining clients, by their last command.
pub(crate) async fn clients(rig: &Rig, command: &str) -> Vec<String> {
    let list: String = rig.command("CLIENT", &["LIST", "TYPE", "NORMAL"]).await;
    let of_command = list.lines().filter(|line| line.contains(&format!(" cmd={command}")));
    of_command.filter_map(|line| Some(line.split_once("id=")?.1.split_once(' ')?.0.to_owned())).collect()
}

/// Kills the connections with this last command; the last command of a connection may change a moment later.
async fn kill(rig: &Rig, command: &str) {
    until("such a connection is killed", async || {
        let mut killed = 0;
        for id in clients(rig, command).await {
            killed += rig.command::<i64>("CLIENT", &["KILL", "ID", &id]).await;
        }
        killed > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_server_closes() {
    for command in ["xreadgroup", "evalsha"] {
        for_each_rig(async |mut rig: Rig| {
            rig.heals(&format!("CLIENT KILL of {command}"), async |rig| kill(rig, command).await).await;
            until("the loss is counted", async || rig.reconnections() > 0).await;
            rig.lost_and_repeated_nothing().await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_closed_when_idle() {
    for_each_rig(async |mut rig: Rig| {
        let idle = async |rig: &Rig| {
            let _: () = rig.command("CONFIG", &["SET", "timeout", "1"]).await;
            outage().await;
        };
        rig.heals("CONFIG SET timeout", idle).await;
        rig.lost_and_repeated_nothing().await;
    })
    .await;
}

/// Returns each kind of failure with each of the configurations.
fn failing_networks() -> impl Iterator<Item = (Network, RedisEventBusConfig)> {
    let networks = [Network::Cut, Network::Reset, Network::HalfOpen];
    networks.into_iter().flat_map(|network| configs().map(|config| (network, config)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_fails_while_the_consumer_waits() {
    for_each(failing_networks(), async |(network, config)| {
        let mut rig = Rig::behind_a_proxy(config).await;
        let fault = async |rig: &Rig| {
            let proxy = rig.proxy.as_ref().unwrap();
            proxy.set(network);
            outage().await;
            proxy.set(Network::Works);
        };
        rig.heals(&format!("{network:?}, single {}", rig.bus.config().single_connection_client), fault).await;
        assert!(rig.reconnections() > 0);
        rig.lost_and_repeated_nothing().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_went_to_a_dead_connection() {
    for_each(configs(), async |config| {
        let mut rig = Rig::behind_a_proxy(config).await;
        // the server has the reader's command, and its reply is lost
        rig.proxy.as_ref().unwrap().set(Network::HalfOpen);
        let id = rig.publish().await;
        outage().await;
        rig.proxy.as_ref().unwrap().set(Network::Works);
        let back = Instant::now();
        until("the entry is found", async || rig.seen.all().contains(&id)).await;
        eprintln!("single {}: found after {:?}", rig.bus.config().single_connection_client, back.elapsed());
        rig.next().await;
        rig.lost_and_repeated_nothing().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_fails_while_a_command_is_under_way() {
    for_each(failing_networks(), async |(network, config)| {
        let mut rig = Rig::behind_a_proxy(config).await;
        let fault = async |rig: &Rig| {
            let proxy = rig.proxy.as_ref().unwrap();
            proxy.set(network);
            let bus = rig.bus.clone();
            // it may still be sent
            tokio::spawn(async move { drop(bus.publish(&[event("under way")]).await) });
            outage().await;
            proxy.set(Network::Works);
        };
        rig.heals(&format!("{network:?} under way"), fault).await;
        assert_eq!(settled(&rig.bus).await, 0);
        rig.lost_and_repeated_nothing().await;
    })
    .await;
}
