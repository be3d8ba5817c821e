//! Serves HTTP as `axum::serve` does, with a limit for clients that are slow on purpose.
//!
//! Invariant: no client holds a connection for longer than the limit without a complete head of a request, also between
//! two requests. From there `routes` limits the time of a request.

use std::{pin::pin, time::Duration};

use axum::{Router, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, time::timeout};

/// The time limits.
pub struct Limits {
    /// For receiving the head of a request, and again for answering it.
    pub request: Duration,
    /// For the requests in flight at the end.
    pub drain: Duration,
}

/// Serves until `stop` completes, then lets the requests in flight finish; returns `true` if all did.
pub async fn serve(mut listener: TcpListener, router: Router, limits: Limits, stop: impl Future<Output = ()>) -> bool {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.request);
    let service = TowerToHyperService::new(router);
    let connections = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        // `stop` is polled by reference: each accepted connection restarts the select
        tokio::select! {
            (stream, _) = Listener::accept(&mut listener) => {
                let connection = http.serve_connection(TokioIo::new(stream), service.clone());
                let connection = connections.watch(connection);
                tokio::spawn(async move {
                    let _ = connection.await; // a client that leaves or is too slow is no error of the server
                });
            }
            () = &mut stop => break,
        }
    }
    drop(listener);
    timeout(limits.drain, connections.shutdown()).await.is_ok()
}
