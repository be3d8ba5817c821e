//! Slow clients, and requests that take too long.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::web::Web;

/// Time limit for conditions that are certain to hold.
const PATIENCE: Duration = Duration::from_secs(20);

/// The answers until the service closes the connection, which the client leaves open.
async fn answered(web: &Web, sent: &str) -> String {
    let mut connection = TcpStream::connect(&web.address).await.unwrap();
    connection.write_all(sent.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let closed = timeout(PATIENCE, connection.read_to_string(&mut answer)).await;
    closed.unwrap_or_else(|_| panic!("the connection stays open after {answer:?}")).unwrap();
    answer
}

#[tokio::test]
async fn a_client_that_says_nothing_or_not_all_of_it_is_hung_up_on() {
    let web = Web::start(&["--request-ms", "200"]);
    assert_eq!(answered(&web, "").await, "");
    assert_eq!(answered(&web, "GET /users/1 HTTP/1.1\r\nhost: local").await, "");
    let twice = answered(&web, "GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\nGET ").await;
    assert!(twice.starts_with("HTTP/1.1 200 OK\r\n") && twice.ends_with('}'), "{twice}");
}

#[tokio::test]
async fn a_body_that_does_not_come_in_time_is_not_waited_for() {
    let web = Web::start(&["--request-ms", "200"]);
    let head =
        "POST /users HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";
    let answer = answered(&web, head).await;
    assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("application/problem+json"), "{answer}");
    assert!(answer.contains("not known whether the change took effect"), "{answer}");
    assert!(!answer.contains("retry-after"), "a change is not to be sent again just so: {answer}");
}

#[tokio::test]
async fn what_takes_too_long_is_to_be_asked_for_again() {
    let web = Web::start(&["--request-ms", "200", "--wait-ms", "60000"]);
    let read = web.get("/analytics?position=1").await;
    assert_eq!((read.problem().0, read.header("retry-after")), (503, "1"));
}
