//! A private PostgreSQL fulfils the requests of crash tests.
#![cfg(unix)]

use std::{
    io::{Error, ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpStream},
};

use eventbus_test::PrivatePostgres;

/// Logs in as far as the answer "authentication ok".
fn greeting(postgres: &PrivatePostgres) -> Result<[u8; 9], Error> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, postgres.port()))?;
    // the length of the message with itself, version 3.0, the parameters
    stream.write_all(b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0postgres\0\0")?;
    let mut answer = [0; 9];
    stream.read_exact(&mut answer).map(|()| answer)
}

fn refuses(port: u16) -> bool {
    let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
    refused.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn a_crashed_server_is_gone_and_comes_back_at_the_same_place() {
    let mut postgres = eventbus_test::private_postgres();
    let url = postgres.url().to_owned();
    for _ in 0..2 {
        assert_eq!(greeting(&postgres).unwrap(), [b'R', 0, 0, 0, 8, 0, 0, 0, 0]);
        postgres.start();
        postgres.stop();
        postgres.stop();
        assert!(refuses(postgres.port()));
        postgres.start();
        assert_eq!(postgres.url(), url);
    }
    let port = postgres.port();
    drop(postgres);
    assert!(refuses(port));
}

#[test]
fn a_server_in_recovery_refuses_until_it_is_started_anew() {
    let mut postgres = eventbus_test::private_postgres();
    postgres.restart_refusing();
    // an error
    assert_eq!(greeting(&postgres).unwrap()[..1], *b"E");
    postgres.stop();
    postgres.start();
    assert_eq!(greeting(&postgres).unwrap(), [b'R', 0, 0, 0, 8, 0, 0, 0, 0]);
}
