//! `epic-agent`: the agent of EPIC nodes and of client nodes, and the commands beside it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use epic_agent::inspect::{self, Command, Form, Place};
use epic_agent::{client, node};

const NODE_PINS: &str = "/sys/fs/bpf/epic";
const NODE_SOCKET: &str = "/run/epic/node.sock";
const CLIENT_PINS: &str = "/sys/fs/bpf/epic-client";
const CLIENT_SOCKET: &str = "/run/epic/client.sock";

/// The agent of EPIC nodes and of client nodes.
#[derive(Debug, Parser)]
#[command(name = "epic-agent", version)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Runs on a node of the EPIC cluster.
    Node(NodeArgs),
    /// Runs on a tenant's host.
    Client(ClientArgs),
    /// Says how the agent on this host is doing.
    Status(Shown),
    /// Lists the tunnels that end on this host.
    Tunnels(Shown),
    /// The BPF maps of this host.
    #[command(subcommand)]
    Maps(MapsCommand),
}

#[derive(Debug, Subcommand)]
enum MapsCommand {
    /// Prints them, entry by entry. Keys are never printed.
    Dump {
        #[command(flatten)]
        shown: Shown,
        /// Flows and learned proxy addresses too.
        #[arg(long)]
        flows: bool,
        /// Counters that are not zero too.
        #[arg(long)]
        counters: bool,
    },
}

#[derive(Debug, Args)]
struct NodeArgs {
    /// Name of this Node.
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// Kubeconfig. Absent: the ServiceAccount of the pod.
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Directory of pins, on a BPF file system.
    #[arg(long, env = "EPIC_BPFFS_DIR", default_value = NODE_PINS)]
    bpffs_dir: PathBuf,
    /// Address for /healthz, /readyz and /metrics.
    #[arg(long, env = "EPIC_LISTEN", default_value = "127.0.0.1:9980")]
    listen: SocketAddr,
    /// Unix socket for `epic-agent status` and `epic-agent tunnels`.
    #[arg(long, env = "EPIC_SOCKET", default_value = NODE_SOCKET)]
    socket: PathBuf,
}

#[derive(Debug, Args)]
struct ClientArgs {
    /// Identity of this host: the node-address in Endpoints.
    #[arg(long, env = "EPIC_NODE_ADDRESS", required_unless_present = "remove")]
    node_address: Option<IpAddr>,
    /// Kubeconfig for the tenant's namespace, as `epicctl account kubeconfig` makes it. The agent renews its token.
    #[arg(long, env = "KUBECONFIG", required_unless_present = "remove")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the tenant. Absent: the one of the kubeconfig.
    #[arg(long, env = "EPIC_NAMESPACE")]
    namespace: Option<String>,
    /// Directory of pins, on a BPF file system.
    #[arg(long, env = "EPIC_BPFFS_DIR", default_value = CLIENT_PINS)]
    bpffs_dir: PathBuf,
    /// Address for /healthz, /readyz and /metrics.
    #[arg(long, env = "EPIC_LISTEN", default_value = "127.0.0.1:9981")]
    listen: SocketAddr,
    /// Unix socket for `epic-agent status` and `epic-agent tunnels`.
    #[arg(long, env = "EPIC_SOCKET", default_value = CLIENT_SOCKET)]
    socket: PathBuf,
    /// Takes away what a client agent left on this host (programs, device, routes, rules), and ends.
    #[arg(long)]
    remove: bool,
}

/// Where to look, and how to print.
#[derive(Debug, Args)]
struct Shown {
    /// Directory of pins. Absent: that of a node's agent, else that of a client's.
    #[arg(long)]
    bpffs_dir: Option<PathBuf>,
    /// Unix socket of the agent.
    #[arg(long)]
    socket: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

impl Shown {
    fn places(&self) -> Vec<Place> {
        let place = |pins: &str, socket: &str| Place {
            bpffs_dir: self.bpffs_dir.clone().unwrap_or_else(|| pins.into()),
            socket: self.socket.clone().unwrap_or_else(|| socket.into()),
        };
        vec![place(NODE_PINS, NODE_SOCKET), place(CLIENT_PINS, CLIENT_SOCKET)]
    }

    fn print(&self, command: Command) -> Result<(), String> {
        let text = inspect::print(command, self.output, &self.places()).map_err(|error| error.to_string())?;
        print!("{text}");
        Ok(())
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().what {
        What::Status(shown) => shown.print(Command::Status),
        What::Tunnels(shown) => shown.print(Command::Tunnels),
        What::Maps(MapsCommand::Dump { shown, flows, counters }) => {
            shown.print(Command::MapsDump(epic_datapath::dump::Extent { flows, counters }))
        }
        What::Node(args) => serve(run_node(args)),
        What::Client(args) => serve(run_client(args)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("epic-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(agent: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    epic_ops::logging::install();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|error| format!("cannot start: {error}"))?.block_on(agent)
}

async fn run_node(args: NodeArgs) -> Result<(), String> {
    let settings = node::Settings {
        node: args.node_name,
        kubeconfig: args.kubeconfig,
        bpffs_dir: args.bpffs_dir,
        listen: args.listen,
        socket: args.socket,
    };
    node::run(settings).await.map_err(|error| error.to_string())
}

async fn run_client(args: ClientArgs) -> Result<(), String> {
    if args.remove {
        return client::remove(&args.bpffs_dir).await.map_err(|error| error.to_string());
    }
    let (Some(node_address), Some(kubeconfig)) = (args.node_address, args.kubeconfig) else {
        return Err("--node-address and --kubeconfig are needed".to_owned());
    };
    let settings = client::Settings {
        node_address: node_address.to_canonical(),
        kubeconfig,
        namespace: args.namespace,
        bpffs_dir: args.bpffs_dir,
        listen: args.listen,
        socket: args.socket,
    };
    client::run(settings).await.map_err(|error| error.to_string())
}
