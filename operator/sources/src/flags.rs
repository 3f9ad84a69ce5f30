//! What sources a process has, as flags of a program.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use epic_lb::Writer;
use tokio_util::sync::CancellationToken;

use crate::Sources;
use crate::etcd::AddressError;
use crate::kubernetes::{ConnectError, HostPorts, Scope, connect};
use crate::socket::{self, ClientName};

/// The sources of a process. Its own cluster is the program's to connect to.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sources")]
// Another crate's flags have the same name.
#[group(skip)]
pub struct Flags {
    /// State file with services (YAML). It is followed: replace it as a whole.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Of the cluster only Services of type LoadBalancer and this class. Absent: all Services, and host ports of Pods.
    #[arg(long, value_name = "CLASS")]
    load_balancer_class: Option<String>,
    /// Address of this node, at which node ports are served and which a Pod may have as hostIP; may be given several times.
    #[arg(long, value_name = "ADDRESS")]
    node_address: Vec<IpAddr>,
    /// Unix socket on which other processes give services; who is known is kept in the folder SOCKET.kept.
    #[arg(long, value_name = "SOCKET")]
    services_socket: Option<PathBuf>,
    /// A namespace in which one client of the socket alone may have services, and which; may be given several times. All others
    /// are anybody's.
    #[arg(long, value_name = "NAMESPACE=CLIENT", value_parser = socket_namespace, requires = "services_socket")]
    services_namespace: Vec<(String, ClientName)>,
    /// An etcd whose keys under --etcd-prefix give services.
    #[arg(long, value_name = "http://HOST:PORT")]
    etcd: Option<String>,
    /// What those keys begin with.
    #[arg(long, value_name = "PREFIX", default_value = "/epic/services", requires = "etcd")]
    etcd_prefix: String,
    /// Another cluster whose shared Services add backends to those of the same name here; may be given several times.
    #[arg(long, value_name = "NAME=KUBECONFIG", value_parser = other_cluster)]
    other_cluster: Vec<(String, PathBuf)>,
}

/// Why the sources are not started.
#[derive(Debug, thiserror::Error)]
pub enum FlagsError {
    /// A namespace that two clients have.
    #[error("--services-namespace gives {namespace} to {one} and to {other}; a namespace is of one client")]
    Namespace {
        /// The namespace.
        namespace: String,
        /// The first.
        one: ClientName,
        /// The second.
        other: ClientName,
    },
    /// The address of etcd.
    #[error(transparent)]
    Etcd(#[from] AddressError),
    /// Another cluster.
    #[error(transparent)]
    Cluster(#[from] ConnectError),
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

impl Flags {
    /// Whether any source is named, the own cluster apart.
    pub fn any(&self) -> bool {
        self.state.is_some()
            || self.services_socket.is_some()
            || self.etcd.is_some()
            || !self.other_cluster.is_empty()
    }

    /// Starts the sources. `own`: a client of the own cluster, if that is to be followed; `node`: the name of this node, if it is
    /// known.
    ///
    /// # Errors
    /// [`FlagsError`]; then nothing is started.
    pub async fn start(
        &self,
        own: Option<&kates::Client>,
        node: Option<&str>,
        writer: &Writer,
        stop: &CancellationToken,
    ) -> Result<Sources, FlagsError> {
        // First what may fail.
        let socket = self.socket()?;
        let mut others = Vec::new();
        for (name, path) in &self.other_cluster {
            others.push((name, connect(path).await?));
        }
        let mut sources = Sources::new(writer, stop.clone());
        if let Some(address) = &self.etcd {
            sources.etcd(address, &self.etcd_prefix)?;
        }
        if let Some(path) = &self.state {
            sources.file(path.clone());
        }
        if let Some(settings) = socket {
            sources.socket(settings);
        }
        if let Some(client) = own {
            sources.kubernetes(client, self.scope(node));
        }
        for (name, client) in others {
            sources.cluster(name, &client);
        }
        Ok(sources)
    }

    /// What of the own cluster is of concern.
    fn scope(&self, node: Option<&str>) -> Scope {
        let host_ports = match (&self.load_balancer_class, node) {
            (Some(_), _) => HostPorts::Off,
            (None, Some(node)) => HostPorts::Node(node.to_owned()),
            (None, None) => HostPorts::Everywhere,
        };
        let (class, node_addresses) = (self.load_balancer_class.clone(), self.node_address.clone());
        Scope { class, node_addresses, host_ports }
    }

    fn socket(&self) -> Result<Option<socket::Settings>, FlagsError> {
        let Some(path) = &self.services_socket else { return Ok(None) };
        let mut settings = socket::Settings::new(path);
        for (namespace, client) in &self.services_namespace {
            let before = settings.namespaces.insert(namespace.clone(), client.clone());
            if let Some(one) = before.filter(|before| before != client) {
                let (namespace, other) = (namespace.clone(), client.clone());
                return Err(FlagsError::Namespace { namespace, one, other });
            }
        }
        Ok(Some(settings))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        flags: Flags,
    }

    fn parse(words: &str) -> Result<Flags, clap::Error> {
        let words = format!("program {words}");
        Program::try_parse_from(words.split_whitespace()).map(|program| program.flags)
    }

    #[test]
    fn host_ports_are_those_of_the_named_node_and_none_beside_a_class() {
        let of = |words, node| parse(words).unwrap().scope(node).host_ports;
        assert_eq!(of("", None), HostPorts::Everywhere);
        assert_eq!(of("", Some("n1")), HostPorts::Node("n1".to_owned()));
        assert_eq!(of("--load-balancer-class edge", Some("n1")), HostPorts::Off);
    }

    #[test]
    fn a_namespace_of_the_socket_is_of_one_client() {
        let socket = |words| parse(words).unwrap().socket();
        let settings =
            socket("--services-socket s --services-namespace shop=edge --services-namespace web=edge");
        let namespaces = settings.unwrap().unwrap().namespaces;
        assert_eq!(namespaces["shop"].as_str(), "edge");
        assert_eq!(namespaces.len(), 2);
        let twice =
            socket("--services-socket s --services-namespace shop=edge --services-namespace shop=other");
        assert!(twice.unwrap_err().to_string().contains("of one client"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for words in [
            "--services-socket s --services-namespace shop",
            "--services-socket s --services-namespace =edge",
            "--services-socket s --services-namespace shop=-",
            "--services-namespace shop=edge",
            "--etcd-prefix /a",
            "--other-cluster east",
            "--node-address nowhere",
        ] {
            parse(words).unwrap_err();
        }
    }

    #[tokio::test]
    async fn what_cannot_be_started_is_named_and_nothing_is() {
        let (writer, stop) = (Writer::new(), CancellationToken::new());
        let flags = parse("--state f --etcd https://127.0.0.1:2379").unwrap();
        let error = flags.start(None, None, &writer, &stop).await.unwrap_err().to_string();
        assert!(error.contains("write http://HOST:PORT"), "{error}");
        let flags = parse("--state f --other-cluster east=/nowhere/kubeconfig").unwrap();
        let error = flags.start(None, None, &writer, &stop).await.unwrap_err().to_string();
        assert!(error.contains("cannot use the kubeconfig /nowhere/kubeconfig"), "{error}");
        assert_eq!(writer.snapshot().pending().count(), 0);
    }
}
