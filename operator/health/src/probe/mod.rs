//! Probes over the network.
//!
//! Guarantees: a connection of its own for each probe, since what is asked is whether the next client will be served; a
//! probe reads a bounded part of any answer; a dropped probe holds no socket and no task.

mod connect;
mod grpc;
mod http1;

use std::error::Error;
use std::fmt::Write;

use crate::check::Probe;
use crate::prober::Prober;
use crate::target::Place;
use crate::verdict::Failure;

/// What the probes of HTTP and gRPC call themselves, so that a tenant finds them in its logs.
const USER_AGENT: &str = concat!("epic-health/", env!("CARGO_PKG_VERSION"));

/// Asks over the network, with sockets of this process's network namespace.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetworkProber;

impl Prober for NetworkProber {
    async fn probe(&self, place: &Place, probe: &Probe) -> Result<(), Failure> {
        let stream = connect::connect(place).await?;
        match probe {
            Probe::Tcp => Ok(()),
            Probe::Http { path, host, statuses } => {
                let host = host.clone().unwrap_or_else(|| place.address.to_string());
                // Boxed: most targets are asked by TCP, and a probe under way takes the room of the largest kind.
                Box::pin(http1::ask(stream, path, &host, statuses)).await
            }
            Probe::Grpc { service, authority } => {
                let authority = authority.clone().unwrap_or_else(|| place.address.to_string());
                Box::pin(grpc::ask(stream, service, &authority)).await
            }
        }
    }
}

/// An error with its causes, each once: libraries differ in who repeats whom.
fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            let _ = write!(text, ": {more}");
        }
        cause = error.source();
    }
    text
}
