//! The parts, put together: sources, health checks, reconciler, health check ports.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use epic_health::NetworkProber;
use epic_health::node_port::{NodePorts, Settings as PortSettings};
use epic_lb::Writer;
use epic_lb::maps::{DirectKey, DirectMaps};
use epic_reconciler::{Ask, MapError, Reconciler, Running, SharedMaps, run};
use epic_shell::Direct;
use epic_sources::Origin as _;
use epic_sources::etcd::Etcd;
use epic_sources::file::StateFile;
use epic_sources::health::{Health, NodeAnswers};
use epic_sources::kubernetes::{Kubernetes, cluster::Cluster};
use epic_sources::socket::Socket;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
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
    /// The kubeconfig.
    #[error("cannot use the kubeconfig {path}: {source}; give one that kubectl --kubeconfig works with", path = path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// The client of a cluster.
    #[error(
        "cannot set up the connection to the API server: {0}; look at server and certificates of the kubeconfig"
    )]
    Client(kube::Error),
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
        let socket = args.socket().map_err(Error::Flags)?;
        let client = match &args.kubeconfig {
            Some(path) => Some(connect(path).await?),
            None => None,
        };
        let etcd = args.etcd.as_ref().map(|address| Etcd::new(address, &args.etcd_prefix)).transpose();
        let etcd = etcd.map_err(|error| Error::Flags(error.to_string()))?;
        let mut others = Vec::new();
        for (name, path) in &args.other_cluster {
            others.push(Cluster::new(name, &connect(path).await?));
        }
        let (writer, stop, location) = (Writer::new(), CancellationToken::new(), args.location());
        let scope = args.scope();
        let maps = SharedMaps::new(DirectMaps::new());
        let side = Direct { location: location.clone(), seed: args.seed, room: args.room };
        let reconciler = Reconciler::new(writer.reader(), maps.clone(), side.renderer(), settings)?;
        let (engine, stopped) = watch::channel(false);
        // Sources tell whole states and keep what they cannot read; and what is removed here forwards nothing.
        let confirm = |_: Ask<DirectKey>| true;
        let (handle, running) = run(reconciler, confirm, stopped).map_err(Error::Thread)?;

        let file = args.state.map(|path| {
            let (file, state) = StateFile::new(&path);
            epic_sources::start(file, &writer, stop.clone());
            (path, state)
        });
        let kubernetes = client.map(|client| {
            let (source, state) = Kubernetes::new(&client, scope);
            epic_sources::start(source, &writer, stop.clone());
            state
        });
        let socket = socket.map(|settings| {
            let path = settings.path.clone();
            let (socket, state) = Socket::new(settings);
            epic_sources::start(socket, &writer, stop.clone());
            (path, state)
        });
        let etcd = etcd.map(|(source, state)| {
            epic_sources::start(source, &writer, stop.clone());
            state
        });
        let clusters = others.into_iter().map(|source| {
            let name = source.name();
            epic_sources::start(source, &writer, stop.clone());
            name
        });
        let clusters = clusters.collect();

        let (health, probed) = Health::new(&writer, epic_health::Settings::default());
        tokio::spawn(health.run(NetworkProber, stop.clone()));
        let progress = handle.clone();
        let forwards = move || progress.progress().health.is_node_ok();
        let answers = Arc::new(NodeAnswers::new(writer.reader(), location.clone(), forwards));
        let settings = PortSettings {
            addresses: args.health_address,
            vip_port: args.vip_port,
            ..PortSettings::default()
        };
        let (ports, server) = NodePorts::new(Arc::clone(&answers), settings);
        tokio::spawn(stop.clone().run_until_cancelled_owned(server.run()));
        tokio::spawn(Arc::clone(&answers).follow(ports.clone(), stop.clone()));

        let live = Live {
            reader: writer.reader(),
            handle,
            maps,
            side,
            file,
            socket,
            etcd,
            kubernetes,
            clusters,
            probed,
            answers,
            ports,
        };
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

async fn connect(path: &Path) -> Result<kates::Client, Error> {
    let refused = |source| Error::Kubeconfig { path: path.to_owned(), source };
    let file = Kubeconfig::read_from(path).map_err(refused)?;
    let config =
        Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(refused)?;
    Ok(kates::Client::new(kube::Client::try_from(config).map_err(Error::Client)?))
}
