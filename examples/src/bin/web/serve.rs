//! Serving HTTP: what `axum::serve` does, and a limit for clients that are slow on purpose.
//!
//! Keep: no client holds a connection for longer than the limit without a whole head of a request, also between two
//! requests. How long a request takes from there is limited in `routes`.

use std::{pin::pin, time::Duration};

use axum::{Router, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, time::timeout};

/// How long things may take.
pub struct Limits {
    /// The head of a request to come in, and a request to be answered from there.
    pub request: Duration,
    /// The requests in flight, when it ends.
    pub drain: Duration,
}

/// Serves until `stop`, then lets the requests in flight be answered, and says whether all were.
pub async fn serve(mut listener: TcpListener, router: Router, limits: Limits, stop: impl Future<Output = ()>) -> bool {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.request);
    let service = TowerToHyperService::new(router);
    let connections = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            (stream, _) = Listener::accept(&mut listener) => {
                let connection = http.serve_connection(TokioIo::new(stream), service.clone());
                let connection = connections.watch(connection);
                tokio::spawn(async move {
                    let _ = connection.await; // a client that goes, or is too slow, is no error of ours
                });
            }
            () = &mut stop => break,
        }
    }
    drop(listener);
    timeout(limits.drain, connections.shutdown()).await.is_ok()
}
