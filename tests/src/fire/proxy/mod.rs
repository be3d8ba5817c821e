//! A network that fails: connections through it are delayed, cut, reset or stand still, by chance but by a seed.
//!
//! Keep: what a connection suffers is drawn when it is made, so one that is used for long suffers it in the midst of
//! whatever goes through then.

#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

use super::HarnessError;

/// What may become of a connection, and how likely it is.
#[derive(Debug, Clone, Copy)]
pub struct FaultProfile {
    /// The chance of a connection to suffer at all, in percent.
    pub percent: u8,
    /// It suffers after this many bytes at most, in either direction.
    pub within_bytes: u64,
    /// The longest time that a connection which stands still does so.
    pub stall_time: Duration,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionFault {
    /// It works.
    Healthy,
    /// Whatever comes from the server comes late, and after so many bytes towards the client both ends are closed.
    Delayed(Duration, u64),
    /// After so many bytes towards the server both ends are closed.
    CutToServer(u64),
    /// After so many bytes towards the client both ends are closed.
    CutToClient(u64),
    /// After so many bytes towards the server, all of which arrive, the client's end is reset.
    ResetAfterSend(u64),
    /// After so many bytes towards the client nothing passes any more, but both ends stay open for a time.
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

    /// How many bytes pass towards the server, and towards the client.
    const fn limits(self) -> [u64; 2] {
        match self {
            Self::Healthy => [u64::MAX, u64::MAX],
            Self::CutToServer(bytes) | Self::ResetAfterSend(bytes) => [bytes, u64::MAX],
            Self::CutToClient(bytes) | Self::Stalls(bytes) | Self::Delayed(_, bytes) => [u64::MAX, bytes],
        }
    }
}

/// Forwards connections to a server, and lets them suffer until it is told to be calm.
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

/// How many connections suffered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Were closed in the midst.
    pub cuts: u64,
    /// Were reset after what the client sent had gone through.
    pub resets: u64,
    /// Stood still.
    pub stalls: u64,
}

impl FaultCounts {
    /// All of them.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.cuts + self.resets + self.stalls
    }
}

impl Proxy {
    /// Listens before a server.
    ///
    /// # Errors
    /// Whatever the system says.
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

    /// Where to connect instead.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing suffers; what stands still is closed.
    pub fn stop_faults(&self) {
        self.inner.is_fault_free.store(true, Ordering::SeqCst);
        self.inner.fault_free.notify_waiters();
    }

    /// How many connections have suffered so far.
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
            false => {
                ConnectionFault::random(inner.profile, &mut inner.random.lock().unwrap_or_else(PoisonError::into_inner))
            }
        };
        let inner = Arc::clone(&inner);
        // what the ends do is their business
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
    let end = tokio::select! {
        end = forward_bytes(from_client, into_server, to_server, Duration::ZERO) => end?,
        end = forward_bytes(from_server, into_client, to_client, delay) => end?,
    };
    // one that was calmed in the meantime has still suffered: what passed its limit is gone
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

/// Why forwarding in one direction ended.
#[derive(Debug)]
enum PumpEnd {
    Closed,
    Limit,
}

/// Forwards at most `limit` bytes, each read `delay` later.
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
