//! A failing network: connections through it are delayed, cut, reset or stalled, at random but determined by a seed.
//!
//! Invariant: the fault of a connection is drawn when it opens, so a long-lived one fails in the middle of whichever
//! request is in flight then.

#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

use super::HarnessError;

/// The probability and limits of faults.
#[derive(Debug, Clone, Copy)]
pub struct FaultProfile {
    /// The chance of a connection to have a fault, in percent.
    pub percent: u8,
    /// The fault strikes after this many bytes at most, in either direction.
    pub within_bytes: u64,
    /// The longest time of a stall.
    pub stall_time: Duration,
}

/// The fault of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionFault {
    /// No fault.
    Healthy,
    /// Bytes from the server arrive late, and after that many bytes towards the client both ends are closed.
    Delayed(Duration, u64),
    /// After that many bytes towards the server both ends are closed.
    CutToServer(u64),
    /// After that many bytes towards the client both ends are closed.
    CutToClient(u64),
    /// After that many bytes towards the server, all of which arrive, the client's end is reset.
    ResetAfterSend(u64),
    /// After that many bytes towards the client no more bytes pass, but both ends stay open for a time.
    Stalls(u64),
}

impl ConnectionFault {
    fn random(profile: FaultProfile, random: &mut Rng) -> Self {
        if random.u8(..100) >= profile.percent {
            return Self::Healthy;
        }
        let bytes = random.u64(..=profile.within_bytes);
        match random.u8(..12) {
            0 => Self::Delayed(Duration::from_millis(random.u64(1..20)), bytes),
            1..=3 => Self::CutToServer(bytes),
            4..=6 => Self::CutToClient(bytes),
            7..=10 => Self::ResetAfterSend(bytes),
            _ => Self::Stalls(bytes),
        }
    }

    /// Returns the limits of bytes towards the server and towards the client.
    const fn limits(self) -> [u64; 2] {
        match self {
            Self::Healthy => [u64::MAX, u64::MAX],
            Self::CutToServer(bytes) | Self::ResetAfterSend(bytes) => [bytes, u64::MAX],
            Self::CutToClient(bytes) | Self::Stalls(bytes) | Self::Delayed(_, bytes) => [u64::MAX, bytes],
        }
    }
}

/// Forwards connections to a server, with faults until [`stop_faults`](Self::stop_faults).
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    inner: Arc<ProxyInner>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct ProxyInner {
    server: SocketAddr,
    profile: FaultProfile,
    random: Mutex<Rng>,
    is_fault_free: AtomicBool,
    fault_free: Notify,
    cuts: AtomicU64,
    resets: AtomicU64,
    stalls: AtomicU64,
}

/// Number of connections with faults so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Closed in the middle.
    pub cuts: u64,
    /// Reset after the client's bytes had arrived.
    pub resets: u64,
    /// Stalled.
    pub stalls: u64,
}

impl FaultCounts {
    /// Returns the sum.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.cuts + self.resets + self.stalls
    }
}

impl Proxy {
    /// Listens in front of a server.
    ///
    /// # Errors
    /// If the system fails.
    pub async fn start(server: SocketAddr, profile: FaultProfile, seed: u64) -> Result<Self, HarnessError> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let inner = Arc::new(ProxyInner {
            server,
            profile,
            random: Mutex::new(Rng::with_seed(seed)),
            is_fault_free: AtomicBool::new(false),
            fault_free: Notify::new(),
            cuts: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&inner)));
        Ok(Self { address, inner, accepting })
    }

    /// Returns the address to connect to instead of the server's.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops all faults for new connections, and closes stalled ones.
    pub fn stop_faults(&self) {
        self.inner.is_fault_free.store(true, Ordering::SeqCst);
        self.inner.fault_free.notify_waiters();
    }

    /// Returns the number of connections with faults so far.
    #[must_use]
    pub fn fault_counts(&self) -> FaultCounts {
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        let ProxyInner { cuts, resets, stalls: stills, .. } = &*self.inner;
        FaultCounts { cuts: count(cuts), resets: count(resets), stalls: count(stills) }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.stop_faults();
    }
}

async fn accept(listener: TcpListener, inner: Arc<ProxyInner>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let fault = match inner.is_fault_free.load(Ordering::SeqCst) {
            true => ConnectionFault::Healthy,
            false => ConnectionFault::random(inner.profile, &mut inner.random.lock()),
        };
        let inner = Arc::clone(&inner);
        // the ends see every error themselves
        tokio::spawn(async move { drop(forward(client, fault, &inner).await) });
    }
}

async fn forward(mut client: TcpStream, fault: ConnectionFault, inner: &ProxyInner) -> std::io::Result<()> {
    let mut server = TcpStream::connect(inner.server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let delay = if let ConnectionFault::Delayed(delay, _) = fault { delay } else { Duration::ZERO };
    let [to_server, to_client] = fault.limits();
    let (from_client, into_client) = client.split();
    let (from_server, into_server) = server.split();
    // the first direction that ends decides for both: a fault breaks the whole connection
    let end = tokio::select! {
        end = forward_bytes(from_client, into_server, to_server, Duration::ZERO) => end?,
        end = forward_bytes(from_server, into_client, to_client, delay) => end?,
    };
    // counts also after `stop_faults`: the bytes beyond the limit are lost
    match (end, fault) {
        (PumpEnd::Closed, _) => return Ok(()),
        (PumpEnd::Limit, ConnectionFault::ResetAfterSend(_)) => {
            inner.resets.fetch_add(1, Ordering::SeqCst);
            client.set_zero_linger()?;
        }
        (PumpEnd::Limit, ConnectionFault::Stalls(_)) => {
            let calmed = inner.fault_free.notified();
            inner.stalls.fetch_add(1, Ordering::SeqCst);
            if !inner.is_fault_free.load(Ordering::SeqCst) {
                drop(tokio::time::timeout(inner.profile.stall_time, calmed).await);
            }
        }
        (PumpEnd::Limit, _) => {
            inner.cuts.fetch_add(1, Ordering::SeqCst);
        }
    }
    Ok(())
}

/// The reason why forwarding in one direction ended.
#[derive(Debug)]
enum PumpEnd {
    Closed,
    Limit,
}

/// Forwards at most `limit` bytes, each read after `delay`.
async fn forward_bytes(
    mut from: impl AsyncRead + Unpin,
    mut into: impl AsyncWrite + Unpin,
    limit: u64,
    delay: Duration,
) -> std::io::Result<PumpEnd> {
    let (mut buffer, mut left) = (vec![0; 16 * 1024], limit);
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(PumpEnd::Closed);
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let passing = usize::try_from(left).unwrap_or(usize::MAX).min(read);
        into.write_all(&buffer[..passing]).await?;
        left -= passing as u64;
        if left == 0 || passing < read {
            return Ok(PumpEnd::Limit);
        }
    }
}
