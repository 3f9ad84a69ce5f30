//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use epic_lb::Location;
use epic_sources::file::parse_span;
use epic_sources::kubernetes::{HostPorts, Scope};
use epic_sources::socket::{self, ClientName};

/// The load-balancing control plane with maps in memory, and a prompt to look into it.
///
/// Sources, health checks and the reconciler work as on a node; nothing is forwarded. Commands come from standard input, with a
/// prompt on a terminal, or from --run; `help` lists them.
#[derive(Clone, Debug, Parser)]
#[command(name = "epic-lb", version)]
pub(crate) struct Args {
    /// State file with services (YAML). It is followed: replace it as a whole.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["kubeconfig", "socket", "etcd"])]
    pub(crate) state: Option<PathBuf>,
    /// Kubeconfig of a cluster whose Services, EndpointSlices and, for their host ports, Pods are followed.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Of the cluster only Services of type LoadBalancer and this class. Absent: all Services, and host ports of Pods.
    #[arg(long, value_name = "CLASS", requires = "kubeconfig")]
    pub(crate) load_balancer_class: Option<String>,
    /// Unix socket on which other processes give services; who is known is kept in the folder SOCKET.kept.
    #[arg(long, value_name = "SOCKET")]
    pub(crate) socket: Option<PathBuf>,
    /// A namespace in which one client of the socket alone may have services, and which; may be given several times. All others
    /// are anybody's.
    #[arg(long, value_name = "NAMESPACE=CLIENT", value_parser = socket_namespace, requires = "socket")]
    pub(crate) socket_namespace: Vec<(String, ClientName)>,
    /// An etcd whose keys under --etcd-prefix give services.
    #[arg(long, value_name = "http://HOST:PORT")]
    pub(crate) etcd: Option<String>,
    /// What those keys begin with.
    #[arg(long, value_name = "PREFIX", default_value = "/epic/services", requires = "etcd")]
    pub(crate) etcd_prefix: String,
    /// Another cluster whose shared Services add backends to those of the same name here; may be given several times.
    #[arg(long, value_name = "NAME=KUBECONFIG", value_parser = other_cluster)]
    pub(crate) other_cluster: Vec<(String, PathBuf)>,
    /// Address of this node, at which node ports are served and which a Pod may have as hostIP; may be given several times.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) node_address: Vec<IpAddr>,

    /// Runs this command and ends, after the sources have listed and the maps hold what they said; may be given several times.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) run: Vec<String>,
    /// How to print. Absent: text, or as each command says.
    #[arg(short, long, value_parser = ["text", "json"])]
    pub(crate) output: Option<String>,
    /// How long --run, and commands that come from no terminal, wait for sources and maps.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_span)]
    pub(crate) wait: Duration,

    /// Name of this node: for policy Local, preferences by place, health check node ports, and host ports, which are served of
    /// its Pods alone. Absent: localhost, and the host ports of all Pods.
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Zone of this node.
    #[arg(long, value_name = "NAME")]
    pub(crate) zone: Option<String>,
    /// Cluster of this node. Absent: the one that rows without a cluster are in.
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// Seed of the Maglev tables; nodes with the same one choose alike.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) seed: u32,
    /// Backends, and frontends, for which the maps have room.
    #[arg(long, value_name = "NUMBER", default_value_t = epic_lb::render::DirectSide::ROOM, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) room: u32,

    /// Address on which health check node ports listen; may be given several times.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) health_address: Vec<IpAddr>,
    /// Port on which `/vip/ADDRESS` says whether an address is served. Absent: nowhere.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) vip_port: Option<u16>,

    #[command(flatten)]
    pub(crate) reconciler: epic_reconciler::Flags,
}

fn socket_namespace(text: &str) -> Result<(String, ClientName), String> {
    let split = text.split_once('=').filter(|(namespace, _)| !namespace.is_empty());
    let (namespace, client) =
        split.ok_or("give a namespace and the name of a client, for example shop=edge")?;
    let client = ClientName::try_from(client.to_owned()).map_err(|error| error.to_string())?;
    Ok((namespace.to_owned(), client))
}

fn other_cluster(text: &str) -> Result<(String, PathBuf), String> {
    let split = text.split_once('=').filter(|(name, path)| !name.is_empty() && !path.is_empty());
    let (name, path) =
        split.ok_or("give a name and a kubeconfig, for example east=/etc/epic/east.kubeconfig")?;
    Ok((name.to_owned(), path.into()))
}

impl Args {
    /// The socket, if there is to be one.
    ///
    /// # Errors
    /// A namespace that two clients have, and what to give instead.
    pub(crate) fn socket(&self) -> Result<Option<socket::Settings>, String> {
        let Some(path) = &self.socket else { return Ok(None) };
        let mut settings = socket::Settings::new(path);
        for (namespace, client) in &self.socket_namespace {
            if let Some(other) = settings.namespaces.insert(namespace.clone(), client.clone())
                && other != *client
            {
                return Err(format!(
                    "--socket-namespace gives {namespace} to {other} and to {client}; a namespace is of one client"
                ));
            }
        }
        Ok(Some(settings))
    }

    /// What of the cluster is of concern.
    pub(crate) fn scope(&self) -> Scope {
        let host_ports = match (&self.load_balancer_class, &self.node) {
            (Some(_), _) => HostPorts::Off,
            (None, Some(node)) => HostPorts::Node(node.clone()),
            (None, None) => HostPorts::Everywhere,
        };
        let (class, node_addresses) = (self.load_balancer_class.clone(), self.node_address.clone());
        Scope { class, node_addresses, host_ports }
    }

    /// Where selection takes place.
    pub(crate) fn location(&self) -> Location {
        let arc = |name: &String| Arc::from(name.as_str());
        Location {
            node: Some(self.node.as_deref().unwrap_or("localhost").into()),
            zone: self.zone.as_ref().map(arc),
            cluster: self.cluster.as_ref().map(arc),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Args {
        let words = format!("epic-lb --state f {words}");
        Args::try_parse_from(words.split_whitespace()).unwrap()
    }

    #[test]
    fn host_ports_are_those_of_the_named_node_and_none_beside_a_class() {
        let scope = |words| parse(words).scope().host_ports;
        assert_eq!(scope("--kubeconfig k"), HostPorts::Everywhere);
        assert_eq!(scope("--kubeconfig k --node n1"), HostPorts::Node("n1".to_owned()));
        assert_eq!(scope("--kubeconfig k --node n1 --load-balancer-class edge"), HostPorts::Off);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(parse("--backoff-min 2s --backoff-max 1s").reconciler.settings().is_err());
        for words in ["--batch 0", "--refresh soon", "--room 0"] {
            let words = format!("epic-lb --state f {words}");
            assert!(Args::try_parse_from(words.split_whitespace()).is_err(), "{words}");
        }
        assert!(Args::try_parse_from(["epic-lb", "--etcd-prefix", "/a"]).is_err(), "of which etcd?");
        for words in [
            "--socket s --socket-namespace shop",
            "--socket s --socket-namespace =edge",
            "--socket-namespace shop=edge",
        ] {
            let words = format!("epic-lb --state f {words}");
            assert!(Args::try_parse_from(words.split_whitespace()).is_err(), "{words}");
        }
        let twice = parse("--socket s --socket-namespace shop=edge --socket-namespace shop=other").socket();
        assert!(twice.unwrap_err().contains("of one client"));
        assert!(Args::try_parse_from(["epic-lb"]).is_err(), "without a source there is nothing to do");
    }
}
