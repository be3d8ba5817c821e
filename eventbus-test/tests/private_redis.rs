//! A private Redis fulfils the requests of fault tests.
#![cfg(unix)]

use std::{
    io::{Error, ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use eventbus_test::PrivateRedis;

#[test]
fn what_was_acknowledged_survives_stop_and_start() {
    let mut redis = eventbus_test::private_redis();
    let url = redis.url().to_owned();
    assert_eq!(ask(&redis, "SET key value").unwrap(), "+OK\r\n");
    redis.stop();
    assert_eq!(ask(&redis, "PING").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    redis.start();
    assert_eq!(redis.url(), url);
    assert_eq!(ask(&redis, "GET key").unwrap(), "$5\r\nvalue\r\n");
}

#[test]
fn start_empty_forgets() {
    let mut redis = eventbus_test::private_redis();
    assert_eq!(ask(&redis, "SET key value").unwrap(), "+OK\r\n");
    redis.start_empty();
    assert_eq!(ask(&redis, "GET key").unwrap(), "$-1\r\n");
}

#[test]
fn a_paused_server_is_silent_until_it_is_resumed() {
    let redis = eventbus_test::private_redis();
    redis.pause();
    let silent = ask_for(Duration::from_secs(1), &redis, "PING").unwrap_err().kind();
    assert!(matches!(silent, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silent}");
    redis.resume();
    assert_eq!(ask(&redis, "PING").unwrap(), "+PONG\r\n");
}

#[test]
fn further_arguments_reach_the_server_also_when_it_is_started_anew() {
    let mut redis = eventbus_test::private_redis_with(&["--databases", "2"]);
    for _ in 0..2 {
        assert_eq!(ask(&redis, "SELECT 1").unwrap(), "+OK\r\n");
        assert!(ask(&redis, "SELECT 2").unwrap().starts_with("-ERR"));
        redis.start_empty();
    }
}

#[test]
fn a_server_that_loads_says_so_until_it_is_let_finish() {
    let mut redis = eventbus_test::private_redis();
    for _ in 0..2 {
        assert_eq!(ask(&redis, "SET key value").unwrap(), "+OK\r\n");
        redis.restart_loading();
        assert!(ask(&redis, "GET key").unwrap().starts_with("-LOADING"));
        redis.finish_loading();
        assert_eq!(ask(&redis, "GET key").unwrap(), "$5\r\nvalue\r\n");
    }
}

#[test]
fn stop_and_start_can_be_repeated() {
    let mut redis = eventbus_test::private_redis();
    redis.start();
    redis.stop();
    redis.stop();
    redis.start();
    assert_eq!(ask(&redis, "PING").unwrap(), "+PONG\r\n");
}

#[test]
fn a_server_that_ended_by_itself_can_be_started() {
    let mut redis = eventbus_test::private_redis();
    // closes the connection instead of answering
    assert_eq!(ask(&redis, "SHUTDOWN NOSAVE").unwrap(), "");
    redis.start_empty();
    assert_eq!(ask(&redis, "PING").unwrap(), "+PONG\r\n");
}

#[test]
fn a_dropped_server_is_gone_paused_or_not() {
    let (running, paused) = (eventbus_test::private_redis(), eventbus_test::private_redis());
    assert_ne!(running.port(), paused.port());
    paused.pause();
    for redis in [running, paused] {
        let port = redis.port();
        drop(redis);
        let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn a_closed_port_refuses() {
    let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, eventbus_test::internal::closed_port())).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

fn ask(redis: &PrivateRedis, command: &str) -> Result<String, Error> {
    ask_for(Duration::from_secs(60), redis, command)
}

fn ask_for(time: Duration, redis: &PrivateRedis, command: &str) -> Result<String, Error> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, redis.port()))?;
    stream.set_read_timeout(Some(time))?;
    stream.write_all(format!("{command}\r\n").as_bytes())?;
    let mut answer = [0; 64];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}
