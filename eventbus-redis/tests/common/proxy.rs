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

/// Forwards connections to a server until it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    network: watch::Sender<Network>,
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    pub(crate) async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (network, state) = watch::channel(Network::Works);
        let connections = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(forward(client, port, state.clone()));
            }
        });
        Self { address, network, connections }
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
        self.network.send_replace(network);
    }
}

async fn forward(mut client: TcpStream, port: u16, mut state: watch::Receiver<Network>) {
    let mut server = None;
    let _ = state.wait_for(|network| *network != Network::Waits).await;
    if *state.borrow_and_update() == Network::Works {
        let server = server.insert(TcpStream::connect(("127.0.0.1", port)).await);
        let Ok(server) = server else { return };
        tokio::select! {
            _ = copy_bidirectional(&mut client, server) => return,
            _ = state.wait_for(|network| !matches!(network, Network::Works | Network::Waits)) => {}
        }
    }
    let now = *state.borrow();
    match now {
        Network::Works | Network::Waits | Network::Cut => {}
        Network::Reset => client.set_zero_linger().unwrap(),
        Network::HalfOpen => {
            // until the proxy is dropped
            while state.changed().await.is_ok() {}
        }
    }
}
