//! Tests of the proxy.

use super::*;

/// Starts a server that echoes its input, and counts the bytes.
async fn echo() -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, got) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let counter = Arc::clone(&got);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                let mut buffer = [0; 1_000];
                while let Ok(read @ 1..) = client.read(&mut buffer).await {
                    counter.fetch_add(read as u64, Ordering::SeqCst);
                    if client.write_all(&buffer[..read]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (address, got)
}

/// Sends ten bytes at a time through a connection with this fault until it ends; returns the number of echoed bytes.
async fn suffer(fate: ConnectionFault, shared: &Arc<ProxyInner>) -> (u64, Option<std::io::ErrorKind>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let here = Arc::clone(shared);
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        drop(forward(client, fate, &here).await);
    });
    let mut client = TcpStream::connect(address).await.unwrap();
    let (mut back, mut buffer) = (0, [0; 10]);
    for _ in 0..10 {
        if client.write_all(&[7; 10]).await.is_err() {
            break;
        }
        match client.read_exact(&mut buffer).await {
            Ok(_) => back += 10,
            Err(error) => return (back, Some(error.kind())),
        }
    }
    (back, None)
}

fn shared(server: SocketAddr) -> Arc<ProxyInner> {
    let weather = FaultProfile { percent: 100, within_bytes: 100, stall_time: Duration::from_millis(50) };
    Arc::new(ProxyInner {
        server,
        profile: weather,
        random: Mutex::new(Rng::with_seed(1)),
        is_fault_free: AtomicBool::new(false),
        fault_free: Notify::new(),
        cuts: AtomicU64::new(0),
        resets: AtomicU64::new(0),
        stalls: AtomicU64::new(0),
    })
}

#[tokio::test]
async fn connections_end_as_their_fate_says() {
    use std::io::ErrorKind::{ConnectionReset, UnexpectedEof};
    for (fate, back, end, received) in [
        (ConnectionFault::Healthy, 100, None, 100),
        (ConnectionFault::Delayed(Duration::from_millis(1), 25), 20, Some(UnexpectedEof), 30),
        (ConnectionFault::CutToServer(25), 20, Some(UnexpectedEof), 25),
        (ConnectionFault::CutToClient(25), 20, Some(UnexpectedEof), 30),
        (ConnectionFault::ResetAfterSend(30), 20, Some(ConnectionReset), 30),
        (ConnectionFault::Stalls(25), 20, Some(UnexpectedEof), 30),
    ] {
        let (server, got) = echo().await;
        let shared = shared(server);
        assert_eq!(suffer(fate, &shared).await, (back, end), "{fate:?}");
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while got.load(Ordering::SeqCst) < received && std::time::Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        assert_eq!(got.load(Ordering::SeqCst), received, "{fate:?}");
    }
}

#[tokio::test]
async fn one_seed_is_one_weather() {
    let weather = FaultProfile { percent: 80, within_bytes: 9_000, stall_time: Duration::ZERO };
    let draw = |seed| {
        let mut random = Rng::with_seed(seed);
        (0..50).map(|_| ConnectionFault::random(weather, &mut random)).collect::<Vec<_>>()
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
}

#[tokio::test]
async fn a_calm_network_works() {
    let (server, _) = echo().await;
    let weather = FaultProfile { percent: 100, within_bytes: 0, stall_time: Duration::from_secs(60) };
    let proxy = Proxy::start(server, weather, 3).await.unwrap();
    proxy.stop_faults();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    client.read_exact(&mut back).await.unwrap();
    assert_eq!((&back, proxy.fault_counts().total()), (b"hello", 0));
}
