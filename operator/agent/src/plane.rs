//! What stands between an agent's decisions and its maps: tables, the reconciler on its thread, and who may look into them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use epic_datapath::{BpfMaps, Maps};
use epic_lb::{EpicLayout, Handle, Initializer, MapKey, ServiceRef, Tables, Writer};
use epic_ops::Metrics;
use epic_reconciler::{ConfirmPrune, MapError, Reconciler, Render, Running, Settings};
use epic_shell::Side;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::inspect::{self, Parts, ViewFn};
use crate::metrics::{MapsCollector, ReconcilerCollector};

/// The running plane of one agent.
pub(crate) struct Plane {
    /// The way into the tables, for EPIC's objects.
    pub(crate) writer: Writer,
    /// How far the maps are.
    pub(crate) handle: Handle,
    /// Until the first decision has been written.
    pub(crate) initializer: Option<Initializer>,
    maps: Arc<Maps>,
    stop: watch::Sender<bool>,
    running: Running<BpfMaps>,
    commands: Option<JoinHandle<()>>,
}

impl Plane {
    /// Starts the reconciler over tables, which may have other sources already. Nothing of EPIC's objects is removed from
    /// the maps before the first decision is written.
    ///
    /// # Errors
    /// The maps cannot be read, or there is no thread.
    pub(crate) fn start<R, C, E>(
        writer: Writer,
        maps: &Arc<Maps>,
        (render, confirm): (R, C),
        settings: Settings,
        metrics: &Metrics,
    ) -> Result<Self, E>
    where
        R: Render<EpicLayout, Tables = Tables, Scope = ServiceRef>,
        C: ConfirmPrune<MapKey>,
        E: From<MapError> + From<io::Error>,
    {
        let initializer = Some(writer.register_initializer("api-server"));
        let reconciler = Reconciler::new(writer.reader(), BpfMaps::new(Arc::clone(maps)), render, settings)?;
        let (stop, stopped) = watch::channel(false);
        let (handle, running) = epic_reconciler::run(reconciler, confirm, stopped)?;
        let collector = ReconcilerCollector::default();
        collector.watch(handle.clone());
        metrics.register(|registry| {
            registry.register_collector(Box::new(MapsCollector::new(Arc::clone(maps))));
            registry.register_collector(Box::new(collector));
        });
        let maps = Arc::clone(maps);
        Ok(Self { writer, handle, initializer, maps, stop, running, commands: None })
    }

    /// Answers commands on a socket, until `shutdown`.
    pub(crate) fn answer(
        &mut self,
        socket: PathBuf,
        (side, view, parts): (Side, ViewFn, Parts),
        shutdown: CancellationToken,
    ) {
        let (reader, handle) = (self.writer.reader(), self.handle.clone());
        let subject = inspect::Live { side, reader, handle, maps: Arc::clone(&self.maps), parts };
        let served = inspect::Served { view, subject: Arc::new(subject), reader: self.writer.reader() };
        self.commands = Some(tokio::spawn(inspect::serve(socket, served, shutdown)));
    }

    /// Ends, the reconciler in order. The maps stay as they are.
    pub(crate) async fn end(self) {
        let _ = self.stop.send(true);
        if let Some(commands) = self.commands {
            commands.abort();
        }
        self.running.join().await;
    }
}
