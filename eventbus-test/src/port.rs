//! Free ports, given out once among all processes that use this crate.
//!
//! A process reserves a port by holding the UDP port of the same number: the system frees that when the process dies,
//! and no file remains.
//!
//! Invariant: ports are outside the range that systems use for `bind(0)` and for outgoing connections (from 32768 on
//! Linux, from 49152 elsewhere). Inside it, the system may soon give a stopped server's port to a second process, and a
//! client that connects to a closed port can be connected to itself.
//!
//! Invariant: no reservation listens, not even while it checks that the port is free. A child forked at that moment
//! would have a copy of the listener until its program begins, and the port would accept connections.

use std::{
    hash::{BuildHasher, RandomState},
    net::{Ipv4Addr, UdpSocket},
    sync::{Mutex, PoisonError},
};

use tokio::net::TcpSocket;

use crate::error::Error;

const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// A port of 127.0.0.1 that is ours until this value is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    port: u16,
    _twin: UdpSocket,
}

impl Reservation {
    /// Reserves a port without a listener.
    pub(crate) fn new() -> Result<Self, Error> {
        let start = RandomState::new().hash_one(()) % u64::from(COUNT);
        let ports = (0..COUNT).map(|step| FIRST + ((start + u64::from(step)) % u64::from(COUNT)) as u16);
        ports.into_iter().find_map(Self::of).ok_or(Error::NoFreePort)
    }

    /// The reserved port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn of(port: u16) -> Option<Self> {
        let twin = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
        let socket = TcpSocket::new_v4().ok()?;
        // connections of a former server that are still closing do not matter
        socket.set_reuseaddr(true).ok()?;
        socket.bind((Ipv4Addr::LOCALHOST, port).into()).ok()?;
        Some(Self { port, _twin: twin })
    }
}

/// Reserves a port for as long as this process lives.
pub(crate) fn closed() -> Result<u16, Error> {
    static KEPT: Mutex<Vec<Reservation>> = Mutex::new(Vec::new());
    let reservation = Reservation::new()?;
    let port = reservation.port();
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(reservation);
    Ok(port)
}

#[cfg(test)]
mod tests {
    use std::{
        io::ErrorKind,
        net::{TcpListener, TcpStream},
        process::Command,
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;

    #[test]
    fn a_closed_port_refuses_and_is_given_out_once() {
        let port = closed().unwrap();
        let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert!(Reservation::of(port).is_none());
    }

    #[test]
    fn a_reserved_port_refuses_also_while_programs_are_started() {
        let has_ended = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !has_ended.load(Ordering::Relaxed) {
                    Command::new("true").status().unwrap();
                }
            });
            let accepted = (0..2_000).find_map(|_| {
                let reserved = Reservation::new().unwrap();
                TcpStream::connect((Ipv4Addr::LOCALHOST, reserved.port())).ok()
            });
            has_ended.store(true, Ordering::Relaxed);
            assert!(accepted.is_none(), "{accepted:?}");
        });
    }

    #[test]
    fn a_port_somebody_listens_on_is_not_given_out() {
        let free = Reservation::new().unwrap().port();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, free)).unwrap();
        assert!(Reservation::of(free).is_none());
        drop(listener);
    }
}
