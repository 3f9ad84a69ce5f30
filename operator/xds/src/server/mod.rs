//! The server: TLS, connections, and one task per stream around the protocol engine.
//!
//! Concurrency: one task accepts; one task per connection does the handshake and HTTP/2; one task per stream owns its
//! engine session. Tasks share the views (woken by `tokio::watch`) and the report rows (a lock held for an insert,
//! never across a send). A response is made only when the transport can take it, so a client that does not read costs
//! one session and one message.
//!
//! Guarantees: who is not known by certificate gets no stream; an error of a request ends its own stream and nothing
//! else; a connection ends before the certificate that opened it, and with it all its streams; a stream that the server
//! ends has been sent all that was owed; no certificate takes more than its share of connections and memory, and no
//! address more than its share of handshakes.

mod admission;
mod connection;
mod convergence;
mod handshakes;
mod share;
mod stream;
mod tls;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use admission::Admissions;
use handshakes::Handshakes;
use share::Shares;
pub use tls::{Credentials, Tls, TlsError};

use crate::health::Findings;
use crate::metrics::{Ended, Metrics};
use crate::report::Reports;
use crate::views::Views;

/// Bounds of the server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Age at which a connection is ended, less up to a tenth by chance, so that proxies come back spread out and meet
    /// all replicas. Keep it below the certificate's lifetime; a connection never outlives its certificate anyway.
    pub max_connection_age: Duration,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// Handshakes at one time; further connections are closed at once, and their proxies try again.
    pub max_handshakes: usize,
    /// Handshakes at one time from one address. Proxies that come back at once through one address, as behind a
    /// masquerading node, get in one after another.
    pub max_source_handshakes: usize,
    /// How long a connection may be without a stream, from its handshake on.
    pub idle_timeout: Duration,
    /// Streams a second that get their first responses, after a burst of as many. One that has nothing to get, and all
    /// later responses, do not count.
    pub first_responses_per_second: u32,
    /// Bytes a second of first responses.
    pub first_bytes_per_second: usize,
    /// HTTP/2 ping after this much silence.
    pub keepalive_interval: Duration,
    /// A connection that does not answer a ping for this long is dead.
    pub keepalive_timeout: Duration,
    /// Streams of one connection. A proxy has one, for a moment the one before, and the calls of its health sink.
    pub max_streams: u32,
    /// Longest request, in bytes. A reconnecting client lists all it has: 100,000 names are about 7 MB.
    pub max_request_bytes: usize,
    /// Connections of one identity, which is all proxies of a LoadBalancer: 256 at most, those that drain included, and
    /// the old ones of those that came back before their end was noticed.
    pub max_identity_connections: usize,
    /// Memory that requests of one identity take, all streams together: those that arrive, and what is kept of them and
    /// of what they do not answer. The names of 256 proxies with 256 ports each are about 100 MB when they are as long as they can be.
    pub max_identity_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connection_age: Duration::from_secs(8 * 3600),
            handshake_timeout: Duration::from_secs(10),
            max_handshakes: 256,
            max_source_handshakes: 8,
            idle_timeout: Duration::from_secs(30),
            first_responses_per_second: 200,
            first_bytes_per_second: 64 << 20,
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
            max_streams: 4,
            max_request_bytes: 8 << 20,
            max_identity_connections: 512,
            max_identity_bytes: 128 << 20,
        }
    }
}

/// An xDS server. Cheap to clone; clones serve the same views and report into the same rows.
#[derive(Clone, Debug)]
pub struct Server {
    /// What is served.
    pub views: Arc<Views>,
    /// Where acknowledgements go.
    pub reports: Arc<Reports>,
    /// Where the health of endpoints goes.
    pub findings: Arc<Findings>,
    /// Counters.
    pub metrics: Metrics,
    /// Certificates, exchangeable while serving.
    pub tls: Arc<Tls>,
    /// Bounds.
    pub limits: Limits,
}

/// What all connections of one server share.
#[derive(Debug)]
struct Common {
    shares: Arc<Shares>,
    admissions: Admissions,
}

impl Server {
    /// Serves `listener` until `shutdown` is cancelled, then ends all streams and connections and returns.
    ///
    /// # Errors
    /// When the listener itself fails; failures of single connections are logged and counted.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
        let limits = &self.limits;
        let handshakes = Handshakes::new(limits.max_handshakes, limits.max_source_handshakes);
        let common = Arc::new(Common {
            shares: Arc::default(),
            admissions: Admissions::new(
                limits.first_responses_per_second,
                limits.first_bytes_per_second,
                Instant::now(),
            ),
        });
        let tasks = TaskTracker::new();
        let result = loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break Ok(()),
                accepted = listener.accept() => accepted,
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) if is_exhaustion(&error) => {
                    tracing::warn!(%error, "cannot accept connections; trying again");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                Err(error) => break Err(error),
            };
            match handshakes.begin(peer.ip()) {
                Some(place) => {
                    let common = Arc::clone(&common);
                    tasks.spawn(connection::run(self.clone(), common, socket, peer, place, shutdown.clone()));
                }
                None => self.metrics.ended(Ended::Busy),
            }
        };
        tasks.close();
        shutdown.cancel();
        tasks.wait().await;
        result
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Too many open files, or no memory: it passes.
fn is_exhaustion(error: &io::Error) -> bool {
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    matches!(error.raw_os_error(), Some(ENOMEM | ENFILE | EMFILE | ENOBUFS))
}
