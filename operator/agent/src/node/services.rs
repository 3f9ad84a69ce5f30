//! Services that others than EPIC's objects speak of: sources of this node, checks of their backends, and what is told
//! upstream.
//!
//! The programs of this node have no packets for them yet: their rows stand in the tables, where the shell shows them and what
//! would be selected, and each says so in `reconciler status`. They hold up nothing of EPIC's: what is pending of a source
//! holds back the removal of nothing that is in the maps, and EPIC's objects precede every other source.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use epic_health::NetworkProber;
use epic_health::node_port::Settings as Ports;
use epic_lb::{Handle, Location, ServiceRef, Snapshot, Writer};
use epic_shell::Part;
use epic_sources::health::Checks;
use epic_sources::{FlagsError, Sources, Standing};
use tokio_util::sync::CancellationToken;

/// Which sources this node has, and where it answers for what it serves.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Sources")]
#[group(skip)]
pub struct Flags {
    /// Services and EndpointSlices of this cluster too; the agent has to be allowed to list and watch them.
    #[arg(long)]
    cluster_services: bool,
    /// Address on which health check node ports listen; may be given several times.
    #[arg(long, value_name = "ADDRESS", default_values_t = [IpAddr::V4(Ipv4Addr::LOCALHOST)])]
    health_address: Vec<IpAddr>,
    /// Port on which `/vip/ADDRESS` says whether an address is served by this node. Absent: nowhere.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    vip_port: Option<u16>,
    #[command(flatten)]
    sources: epic_sources::Flags,
}

/// What runs of it.
#[derive(Debug)]
pub(super) struct Services {
    sources: Sources,
    checks: Option<Checks>,
}

impl Services {
    /// Starts the sources. To be called before the reconciler starts, so that none of theirs is taken for absent.
    ///
    /// # Errors
    /// A flag that names nothing that can be used.
    pub(super) async fn start(
        flags: &Flags,
        client: &kates::Client,
        node: &str,
        writer: &Writer,
        stop: &CancellationToken,
    ) -> Result<Self, FlagsError> {
        let own = flags.cluster_services.then_some(client);
        let sources = flags.sources.start(own, Some(node), writer, stop).await?;
        Ok(Self { sources, checks: None })
    }

    /// Starts to check and to answer, if there is anything to ask for.
    pub(super) fn check(
        &mut self,
        flags: &Flags,
        node: &str,
        writer: &Writer,
        handle: Handle,
        stop: &CancellationToken,
    ) {
        if !flags.sources.any() && !flags.cluster_services && flags.vip_port.is_none() {
            return;
        }
        let location = Location { node: Some(node.into()), ..Location::default() };
        let ports =
            Ports { addresses: flags.health_address.clone(), vip_port: flags.vip_port, ..Ports::default() };
        let forwards = move |tables: &Snapshot, service| forwards(tables, service, &handle);
        let settings = (epic_health::Settings::default(), ports);
        self.checks = Some(Checks::start(writer, NetworkProber, location, forwards, settings, stop));
    }

    /// How each part stands, for the shell.
    pub(super) fn parts(&self) -> Vec<Part> {
        let all = self.sources.standing().into_iter().chain(self.checks.iter().flat_map(Checks::standing));
        all.map(|Standing { name, ok, says }| Part { name: name.to_owned(), ok, says }).collect()
    }
}

/// Whether this node forwards packets of a service: of EPIC's alone, and while its maps are in order.
fn forwards(tables: &Snapshot, service: ServiceRef, handle: &Handle) -> bool {
    tables.service(service).is_some_and(|row| row.ids.is_some()) && handle.progress().health.is_node_ok()
}

/// A look at the parts, whenever somebody asks.
pub(super) fn look(services: &Arc<Services>) -> Arc<dyn Fn() -> Vec<Part> + Send + Sync> {
    let services = Arc::clone(services);
    Arc::new(move || services.parts())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use epic_lb::render::NodeSide;
    use epic_lb::{
        Backend, FakeMaps, Frontend, FrontendKey, GroupId, Protocol, RowId, Service, ServiceId, ServiceName,
        Source,
    };
    use epic_reconciler::{Budget, Reconciler, Status};

    use super::*;
    use crate::node::behind::{Behind, Leaving};

    #[test]
    fn a_service_of_another_source_is_refused_in_words_and_concerns_nobody_else() {
        let writer = Writer::new();
        let file = writer.for_source(Source::File);
        let _unread = file.register_initializer("file");
        let (web, dns) = (ServiceName::new("epic-red", "web"), ServiceName::new("edge", "dns"));
        let vip = |last| FrontendKey::new([192, 0, 2, last].into(), 80, Protocol::Tcp);
        let mut txn = writer.write();
        let keys = epic_lb::ServiceKeys { data: [epic_lb::DataKey([1; 16]); 3], node: None };
        let row =
            Service::new(web.clone(), "uid").granted(GroupId::new(1).unwrap(), ServiceId::new(1).unwrap());
        let port = Frontend::proxied(vip(1), web.clone(), 0);
        txn.upsert_service_and_frontends(Service { keys: Some(keys.into()), ..row }, vec![port]).unwrap();
        txn.commit();
        let mut txn = file.write();
        // It names the tenant's address as well, which EPIC's object precedes.
        let ports = [1, 2].map(|last| Frontend::direct(vip(last), dns.clone()));
        txn.upsert_service_and_frontends(Service::new(dns.clone(), "none"), ports.into()).unwrap();
        txn.set_backends(&dns, [Backend::new(dns.clone(), [10, 0, 0, 1].into(), 53, Protocol::Tcp)]);
        txn.commit();

        let side = NodeSide::new("n1", 1);
        let mut reconciler =
            Reconciler::new(writer.reader(), FakeMaps::new(), side, Default::default()).unwrap();
        reconciler.round(Instant::now(), Budget::UNLIMITED);
        let (tables, progress) = (writer.snapshot(), reconciler.progress());
        let status = |last| tables.status(RowId::Frontend(vip(last)), &progress).unwrap();
        assert_eq!(status(1), Status::Done);
        let Status::Error(why) = status(2) else { panic!("{:?}", status(2)) };
        assert!(why.contains("edge/dns is no LoadBalancer of EPIC") && why.contains("epic-lb"), "{why}");
        assert!(progress.covers_scope(web.id(), tables.revision()) && progress.health.is_node_ok());
        let mut leaving = Leaving::default();
        leaving.follow(&tables, &progress);
        assert_eq!(leaving.behind(&progress, tables.revision()), Behind::default(), "no LoadBalancer is");

        // Nor does a source that nobody has read keep what EPIC's objects take back.
        let mut txn = writer.write();
        txn.delete_service_and_frontends(&web);
        txn.commit();
        while let Some(ask) = reconciler.round(Instant::now(), Budget::UNLIMITED).ask {
            reconciler.confirm(&ask);
        }
        assert_eq!(reconciler.maps().len(), 0);
    }

    #[tokio::test]
    async fn flags_name_the_sources_and_without_any_nothing_is_checked() {
        use clap::Parser;
        #[derive(Debug, Parser)]
        struct Program {
            #[command(flatten)]
            flags: Flags,
        }
        let parse = |words: &[&str]| Program::parse_from([&["x"], words].concat()).flags;
        let (none, state) = (parse(&[]), parse(&["--state", "/nowhere/services.yaml", "--vip-port", "8086"]));
        let server = epic_fake_api::Server::new();
        let client = kates::Client::new(server.client());
        let (writer, stop) = (Writer::new(), CancellationToken::new());
        let _end = stop.clone().drop_guard();
        let quiet = Services::start(&none, &client, "n1", &writer, &stop).await.unwrap();
        assert!(quiet.parts().is_empty() && writer.snapshot().initialized());
        let named = Services::start(&state, &client, "n1", &writer, &stop).await.unwrap();
        let parts = named.parts();
        assert_eq!(parts.iter().map(|part| part.name.as_str()).collect::<Vec<_>>(), ["file"]);
        assert!(!writer.snapshot().initialized(), "it is waited for from the start");
    }
}
