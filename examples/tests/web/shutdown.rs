//! The shutdown: first the requests in flight, then the workers.

use std::time::{Duration, Instant};

use sqlx::PgConnection;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    common::{Stream, until},
    web::{Web, connect, mails},
};

/// A request that the service waits for the body of.
async fn half_a_request(web: &Web, body: &str) -> TcpStream {
    let mut connection = TcpStream::connect(&web.address).await.unwrap();
    let head = format!(
        "POST /users HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         expect: 100-continue\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut said = [0; 25];
    connection.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"HTTP/1.1 100 Continue\r\n\r\n", "it has begun to answer");
    connection
}

async fn a_request_in_flight_is_answered(signal: &str) {
    let mut web = Web::start(&[]);
    let body = r#"{"name": "Ada", "email": "ada@example.com"}"#;
    let mut connection = half_a_request(&web, body).await;
    web.process.signal(signal);
    web.process.until(&["shutting down"]);
    let address = web.address.clone();
    assert!(until(|| std::net::TcpStream::connect(&address).is_err()), "nobody else is let in");

    connection.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 Created\r\n"), "{answer}");
    assert!(web.process.end().success(), "{:#?}", web.process.stderr());
    assert_eq!(web.process.stdout().last().unwrap(), "shut down");
}

#[tokio::test]
async fn sigterm_lets_a_request_in_flight_be_answered() {
    a_request_in_flight_is_answered("-TERM").await;
}

#[tokio::test]
async fn ctrl_c_lets_a_request_in_flight_be_answered() {
    a_request_in_flight_is_answered("-INT").await;
}

/// The projection continues until all requests are answered, because a request may wait for its count.
#[tokio::test]
async fn what_requests_wait_for_goes_on_until_they_are_answered() {
    let mut web = Web::start(&[]);
    let body = r#"{"name": "Ada", "email": "ada@example.com"}"#;
    let mut registering = half_a_request(&web, body).await;
    let mut reading = TcpStream::connect(&web.address).await.unwrap();
    let get = |path| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let both = get("/health/live") + &get("/analytics?position=1");
    reading.write_all(both.as_bytes()).await.unwrap();
    reading.read_exact(&mut [0]).await.unwrap(); // of the first answer, after which the second request is in flight
    web.process.signal("-TERM");
    web.process.until(&["shutting down"]);
    registering.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    reading.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(r#""registered_users":1"#), "{answer}");
    assert!(web.process.end().success(), "{:#?}", web.process.stderr());
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut_off() {
    let mut web = Web::start(&["--drain-ms", "1"]);
    let _connection = half_a_request(&web, "never to be seen").await;
    assert!(web.end("-TERM"), "{:#?}", web.process.stderr());
    assert_eq!(web.process.stderr(), ["requests are cut off that were not answered within 1 ms"]);
    assert_eq!(web.process.stdout().last().unwrap(), "shut down");
}

/// Returns once a statement waits for the lock on `welcome_mails`.
///
/// A pending entry does not show that: the server counts it before the worker has received it, and a worker that is shut
/// down by then leaves it pending.
async fn worker_waits_for_table(observer: &mut PgConnection) {
    let waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'welcome_mails'::regclass AND NOT granted)";
    let deadline = Instant::now() + Duration::from_secs(60);
    while !sqlx::query_scalar::<_, bool>(waiting).fetch_one(&mut *observer).await.unwrap() {
        assert!(Instant::now() < deadline, "the worker does not wait for the table");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_worker_finishes_the_mail_it_has_begun() {
    let (mut stream, database) = (Stream::new(), eventbus_test::postgres());
    let mut web = Web::start(&[&["--store", database.url()][..], &stream.arguments()].concat());
    // the worker waits for the table
    let mut admin = connect(&database).await;
    sqlx::raw_sql("BEGIN; LOCK TABLE welcome_mails IN ACCESS EXCLUSIVE MODE").execute(&mut admin).await.unwrap();
    assert_eq!(web.register("Ada", "ada@example.com").await.status, 201);
    let mut observer = connect(&database).await;
    worker_waits_for_table(&mut observer).await;
    assert_eq!(stream.pending("email_workers"), 1);
    web.process.signal("-TERM");
    web.process.until(&["shutting down"]);
    sqlx::raw_sql("COMMIT").execute(&mut admin).await.unwrap();
    assert!(web.process.end().success(), "{:#?}", web.process.stderr());
    assert_eq!(stream.pending("email_workers"), 0, "it is acknowledged");
    assert_eq!(mails(&database).await, [("ada@example.com".to_owned(), 1)]);
}
