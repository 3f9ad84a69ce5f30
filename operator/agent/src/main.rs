//! `epic-agent`: the agent of EPIC nodes and of client nodes, and the commands beside it.

use std::io::IsTerminal as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use epic_agent::inspect::{self, Command, Form, Place};
use epic_agent::{Host, client, node};

/// Where an agent is when nothing else is said. Node and client differ, so that one host can run both.
struct Defaults {
    pins: &'static str,
    port: u16,
    socket: &'static str,
}

const NODE: Defaults = Defaults { pins: "/sys/fs/bpf/epic", port: 9980, socket: "/run/epic/node.sock" };
const CLIENT: Defaults =
    Defaults { pins: "/sys/fs/bpf/epic-client", port: 9981, socket: "/run/epic/client.sock" };

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
    Node(Box<NodeArgs>),
    /// Runs on a tenant's host.
    Client(Box<ClientArgs>),
    /// Says how the agent on this host is doing.
    Status(Shown),
    /// Lists the tunnels that end on this host.
    Tunnels(Shown),
    /// Looks into the tables, the maps and the reconciler of the agent on this host.
    ///
    /// Without a command it reads commands from standard input, with a prompt on a terminal. `help` lists them.
    Shell(ShellArgs),
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
struct ShellArgs {
    /// Unix socket of the agent. Absent: that of a node's agent, else that of a client's.
    #[arg(long)]
    socket: Option<PathBuf>,
    /// What to do, for example `db show frontends -o json`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Debug, Args)]
struct NodeArgs {
    /// Name of this Node.
    #[arg(long, env = "NODE_NAME", required_unless_present = "remove")]
    node_name: Option<String>,
    /// Name of the pod that the agent runs in, in namespace epic. With it an agent detaches when it ends because its
    /// DaemonSet was deleted.
    #[arg(long, env = "POD_NAME")]
    pod_name: Option<String>,
    /// Kubeconfig. Absent: the ServiceAccount of the pod.
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    services: node::services::Flags,
    #[command(flatten)]
    host: HostArgs,
    /// Takes away what an agent left on this node (programs, links, maps), and ends.
    #[arg(long)]
    remove: bool,
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
    #[command(flatten)]
    host: HostArgs,
    /// Takes away what a client agent left on this host (programs, device, routes, rules), and ends.
    #[arg(long)]
    remove: bool,
}

/// What both agents take.
#[derive(Debug, Args)]
struct HostArgs {
    /// Directory of pins, on a BPF file system [default: /sys/fs/bpf/epic of a node, /sys/fs/bpf/epic-client of a client]
    #[arg(long, env = "EPIC_BPFFS_DIR")]
    bpffs_dir: Option<PathBuf>,
    /// Address for /healthz, /readyz and /metrics [default: 127.0.0.1:9980 of a node, 127.0.0.1:9981 of a client]
    #[arg(long, env = "EPIC_LISTEN")]
    listen: Option<SocketAddr>,
    /// Unix socket for `epic-agent status`, `tunnels` and `shell` [default: /run/epic/node.sock of a node,
    /// /run/epic/client.sock of a client]
    #[arg(long, env = "EPIC_SOCKET")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    reconciler: epic_reconciler::Flags,
    #[command(flatten)]
    sizes: epic_agent::SizeFlags,
}

impl HostArgs {
    fn or(self, defaults: &Defaults) -> Result<Host, String> {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, defaults.port));
        Ok(Host {
            reconciler: self.reconciler.settings()?,
            sizes: self.sizes.sizes(),
            bpffs_dir: self.bpffs_dir.unwrap_or_else(|| defaults.pins.into()),
            listen: self.listen.unwrap_or(local),
            socket: self.socket.unwrap_or_else(|| defaults.socket.into()),
        })
    }
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
        let place = |defaults: Defaults| Place {
            bpffs_dir: self.bpffs_dir.clone().unwrap_or_else(|| defaults.pins.into()),
            socket: self.socket.clone().unwrap_or_else(|| defaults.socket.into()),
        };
        vec![place(NODE), place(CLIENT)]
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
        What::Shell(args) => shell(&args),
        What::Node(args) => serve(run_node(*args)),
        What::Client(args) => serve(run_client(*args)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("epic-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn shell(args: &ShellArgs) -> Result<(), String> {
    let sockets = args
        .socket
        .as_ref()
        .map_or_else(|| vec![NODE.socket.into(), CLIENT.socket.into()], |socket| vec![socket.clone()]);
    let (input, mut out) = (std::io::stdin(), std::io::stdout());
    if !args.command.is_empty() {
        let asked = inspect::ask(&args.command.join(" "), &sockets, &mut out);
        return asked.map_err(|error| error.to_string());
    }
    let prompt = input.is_terminal().then_some("epic> ");
    match inspect::read_lines(input.lock(), prompt, &sockets, &mut out) {
        Ok(0) => Ok(()),
        Ok(failed) => {
            Err(format!("{failed} commands were not answered; the lines that begin with error say why"))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn serve(agent: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    epic_ops::logging::install();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|error| format!("cannot start: {error}"))?.block_on(agent)
}

async fn run_node(args: NodeArgs) -> Result<(), String> {
    let host = args.host.or(&NODE)?;
    if args.remove {
        node::remove(&host.bpffs_dir).map_err(|error| error.to_string())?;
        println!("nothing of an agent is left on this node in {}", host.bpffs_dir.display());
        return Ok(());
    }
    let Some(node) = args.node_name else { return Err("--node-name is needed".to_owned()) };
    let (pod, kubeconfig, services) = (args.pod_name, args.kubeconfig, args.services);
    let settings = node::Settings { node, pod, kubeconfig, services, host };
    node::run(settings).await.map_err(|error| error.to_string())
}

async fn run_client(args: ClientArgs) -> Result<(), String> {
    let host = args.host.or(&CLIENT)?;
    if args.remove {
        return client::remove(&host.bpffs_dir).await.map_err(|error| error.to_string());
    }
    let (Some(node_address), Some(kubeconfig)) = (args.node_address, args.kubeconfig) else {
        return Err("--node-address and --kubeconfig are needed".to_owned());
    };
    let settings = client::Settings {
        node_address: node_address.to_canonical(),
        kubeconfig,
        namespace: args.namespace,
        host,
    };
    client::run(settings).await.map_err(|error| error.to_string())
}
