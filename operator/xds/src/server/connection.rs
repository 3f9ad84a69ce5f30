//! One connection: handshake, identity, HTTP/2, and its end by age.
//!
//! A certificate that is refused shows up at the client only as a closed connection (TLS 1.3 sends the alert after
//! the client considers itself done), so the reason is logged here.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use futures::FutureExt;
use futures::future::Either;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::handshakes::Place;
use super::share::{Counted, Held, Share};
use super::stream::{Ending, Streams};
use super::{Common, Server};
use crate::health;
use crate::identity::Identity;
use crate::metrics::Ended;
use crate::pki;

/// How long an ended connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

pub(super) async fn run(
    server: Server,
    common: Arc<Common>,
    socket: TcpStream,
    peer: SocketAddr,
    place: Place,
    shutdown: CancellationToken,
) {
    let shaken = tokio::select! {
        () = shutdown.cancelled() => return,
        shaken = handshake(&server, socket) => shaken,
    };
    drop(place);
    let (socket, identity, expiry) = match shaken {
        Ok(shaken) => shaken,
        Err((ended, reason)) => {
            server.metrics.ended(ended);
            tracing::warn!(%peer, %reason, "refused a connection");
            return;
        }
    };
    let limits = &server.limits;
    let share = common.shares.admit(&identity, limits.max_identity_connections, limits.max_identity_bytes);
    let Some(share) = share else {
        server.metrics.ended(Ended::Crowded);
        tracing::warn!(%peer, %identity, "refused a connection: its LoadBalancer's proxies have too many");
        return;
    };
    let age = age(server.limits.max_connection_age, expiry, SystemTime::now());
    serve(server, common, socket, identity, share, age, shutdown).await;
}

async fn handshake(
    server: &Server,
    socket: TcpStream,
) -> Result<(TlsStream<TcpStream>, Identity, SystemTime), (Ended, String)> {
    // Small messages answer each other.
    let _ = socket.set_nodelay(true);
    let acceptor = TlsAcceptor::from(server.tls.current());
    let socket = tokio::time::timeout(server.limits.handshake_timeout, acceptor.accept(socket))
        .await
        .map_err(|_| (Ended::Handshake, "the handshake took too long".to_owned()))?
        .map_err(|error| (Ended::Handshake, format!("the handshake failed: {error}")))?;
    let certificate = socket.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let certificate = certificate.ok_or((Ended::Handshake, "no client certificate".to_owned()))?;
    let identity = Identity::of_certificate(certificate).map_err(|e| (Ended::Identity, e.to_string()))?;
    let (_, expiry) = pki::validity_of_der(certificate).map_err(|e| (Ended::Identity, e.to_string()))?;
    Ok((socket, identity, expiry))
}

/// How long a connection lives: the limit less up to a tenth, and never past its certificate.
fn age(limit: Duration, expiry: SystemTime, now: SystemTime) -> Duration {
    let jittered = limit.mul_f64(1.0 - rand::random::<f64>() / 10.0);
    jittered.min(expiry.duration_since(now).unwrap_or_default())
}

async fn serve(
    server: Server,
    common: Arc<Common>,
    socket: TlsStream<TcpStream>,
    identity: Identity,
    share: Arc<Share>,
    age: Duration,
    shutdown: CancellationToken,
) {
    let (limits, metrics) = (server.limits.clone(), server.metrics.clone());
    // Cancelled when the connection is to end; its streams end then, and so can it.
    let aged = CancellationToken::new();
    let gone = CancellationToken::new();
    let _end_streams = gone.clone().drop_guard();
    let ending = Ending { aged: aged.clone(), gone, shutdown: shutdown.clone() };
    let finder = server.findings.open(identity.clone());
    let streams = Arc::new(Streams { server, common, identity, ending });
    let (open, opened) = watch::channel(0);
    let service = AggregatedDiscoveryServiceServer::from_arc(streams)
        .max_decoding_message_size(limits.max_request_bytes);
    let service = TowerToHyperService::new(service);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let held = Held::new(&share, open.clone());
        request.extensions_mut().insert(Arc::clone(&held));
        request.extensions_mut().insert(Arc::clone(&finder));
        let request = request.map(|body| Counted::new(body, held));
        if request.uri().path() == health::PATH {
            Either::Left(Arc::clone(&finder).serve(request).map(Ok))
        } else {
            Either::Right(service.call(request))
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout)
        .max_concurrent_streams(limits.max_streams)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    tokio::select! {
        result = connection.as_mut() => {
            if let Err(error) = result {
                tracing::debug!(%error, "a connection broke");
            }
            return;
        }
        // It holds a place that others of its identity may need.
        () = idle(opened, limits.idle_timeout) => {
            metrics.ended(Ended::Idle);
            return;
        }
        () = tokio::time::sleep(age) => aged.cancel(),
        () = shutdown.cancelled() => {}
    }
    // No new streams; then those that are open end, and the connection with them.
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(GOODBYE, connection).await;
}

/// Returns when a connection has had no stream for so long.
async fn idle(mut open: watch::Receiver<usize>, limit: Duration) {
    loop {
        let begins = open.wait_for(|streams| *streams > 0);
        if tokio::time::timeout(limit, begins).await.is_err() {
            return;
        }
        // The sender lives as long as the connection.
        let _ = open.wait_for(|streams| *streams == 0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_lives_between_nine_tenths_of_the_limit_and_the_limit() {
        let (limit, now) = (Duration::from_secs(1000), SystemTime::now());
        let expiry = now + Duration::from_secs(100_000);
        let ages: Vec<Duration> = (0..100).map(|_| age(limit, expiry, now)).collect();
        assert!(ages.iter().all(|age| (Duration::from_secs(900)..=limit).contains(age)));
        assert!(ages.iter().any(|age| *age != ages[0]));
    }

    #[test]
    fn a_connection_never_outlives_its_certificate() {
        let (limit, now) = (Duration::from_secs(1000), SystemTime::now());
        assert_eq!(age(limit, now + Duration::from_secs(60), now), Duration::from_secs(60));
        assert_eq!(age(limit, now - Duration::from_secs(60), now), Duration::ZERO);
    }
}
