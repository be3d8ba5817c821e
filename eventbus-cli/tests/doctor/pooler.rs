//! A pooler that gives a session of the server to each transaction anew.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use eventbus_cli::doctor::{Doctor, Severity::*};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};

use super::common::{config, expect_finding, expect_healthy, pool, until};

/// A pooler with one session of the server for all clients: a client has it until its transaction ends.
struct SharedSession {
    server: TcpStream,
    /// What the server sent before it was ready: the reply to the login.
    greeting: Vec<u8>,
}

const READY_FOR_QUERY: u8 = b'Z';
/// In a reply that the server is ready: outside of a transaction.
const IDLE: u8 = b'I';
const TERMINATE: u8 = b'X';
/// Messages after which the server replies until it is ready.
const QUERY: u8 = b'Q';
const SYNC: u8 = b'S';

/// Reads a message, whole.
async fn read_message(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await?;
    let length = stream.read_u32().await?;
    let mut message = vec![kind];
    message.extend(length.to_be_bytes());
    message.resize(1 + length as usize, 0);
    stream.read_exact(&mut message[5..]).await?;
    Ok((kind, message))
}

/// Reads the first message of a client: a request for TLS, which is declined, then the login.
async fn read_login(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    const TLS: i32 = 80_877_103;
    loop {
        let length = client.read_u32().await?;
        let mut login = length.to_be_bytes().to_vec();
        login.resize(length as usize, 0);
        client.read_exact(&mut login[4..]).await?;
        if login[4..8] != TLS.to_be_bytes() {
            return Ok(login);
        }
        client.write_all(b"N").await?;
    }
}

impl SharedSession {
    async fn log_in(server: u16, login: &[u8]) -> std::io::Result<Self> {
        let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await?;
        server.write_all(login).await?;
        let mut greeting = Vec::new();
        loop {
            let (kind, message) = read_message(&mut server).await?;
            greeting.extend(message);
            if kind == READY_FOR_QUERY {
                return Ok(Self { server, greeting });
            }
        }
    }

    /// Passes a message on, and the reply if there is one. Returns `true` once no transaction is open.
    async fn pass(&mut self, client: &mut TcpStream, kind: u8, message: &[u8]) -> std::io::Result<bool> {
        self.server.write_all(message).await?;
        if kind != QUERY && kind != SYNC {
            return Ok(false);
        }
        loop {
            let (kind, reply) = read_message(&mut self.server).await?;
            client.write_all(&reply).await?;
            if kind == READY_FOR_QUERY {
                return Ok(reply[5] == IDLE);
            }
        }
    }
}

/// Serves one client until it leaves.
async fn serve(mut client: TcpStream, server: u16, shared: Arc<Mutex<Option<SharedSession>>>) -> std::io::Result<()> {
    let login = read_login(&mut client).await?;
    {
        // the first client logs in
        let mut session = shared.lock().await;
        if session.is_none() {
            *session = Some(SharedSession::log_in(server, &login).await?);
        }
        client.write_all(&session.as_ref().unwrap().greeting).await?;
    }
    loop {
        let (mut kind, mut message) = read_message(&mut client).await?;
        // the client has the session until its transaction ends
        let mut session = shared.lock().await;
        loop {
            if kind == TERMINATE {
                return Ok(());
            }
            if session.as_mut().unwrap().pass(&mut client, kind, &message).await? {
                break;
            }
            (kind, message) = read_message(&mut client).await?;
        }
    }
}

#[tokio::test]
async fn two_clients_that_share_a_session_are_found() {
    let database = eventbus_test::postgres();
    let direct = Doctor::new().config(config()).postgres(pool(database.url()), "eventbus");
    expect_healthy(&direct, "pg-pooler").await;

    let url = database.url();
    let (before, rest) = url.split_once("127.0.0.1:").expect("the tests' own server");
    let (port, name) = rest.split_once('/').unwrap();
    let port = port.parse().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("{before}127.0.0.1:{}/{name}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        let shared = Arc::default();
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, port, Arc::clone(&shared)));
        }
    });
    let pooled = Doctor::new().config(config()).postgres(pool(&url), "eventbus");
    expect_finding(&pooled, "pg-pooler", Warning, "to several clients, by transaction").await;
}

#[tokio::test]
async fn a_pool_with_one_connection_is_not_checked() {
    let database = eventbus_test::postgres();
    let options = database.url().parse().unwrap();
    let one = eventstore_postgres::sqlx::postgres::PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(std::time::Duration::from_millis(500))
        .connect_lazy_with(options);
    let report = Doctor::new().postgres(one, "eventbus").only(["pg-pooler"]).unwrap().run().await;
    assert!(report.not_checked()[0].reason.starts_with("it takes two connections"), "{report}");
}

/// A PgBouncer in front of the shared server.
struct PgBouncer {
    process: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl PgBouncer {
    async fn start(program: &PathBuf, database: &eventbus_test::Postgres, mode: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (_, rest) = database.url().split_once("127.0.0.1:").expect("the tests' own server");
        let (server, name) = rest.split_once('/').unwrap();
        let port = eventbus_test::internal::closed_port();
        let path = |file: &str| folder.path().join(file).display().to_string();
        let settings = format!(
            "[databases]\n{name} = host=127.0.0.1 port={server} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nauth_type = any\npool_mode = {mode}\nlogfile = {}\npidfile = {}\nunix_socket_dir =\n\
             ignore_startup_parameters = extra_float_digits, options\n",
            path("log"),
            path("pid"),
        );
        std::fs::write(folder.path().join("pgbouncer.ini"), settings).unwrap();
        let mut command = Command::new(program);
        command.arg(path("pgbouncer.ini")).stdout(Stdio::null()).stderr(Stdio::null());
        // it does not run as root
        #[cfg(unix)]
        if std::fs::metadata(folder.path()).is_ok_and(|folder| std::os::unix::fs::MetadataExt::uid(&folder) == 0) {
            const NOBODY: u32 = 65_534;
            std::os::unix::fs::chown(folder.path(), Some(NOBODY), None).unwrap();
            std::os::unix::process::CommandExt::uid(&mut command, NOBODY);
        }
        let process = command.spawn().unwrap();
        let bouncer = Self { process, folder, port };
        until("PgBouncer listens", async || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok()).await;
        bouncer
    }

    fn url(&self, database: &eventbus_test::Postgres) -> String {
        let name = database.url().rsplit_once('/').unwrap().1;
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let ended = self.process.kill().and_then(|()| self.process.wait());
        assert!(ended.is_ok() || std::thread::panicking(), "{}", self.folder.path().display());
    }
}

#[tokio::test]
async fn pgbouncer_is_found_if_it_pools_transactions_and_not_if_it_pools_sessions() {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&folders).collect();
    folders.push("/usr/sbin".into());
    let Some(program) = folders.iter().map(|folder| folder.join("pgbouncer")).find(|program| program.is_file()) else {
        println!("did not run: PgBouncer is not installed (Debian: `pgbouncer`)");
        return;
    };
    let database = eventbus_test::postgres();
    for (mode, is_shared) in [("transaction", true), ("session", false)] {
        let bouncer = PgBouncer::start(&program, &database, mode).await;
        let doctor = Doctor::new().config(config()).postgres(pool(&bouncer.url(&database)), "eventbus");
        match is_shared {
            true => drop(expect_finding(&doctor, "pg-pooler", Warning, "by transaction").await),
            false => expect_healthy(&doctor, "pg-pooler").await,
        }
        // all other checks run behind it
        let report = doctor.run().await;
        assert!(report.healthy().contains(&"pg-sync-commit"), "{report}");
    }
}
