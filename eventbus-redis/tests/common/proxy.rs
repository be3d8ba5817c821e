//! A network of the test's own, between a bus and its server.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// The fault of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// Connections work.
    Works,
    /// Open connections work; new ones wait until the fault changes.
    Waits,
    /// The proxy closes open connections, and new ones at once.
    Cut,
    /// The proxy resets open connections, and new ones at once.
    Reset,
    /// Open and new connections stay and pass no data. They stay dead when later ones work again.
    HalfOpen,
}

/// Forwards connections to a server until it is dropped, or to a second one [after a failover](Proxy::fail_over_to).
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    route: watch::Sender<Route>,
    connections: Arc<AtomicUsize>,
}

#[derive(Debug, Clone, Copy)]
struct Route {
    network: Network,
    /// The port of the server.
    port: u16,
    /// The number of failovers that closed the open connections.
    failovers: usize,
}

impl Proxy {
    pub(crate) async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (route, state) = watch::channel(Route { network: Network::Works, port, failovers: 0 });
        let connections = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(forward(client, state.clone()));
            }
        });
        Self { address, route, connections }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// The number of connections made to it so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Changes the fault, also of open connections.
    pub(crate) fn set(&self, network: Network) {
        self.route.send_modify(|route| route.network = network);
    }

    /// Closes open connections, and forwards later ones to a second server.
    pub(crate) fn fail_over_to(&self, port: u16) {
        self.route.send_modify(|route| (route.port, route.failovers) = (port, route.failovers + 1));
    }

    /// Forwards later connections to a second server; open ones work on.
    pub(crate) fn forward_new_to(&self, port: u16) {
        self.route.send_modify(|route| route.port = port);
    }
}

async fn forward(mut client: TcpStream, mut state: watch::Receiver<Route>) {
    let mut server = None;
    let _ = state.wait_for(|route| route.network != Network::Waits).await;
    let Route { network, port, failovers } = *state.borrow_and_update();
    if network == Network::Works {
        let server = server.insert(TcpStream::connect(("127.0.0.1", port)).await);
        let Ok(server) = server else { return };
        tokio::select! {
            _ = copy_bidirectional(&mut client, server) => return,
            _ = state.wait_for(|now| {
                now.failovers != failovers || !matches!(now.network, Network::Works | Network::Waits)
            }) => {}
        }
    }
    let network = state.borrow().network;
    match network {
        Network::Works | Network::Waits | Network::Cut => {}
        Network::Reset => client.set_zero_linger().unwrap(),
        Network::HalfOpen => {
            // until the proxy is dropped
            while state.changed().await.is_ok() {}
        }
    }
}
