//! `GET /metrics` in OpenMetrics text 1.0.0, and `GET /healthz`.
//!
//! ```text
//!   client → Listener (a bounded number of connections, each with a deadline and one request)
//!          → /metrics  → provider (the daemon reads its maps now) → Scrape → text
//!          → /healthz  → 200 while the daemon's loop goes round, else 503
//! ```
//!
//! No number is cached: each scrape asks the provider, and the provider reads the maps. A scrape that fails is a 500 with the
//! reason as text; half of the numbers would be worse than none.
//!
//! **The metrics** (their names and labels do not change; `tunnel` is the WireGuard interface, `peer` the peer's name as
//! [`crate::snapshot::peer_labels`] has it, `endpoint` is `address:port`):
//!
//! | name | type | labels | value |
//! |---|---|---|---|
//! | `wgxdp_build_info` | info | `version` | |
//! | `wgxdp_uplink_up` | gauge | `uplink` `interface` | 1 if the device is there, up, with carrier and an address |
//! | `wgxdp_path_state` | gauge | path, `state` | 1 for the path's state, 0 for the four others |
//! | `wgxdp_path_active` | gauge | path | 1 if it carried the peer's last packet |
//! | `wgxdp_path_rtt_seconds` | gauge | path | smoothed round trip; absent while nothing answers |
//! | `wgxdp_path_probe_loss_ratio` | gauge | path | fraction of the last probes that was lost; absent before the first |
//! | `wgxdp_path_probes_sent_total` | counter | path | |
//! | `wgxdp_path_probes_answered_total` | counter | path | |
//! | `wgxdp_path_packets_total` | counter | path, `direction` `tx`/`rx` | tunnel packets |
//! | `wgxdp_path_bytes_total` | counter | path, `direction` | their bytes, outer headers included |
//! | `wgxdp_program_packets_total` | counter | `program` `uplink` `verdict` `reason` | what became of the packets that a program saw |
//! | `wgxdp_failovers_total` | counter | `tunnel` `peer` `reason` | times that a peer's traffic moved to another path |
//! | `wgxdp_peer_latest_handshake_seconds` | gauge | `tunnel` `peer` | Unix time; absent if there was none |
//! | `wgxdp_wakeup_lateness_seconds` | histogram | | how late the loop came to its wake-ups: probes leave with them |
//!
//! "path" stands for `tunnel`, `peer`, `uplink`, `endpoint`. `uplink` of `wgxdp_program_packets_total` is empty for `steer`, which sits on the
//! anchor, and for `restore` on a device that is no uplink according to the configuration. Each program shows every
//! reason that it can give, be it 0, so that no series appears only when it has become interesting.
//!
//! Every set of labels is bounded by the configuration.

mod connection;
mod heartbeat;
mod lateness;
#[cfg(test)]
mod parser;
mod scrape;
#[cfg(test)]
mod serve_tests;
mod text;
#[cfg(test)]
mod text_tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

pub use self::heartbeat::Heartbeat;
pub use self::lateness::{Lateness, Wakeups};
pub use self::scrape::{Extras, PeerCounts, ProgramCount, Scrape};
pub use self::text::render;

use self::connection::Bounded;

/// The media type of the text, parameters included (OpenMetrics 1.0.0, section "Protocol Negotiation").
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What bounds the server.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// How long the provider may take.
    provider: Duration,
    /// How long a client may take, from the connection to the last byte.
    client: Duration,
    /// Clients at the same time; more wait in the listener's queue.
    clients: usize,
    /// How long clients may hold up the end.
    farewell: Duration,
}

const LIMITS: Limits = Limits {
    provider: Duration::from_secs(5),
    client: Duration::from_secs(10),
    clients: 16,
    farewell: Duration::from_millis(500),
};

/// The metrics' address cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for metrics: {source}; choose another `listen` under [metrics], or leave it out")]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

/// Takes the address, before anything of the daemon's depends on it.
///
/// # Errors
/// Names the address and the cause.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| BindError { address, source })
}

/// Serves until `shutdown` is over. `provider` is asked at every scrape; `healthy` says why the daemon is not, see
/// [`Heartbeat::check`]. Runs beside the daemon in a task of its own: no client can hold up more than itself.
pub async fn serve<P, F, H, S>(listener: TcpListener, provider: P, healthy: H, shutdown: S)
where
    P: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Result<Scrape, String>> + Send + 'static,
    H: Fn() -> Result<(), String> + Send + Sync + 'static,
    S: Future<Output = ()> + Send,
{
    serve_within(LIMITS, listener, provider, healthy, shutdown).await;
}

async fn serve_within<P, F, H, S>(limits: Limits, listener: TcpListener, provider: P, healthy: H, shutdown: S)
where
    P: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Result<Scrape, String>> + Send + 'static,
    H: Fn() -> Result<(), String> + Send + Sync + 'static,
    S: Future<Output = ()> + Send,
{
    let provider = Arc::new(provider);
    let healthy = Arc::new(healthy);
    let metrics = move || {
        let provider = Arc::clone(&provider);
        async move { metrics(provider(), limits.provider).await }
    };
    let health = move || {
        let answer = healthy();
        async move { health(answer) }
    };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .fallback(|| async { (StatusCode::NOT_FOUND, "wgxdp has /metrics and /healthz\n") })
        // One request a connection: a deadline then bounds both.
        .layer(map_response(|mut response: Response| async {
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }));

    let (leave, left) = oneshot::channel();
    let listener = Bounded::new(listener, limits.clients, limits.client);
    let server = axum::serve(listener, router).with_graceful_shutdown(async {
        // The sender's end without a word means the same.
        let _ = left.await;
    });
    let mut server = std::pin::pin!(server.into_future());
    tokio::select! {
        // It never ends by itself, and never with an error: both are axum's promise.
        _ = &mut server => {}
        () = shutdown => {
            let _ = leave.send(());
            if timeout(limits.farewell, server).await.is_err() {
                tracing::debug!("a metrics client was cut off at the end");
            }
        }
    }
}

async fn metrics(scrape: impl Future<Output = Result<Scrape, String>>, limit: Duration) -> Response {
    let scrape = match timeout(limit, scrape).await {
        Ok(Ok(scrape)) => scrape,
        Ok(Err(reason)) => return failure(&reason),
        Err(_) => return failure(&format!("the daemon gave no numbers within {limit:?}")),
    };
    // Thousands of lines, on a thread where nothing waits for them.
    match spawn_blocking(move || render(scrape)).await {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => failure(&format!("the numbers could not be written down: {error}")),
    }
}

fn failure(reason: &str) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("no metrics: {reason}\n")).into_response()
}

fn health(answer: Result<(), String>) -> Response {
    match answer {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}
