//! A proxy in front of the server, which loses answers on demand.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// The fate of the server's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    /// They arrive.
    Pass,
    /// The next one is lost, and its connection with it; later ones arrive.
    LoseOne,
    /// None arrives, and the connection stays open.
    Swallow,
    /// The next one and all later ones of its connection are lost, and that stays open; those of other connections
    /// arrive.
    SwallowOne,
    /// As [`Answers::SwallowOne`], from the next `BEGIN` on.
    SwallowBegin,
    /// Each arrives after [`LATE`].
    Delay,
}

/// The delay of answers that are [`Answers::Delay`]ed.
const LATE: Duration = Duration::from_millis(100);

const BEGIN: &[u8] = b"BEGIN";

/// A text in the requests of clients, and the text of the same length that the server gets in its place.
type Replacement = (&'static str, &'static str);

/// Forwards connections to a server.
pub(crate) struct Proxy {
    port: u16,
    answers: Arc<watch::Sender<Answers>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts one in front of the test server.
    pub(crate) async fn start() -> Self {
        Self::start_for(eventbus_test::postgres_url()).await
    }

    pub(crate) async fn start_for(server_url: &str) -> Self {
        Self::start_with(server_url, None).await
    }

    /// Starts one in front of the test server that makes transactions stricter than a store asks for, as a pooler that
    /// drops the settings of its clients.
    pub(crate) async fn start_repeatable_read() -> Self {
        let asked = r"-c default_transaction_isolation=read\ committed";
        let sent = r"-cdefault_transaction_isolation=repeatable\ read";
        Self::start_with(eventbus_test::postgres_url(), Some((asked, sent))).await
    }

    async fn start_with(server_url: &str, replacement: Option<Replacement>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answers = Arc::new(watch::Sender::new(Answers::Pass));
        let accepting = tokio::spawn(accept(listener, address(server_url), Arc::clone(&answers), replacement));
        Self { port, answers, accepting }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The URL of the test server with the proxy in its place.
    pub(crate) fn url(&self) -> String {
        let url = eventbus_test::postgres_url();
        url.replace(&address(url), &format!("127.0.0.1:{}", self.port))
    }

    /// Refuses new connections from now on.
    pub(crate) async fn refuse(&mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }

    pub(crate) fn set(&self, answers: Answers) {
        self.answers.send_replace(answers);
    }

    /// Waits until the answer to be lost is lost.
    pub(crate) async fn has_lost(&self) {
        let mut answers = self.answers.subscribe();
        let lost = answers.wait_for(|answers| *answers == Answers::Pass);
        super::within(lost).await.unwrap();
    }
}

/// `host:port` of a URL.
fn address(url: &str) -> String {
    let rest = url.split_once("://").unwrap().1;
    let authority = rest.split('/').next().unwrap();
    let host = authority.rsplit('@').next().unwrap();
    host.into()
}

async fn accept(
    listener: TcpListener,
    server: String,
    answers: Arc<watch::Sender<Answers>>,
    replacement: Option<Replacement>,
) {
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(&server).await else {
            continue;
        };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::spawn(forward(from_client, to_server, Arc::clone(&answers), replacement));
        tokio::spawn(answer(from_server, to_client, Arc::clone(&answers)));
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    answers: Arc<watch::Sender<Answers>>,
    replacement: Option<Replacement>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let sent = &mut buffer[..length];
        if let Some((asked, replaced)) = replacement {
            assert_eq!(asked.len(), replaced.len());
            if let Some(at) = sent.windows(asked.len()).position(|part| part == asked.as_bytes()) {
                sent[at..at + asked.len()].copy_from_slice(replaced.as_bytes());
            }
        }
        let begins = sent.windows(BEGIN.len()).any(|part| part == BEGIN);
        if begins && *answers.borrow() == Answers::SwallowBegin {
            answers.send_replace(Answers::SwallowOne);
        }
        if to.write_all(sent).await.is_err() {
            return;
        }
    }
}

async fn answer(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, answers: Arc<watch::Sender<Answers>>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let now = *answers.borrow();
        match now {
            Answers::Pass | Answers::Delay | Answers::SwallowBegin => {
                if now == Answers::Delay {
                    tokio::time::sleep(LATE).await;
                }
                if to.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
            Answers::LoseOne => {
                answers.send_replace(Answers::Pass);
                return;
            }
            Answers::Swallow => {}
            Answers::SwallowOne => {
                answers.send_replace(Answers::Pass);
                while let Ok(1..) = from.read(&mut buffer).await {}
            }
        }
    }
}
