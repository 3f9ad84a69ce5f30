//! The parts, put together: sources, health checks, reconciler, health check ports.

use std::sync::Arc;

use epic_health::NetworkProber;
use epic_health::node_port::Settings as PortSettings;
use epic_lb::maps::{DirectKey, DirectMaps};
use epic_lb::{Snapshot, Writer};
use epic_reconciler::{Ask, MapError, Reconciler, Running, SharedMaps, run};
use epic_shell::Direct;
use epic_sources::FlagsError;
use epic_sources::health::Checks;
use epic_sources::kubernetes::{ConnectError, connect};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::args::Args;
use crate::live::Live;

/// Why it does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Flags.
    #[error("{0}")]
    Flags(String),
    /// Sources.
    #[error(transparent)]
    Sources(#[from] FlagsError),
    /// The cluster.
    #[error(transparent)]
    Cluster(#[from] ConnectError),
    /// The maps.
    #[error("the maps cannot be read: {0}")]
    Maps(#[from] MapError),
    /// The reconciler.
    #[error("cannot start the reconciler: {0}; is there memory and a thread left for this process?")]
    Thread(std::io::Error),
}

/// The running program.
#[derive(Debug)]
pub(crate) struct Program {
    live: Arc<Live>,
    stop: CancellationToken,
    engine: watch::Sender<bool>,
    running: Running<SharedMaps<DirectMaps>>,
}

impl Program {
    /// Starts everything. What a source says comes when it has listed.
    pub(crate) async fn start(args: Args) -> Result<Self, Error> {
        let settings = args.reconciler.settings().map_err(Error::Flags)?;
        let (writer, stop, location) = (Writer::new(), CancellationToken::new(), args.location());
        // What fails leaves no task behind.
        let unfinished = stop.clone().drop_guard();
        let own = match &args.kubeconfig {
            Some(path) => Some(connect(path).await?),
            None => None,
        };
        let sources = args.sources.start(own.as_ref(), args.node.as_deref(), &writer, &stop).await?;
        let maps = SharedMaps::new(DirectMaps::new());
        let side = Direct { location: location.clone(), seed: args.seed, room: args.room };
        let reconciler = Reconciler::new(writer.reader(), maps.clone(), side.renderer(), settings)?;
        let (engine, stopped) = watch::channel(false);
        // Sources tell whole states and keep what they cannot read; and what is removed here forwards nothing.
        let confirm = |_: Ask<DirectKey>| true;
        let (handle, running) = run(reconciler, confirm, stopped).map_err(Error::Thread)?;

        let progress = handle.clone();
        let forwards = move |_: &Snapshot, _| progress.progress().health.is_node_ok();
        let ports = PortSettings {
            addresses: args.health_address,
            vip_port: args.vip_port,
            ..PortSettings::default()
        };
        let settings = (epic_health::Settings::default(), ports);
        let checks = Checks::start(&writer, NetworkProber, location, forwards, settings, &stop);
        unfinished.disarm();
        let live = Live { reader: writer.reader(), handle, maps, side, sources, checks };
        Ok(Self { live: Arc::new(live), stop, engine, running })
    }

    /// What can be looked into.
    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Ends everything, the reconciler in order.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.engine.send_replace(true);
        self.running.join().await;
    }
}
