//! Where load-balancing rows come from, beside EPIC's own objects.
//!
//! A source turns what it reads into rows and writes them with a [`epic_lb::Writer`] that is bound to it, one coherent state a
//! transaction. Whatever it does, it touches nothing that another source said.
//!
//! Guarantees: the first transaction completes the initializer, so nothing is pruned before a source has said what there is;
//! what cannot be read or understood leaves the rows as they were, and the source says so.
//! What it does not do: decide between sources ([`epic_lb::Source`] has ranks), select backends, or probe ([`epic_health`]
//! does).
//!
//! | module | |
//! | --- | --- |
//! | [`Origin`], [`Rows`] | the trait, and what each says of a service |
//! | [`Sources`] | those of one process: started, and how each stands; with feature `flags`, `Flags` are its command line |
//! | [`mod@file`] | a state file: services that must not depend on an API server |
//! | [`kubernetes`] | Services and EndpointSlices of a cluster, and host ports of its Pods |
//! | [`kubernetes::cluster`] | what another cluster shares of its Services |
//! | [`socket`] | what processes of this host give through a Unix socket |
//! | [`etcd`] | keys under a prefix of an etcd |
//! | [`health`] | between the tables and the health checker: targets out of rows, verdicts into rows, HealthCheckNodePort |

pub mod etcd;
pub mod file;
#[cfg(feature = "flags")]
mod flags;
pub mod health;
pub mod kubernetes;
mod rows;
pub mod socket;
mod started;

use std::future::Future;

use epic_lb::{Initializer, Source, Writer};
use tokio_util::sync::CancellationToken;

#[cfg(feature = "flags")]
pub use flags::{Flags, FlagsError};
pub use rows::Rows;
pub use started::{Sources, Standing};

/// Something that rows are made of.
pub trait Origin: Send + 'static {
    /// As what its rows are written.
    const SOURCE: Source;
    /// Name of its initializer.
    fn name(&self) -> String;
    /// Writes rows until `stop`. `writer` is bound to [`Origin::SOURCE`]; `listed` is to be completed in the first transaction
    /// that holds all there is.
    fn run(
        self,
        writer: Writer,
        listed: Initializer,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send;
}

/// Starts a source on a task of its own. When this returns its initializer is pending: whoever starts all sources before the
/// reconciler can rely on it that nothing is pruned for want of one of them.
pub fn start<O: Origin>(origin: O, writer: &Writer, stop: CancellationToken) -> tokio::task::JoinHandle<()> {
    let writer = writer.for_source(O::SOURCE);
    let listed = writer.register_initializer(&origin.name());
    tokio::spawn(origin.run(writer, listed, stop))
}
