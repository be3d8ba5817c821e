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

use super::Trouble;

/// What may become of a connection, and how likely it is.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// The chance of a connection to suffer at all, in percent.
    pub percent: u8,
    /// It suffers after this many bytes at most, in either direction.
    pub within_bytes: u64,
    /// The longest time that a connection which stands still does so.
    pub still: Duration,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It works.
    Works,
    /// Whatever comes from the server comes late, and after so many bytes towards the client both ends are closed.
    Delayed(Duration, u64),
    /// After so many bytes towards the server both ends are closed.
    CutToServer(u64),
    /// After so many bytes towards the client both ends are closed.
    CutToClient(u64),
    /// After so many bytes towards the server, all of which arrive, the client's end is reset.
    ResetAfterSend(u64),
    /// After so many bytes towards the client nothing passes any more, but both ends stay open for a time.
    StandsStill(u64),
}

impl Fate {
    fn draw(weather: Weather, random: &mut Rng) -> Self {
        if random.u8(..100) >= weather.percent {
            return Self::Works;
        }
        let bytes = random.u64(..=weather.within_bytes);
        match random.u8(..12) {
            0 => Self::Delayed(Duration::from_millis(random.u64(1..20)), bytes),
            1..=3 => Self::CutToServer(bytes),
            4..=6 => Self::CutToClient(bytes),
            7..=10 => Self::ResetAfterSend(bytes),
            _ => Self::StandsStill(bytes),
        }
    }

    /// How many bytes pass towards the server, and towards the client.
    const fn limits(self) -> [u64; 2] {
        match self {
            Self::Works => [u64::MAX, u64::MAX],
            Self::CutToServer(bytes) | Self::ResetAfterSend(bytes) => [bytes, u64::MAX],
            Self::CutToClient(bytes) | Self::StandsStill(bytes) | Self::Delayed(_, bytes) => [u64::MAX, bytes],
        }
    }
}

/// Forwards connections to a server, and lets them suffer until it is told to be calm.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    weather: Weather,
    random: Mutex<Rng>,
    is_calm: AtomicBool,
    calmed: Notify,
    cuts: AtomicU64,
    resets: AtomicU64,
    stills: AtomicU64,
}

/// How many connections suffered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Suffered {
    /// Were closed in the midst.
    pub cuts: u64,
    /// Were reset after what the client sent had gone through.
    pub resets: u64,
    /// Stood still.
    pub stills: u64,
}

impl Suffered {
    /// All of them.
    #[must_use]
    pub const fn all(self) -> u64 {
        self.cuts + self.resets + self.stills
    }
}

impl Proxy {
    /// Listens before a server.
    ///
    /// # Errors
    /// Whatever the system says.
    pub async fn before(server: SocketAddr, weather: Weather, seed: u64) -> Result<Self, Trouble> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            server,
            weather,
            random: Mutex::new(Rng::with_seed(seed)),
            is_calm: AtomicBool::new(false),
            calmed: Notify::new(),
            cuts: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            stills: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, accepting })
    }

    /// Where to connect instead.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing suffers; what stands still is closed.
    pub fn calm(&self) {
        self.shared.is_calm.store(true, Ordering::SeqCst);
        self.shared.calmed.notify_waiters();
    }

    /// How many connections have suffered so far.
    #[must_use]
    pub fn suffered(&self) -> Suffered {
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        let Shared { cuts, resets, stills, .. } = &*self.shared;
        Suffered { cuts: count(cuts), resets: count(resets), stills: count(stills) }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.calm();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let fate = match shared.is_calm.load(Ordering::SeqCst) {
            true => Fate::Works,
            false => Fate::draw(shared.weather, &mut shared.random.lock().unwrap_or_else(PoisonError::into_inner)),
        };
        let shared = Arc::clone(&shared);
        // what the ends do is their business
        tokio::spawn(async move { drop(forward(client, fate, &shared).await) });
    }
}

async fn forward(mut client: TcpStream, fate: Fate, shared: &Shared) -> std::io::Result<()> {
    let mut server = TcpStream::connect(shared.server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let delay = if let Fate::Delayed(delay, _) = fate { delay } else { Duration::ZERO };
    let [to_server, to_client] = fate.limits();
    let (from_client, into_client) = client.split();
    let (from_server, into_server) = server.split();
    let end = tokio::select! {
        end = pump(from_client, into_server, to_server, Duration::ZERO) => end?,
        end = pump(from_server, into_client, to_client, delay) => end?,
    };
    // one that was calmed in the meantime has still suffered: what passed its limit is gone
    match (end, fate) {
        (End::Closed, _) => return Ok(()),
        (End::Limit, Fate::ResetAfterSend(_)) => {
            shared.resets.fetch_add(1, Ordering::SeqCst);
            client.set_zero_linger()?;
        }
        (End::Limit, Fate::StandsStill(_)) => {
            let calmed = shared.calmed.notified();
            shared.stills.fetch_add(1, Ordering::SeqCst);
            if !shared.is_calm.load(Ordering::SeqCst) {
                drop(tokio::time::timeout(shared.weather.still, calmed).await);
            }
        }
        (End::Limit, _) => {
            shared.cuts.fetch_add(1, Ordering::SeqCst);
        }
    }
    Ok(())
}

/// Why forwarding in one direction ended.
#[derive(Debug)]
enum End {
    Closed,
    Limit,
}

/// Forwards at most `limit` bytes, each read `delay` later.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut into: impl AsyncWrite + Unpin,
    limit: u64,
    delay: Duration,
) -> std::io::Result<End> {
    let (mut buffer, mut left) = (vec![0; 16 * 1024], limit);
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(End::Closed);
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let passing = usize::try_from(left).unwrap_or(usize::MAX).min(read);
        into.write_all(&buffer[..passing]).await?;
        left -= passing as u64;
        if left == 0 || passing < read {
            return Ok(End::Limit);
        }
    }
}
