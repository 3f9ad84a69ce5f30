//! xDS in the operator: tables out of snapshots, a server over them, and what proxies answered as conditions.
//!
//! Runs in every replica, with or without the Lease. Losing the API server stops neither streams nor what they
//! serve; it only keeps answers from being written.

mod answers;
mod assigned;
mod condition;
mod edge;
pub mod feed;
pub(crate) mod health;
mod news;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use epic_lb::Writer;
use epic_ops::{Metrics, Readiness};
use epic_xds::pki;
use epic_xds::{Authorities, Credentials, Findings, Limits, Reports, Server, Tls, Views};
use k8s_openapi::api::core::v1::Service;
use kates::{Key, Snapshot};
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub use assigned::Assigned;
pub use condition::{configured, has_answered};

use crate::authority;
use crate::context::Shared;
use crate::reconcile;
use crate::settings::Settings;
use crate::witness::streams;

/// xDS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port is taken.
    #[error("cannot listen on {address} for xDS; is another operator running here?")]
    Bind {
        /// The address.
        address: std::net::SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The listener broke.
    #[error("serving xDS ended")]
    Serve(#[source] std::io::Error),
    /// The certificates cannot be used.
    #[error("the certificates for xDS cannot be used")]
    Tls(#[from] epic_xds::server::TlsError),
}

/// ClusterIP of the xDS Service, which proxies connect to.
pub fn xds_address(snapshot: &Snapshot, settings: &Settings) -> Option<IpAddr> {
    let key = Key::namespaced(settings.namespace.as_str(), settings.xds_service.as_str());
    snapshot.get::<Service>(&key)?.spec.as_ref()?.cluster_ip.as_deref()?.parse().ok()
}

/// Serves until `shutdown`.
///
/// # Errors
/// [`Error`]: the process cannot do its work and should end.
pub async fn run(
    context: Shared,
    metrics: &Metrics,
    readiness: &Readiness,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let pending = readiness.hold("xds");
    let credentials = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        credentials = first_credentials(&context, &pending) => credentials,
    };
    let tls = Tls::new(&credentials)?;
    let writer = Writer::new();
    let (views, reports, findings) = (Views::new(), Reports::new(), Findings::new());
    let address = context.settings.xds_address;
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Bind { address, source })?;
    let tables = writer.reader();
    let tasks = [
        tokio::spawn(feed::run(Arc::clone(&context), writer, shutdown.clone())),
        tokio::spawn(epic_xds::sync::run(tables, Arc::clone(&views))),
        tokio::spawn(answers::run(Arc::clone(&context), Arc::clone(&reports), shutdown.clone())),
        tokio::spawn(health::run(Arc::clone(&context), Arc::clone(&findings), shutdown.clone())),
        tokio::spawn(streams::run(Arc::clone(&context), Arc::clone(&reports), shutdown.clone())),
        tokio::spawn(renew(Arc::clone(&context), Arc::clone(&tls), credentials, shutdown.clone())),
        tokio::spawn(authority::run(Arc::clone(&context), shutdown.clone())),
    ];
    // A stream that is open before the tables are filled waits; one that is refused would try elsewhere. So the port
    // is served only from here on, and the replica is ready once its first snapshot is in the tables.
    context.watches.synced().await;
    let metrics = metrics.register(epic_xds::Metrics::register);
    drop(pending);
    let server = Server { views, reports, findings, metrics, tls, limits: Limits::default() };
    let served = server.serve(listener, shutdown).await.map_err(Error::Serve);
    for task in tasks {
        task.abort();
    }
    served
}

async fn first_credentials(context: &Shared, pending: &epic_ops::readiness::Pending) -> Credentials {
    loop {
        match credentials(context).await {
            Ok(credentials) => return credentials,
            Err(error) => {
                pending.because(format!("no certificates: {error}"));
                tracing::warn!(%error, source = ?std::error::Error::source(&error), "no certificates yet");
                sleep(Duration::from_secs(2)).await;
            }
        }
    }
}

/// A server certificate of this replica's own, out of the authorities as they are known; it is never stored.
async fn credentials(context: &Shared) -> Result<Credentials, reconcile::Error> {
    let authorities = context.certificates.authorities(&context.client).await?;
    let made = pki::issue_server(&authorities.signing, SystemTime::now())?;
    Ok(Credentials {
        certificate: made.certificate,
        key: made.key,
        client_authorities: authorities.trusted.clone(),
    })
}

/// Whether what this replica presents is signed and trusts as the authorities say, and is of use by the clock of now: it
/// may have been made while that ran ahead.
fn is_current(credentials: &Credentials, authorities: &Authorities) -> bool {
    credentials.client_authorities == authorities.trusted
        && pki::is_current(&credentials.certificate, &authorities.signing.certificate, SystemTime::now())
}

async fn renew(context: Shared, tls: Arc<Tls>, mut current: Credentials, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep(authority::LOOK) => {}
        }
        // What is known is enough to go on with while the Secret cannot be read.
        if let Err(error) = context.certificates.look(&context.client).await {
            tracing::warn!(%error, "the xDS authority cannot be read; going on with what is known");
        }
        let known = context.certificates.authorities(&context.client).await;
        if known.is_ok_and(|authorities| is_current(&current, &authorities)) {
            continue;
        }
        match credentials(&context).await {
            Ok(fresh) => match tls.replace(&fresh) {
                Ok(()) => current = fresh,
                Err(error) => tracing::error!(%error, "the new server certificate cannot be used"),
            },
            Err(error) => tracing::warn!(%error, "the server certificate is not renewed yet"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_takes_new_credentials_with_every_step_of_a_change() {
        let mut authorities = Authorities::one(pki::create_authority(SystemTime::now()).unwrap());
        let of = |authorities: &Authorities| {
            let made = pki::issue_server(&authorities.signing, SystemTime::now()).unwrap();
            let client_authorities = authorities.trusted.clone();
            Credentials { certificate: made.certificate, key: made.key, client_authorities }
        };
        for _ in 0..3 {
            let current = of(&authorities);
            assert!(is_current(&current, &authorities));
            authorities = authorities.advanced(SystemTime::now()).unwrap();
            assert!(!is_current(&current, &authorities), "{:?}", authorities.step());
        }
    }
}
