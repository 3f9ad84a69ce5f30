//! Health checks of one process: started together, and how they stand, for people.

use std::sync::Arc;

use epic_health::node_port::{NodePorts, Settings as PortSettings};
use epic_health::{Prober, Settings};
use epic_lb::{Location, ServiceRef, Snapshot, Writer};
use tokio_util::sync::CancellationToken;

use super::{Health, NodeAnswers, Probed};
use crate::started::{NAMED, Standing};

/// The health checker on the tables, and the server that tells load balancers upstream what it finds.
#[derive(Debug)]
pub struct Checks {
    probed: Probed,
    answers: Arc<NodeAnswers>,
    ports: NodePorts,
}

impl Checks {
    /// Starts both; they end with `stop`. `forwards` says whether what forwards packets of a service works. Must be called inside a tokio
    /// runtime.
    pub fn start(
        writer: &Writer,
        prober: impl Prober,
        location: Location,
        forwards: impl Fn(&Snapshot, ServiceRef) -> bool + Send + Sync + 'static,
        (settings, ports): (Settings, PortSettings),
        stop: &CancellationToken,
    ) -> Self {
        let (health, probed) = Health::new(writer, settings);
        tokio::spawn(health.run(prober, stop.clone()));
        let answers = Arc::new(NodeAnswers::new(writer.reader(), location, forwards));
        let (ports, server) = NodePorts::new(Arc::clone(&answers), ports);
        tokio::spawn(stop.clone().run_until_cancelled_owned(server.run()));
        tokio::spawn(Arc::clone(&answers).follow(ports.clone(), stop.clone()));
        Self { probed, answers, ports }
    }

    /// How both stand.
    pub fn standing(&self) -> [Standing; 2] {
        [self.checks(), self.node_ports()]
    }

    fn checks(&self) -> Standing {
        let (stats, unasked) = (self.probed.stats(), self.probed.unasked());
        let mut says = format!("{} backends are probed, {} not judged yet", stats.targets, stats.unknown);
        if stats.unknown > 0
            && let Some(trouble) = &stats.trouble
        {
            says += &format!("; {trouble}");
        }
        for unasked in unasked.iter().take(NAMED) {
            says += &format!("; {}: {}", unasked.service, unasked.why);
        }
        if unasked.len() > NAMED {
            says += &format!("; and {} more that cannot be probed", unasked.len() - NAMED);
        }
        let ok = unasked.is_empty() && (stats.unknown == 0 || stats.trouble.is_none());
        Standing { name: "checks", ok, says }
    }

    fn node_ports(&self) -> Standing {
        let mut wrong: Vec<String> = self.ports.problems().into_values().collect();
        wrong.extend(self.answers.conflicts());
        let ok = wrong.is_empty();
        let says = if ok { "every health check node port is served".to_owned() } else { wrong.join("; ") };
        Standing { name: "ports", ok, says }
    }
}
