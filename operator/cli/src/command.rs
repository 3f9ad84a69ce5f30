//! Commands and flags.

use std::io::Write as _;
use std::net::IpAddr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use k8s_openapi::jiff::Timestamp;

use crate::api::{self, Connection};
use crate::restart::{self, RestartCommand};
use crate::{account, authority, explain, node, overview, preflight, release};

/// Command line for administrators of EPIC.
#[derive(Clone, Debug, Parser)]
#[command(name = "epicctl", version, after_help = "As a plug-in of kubectl: ln -s epicctl kubectl-epic")]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Shows accounts, load balancers, proxies, tunnels and endpoints, and what is wrong with them.
    Get(GetArguments),
    /// Says the one thing to fix for an object.
    #[command(subcommand)]
    Explain(ExplainCommand),
    /// Judges a cluster, or the node it runs on, before EPIC is installed.
    ///
    /// Fails when something keeps EPIC from working.
    Preflight(PreflightArguments),
    /// What a tenant needs.
    #[command(subcommand)]
    Account(AccountCommand),
    /// Public addresses.
    #[command(subcommand)]
    Address(AddressCommand),
    /// The authority that proxies and xDS servers know each other by.
    #[command(subcommand)]
    Authority(AuthorityCommand),
    /// EPIC nodes.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Has proxies made anew, one after the other; a new one serves before an old one drains.
    #[command(subcommand)]
    Restart(RestartCommand),
}

#[derive(Clone, Debug, Args)]
struct GetArguments {
    /// Only this account.
    #[arg(long, short)]
    account: Option<String>,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Form,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

#[derive(Clone, Debug, Subcommand)]
enum ExplainCommand {
    /// A LoadBalancer: follows its references, address, proxies, nodes, Endpoints and tunnels up to the first that is
    /// not as it should be.
    #[command(name = "lb", visible_aliases = ["epiclb", "loadbalancer"])]
    LoadBalancer(ExplainArguments),
}

#[derive(Clone, Debug, Args)]
struct ExplainArguments {
    /// Its name.
    name: String,
    /// Its namespace, `epic-ACCOUNT`. Absent: that of the kubeconfig's context.
    #[arg(long, short)]
    namespace: Option<String>,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Form,
}

#[derive(Clone, Debug, Args)]
struct PreflightArguments {
    /// Judges this machine as a node, without asking an API server.
    #[arg(long)]
    node: bool,
    /// UDP port of GUE, with --node.
    #[arg(long, requires = "node", default_value_t = 6080)]
    port: u16,
    /// LoadBalancers to make room for.
    #[arg(long, default_value_t = 100)]
    load_balancers: u64,
    /// Proxies of each LoadBalancer.
    #[arg(long, default_value_t = 2)]
    replicas: u64,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Form,
}

#[derive(Clone, Debug, Subcommand)]
enum AccountCommand {
    /// Writes the kubeconfig with which a tenant's client agents connect.
    ///
    /// It holds a token of the ServiceAccount epic-client in the tenant's namespace, which reads that namespace's
    /// LoadBalancers, Endpoints and tunnel keys. The agent renews the token while it runs. To revoke every token,
    /// delete the ServiceAccount; the operator makes it anew.
    Kubeconfig(account::KubeconfigArguments),
}

#[derive(Clone, Debug, Subcommand)]
enum AddressCommand {
    /// Lets go of a public address by hand.
    ///
    /// EPIC releases addresses by itself, as soon as no node can still have them in its maps. A node that is gone for
    /// good and whose EPICNode is still there holds that up; this command says which, and deletes the claim if told
    /// to. An address in use is never released.
    Release(ReleaseArguments),
}

#[derive(Clone, Debug, Subcommand)]
enum NodeCommand {
    /// Prints the kubectl command that looks into the tables and maps of a node's agent.
    ///
    /// Run it, or let the shell do so: eval "$(epicctl node shell NODE health)". Without a command it opens a prompt.
    Shell(node::ShellArguments),
}

#[derive(Clone, Debug, Subcommand)]
enum AuthorityCommand {
    /// Replaces the authority by another one, without a stream or a connection that fails.
    ///
    /// The operator does it in three steps: everybody trusts both, the new one signs, the old one is dropped. Between
    /// them it waits until every proxy has been given its files, and three minutes for the files to arrive. This
    /// command asks for it and tells how far it is; interrupted and called again it follows the change under way.
    Rotate(authority::RotateArguments),
}

#[derive(Clone, Debug, Args)]
struct ReleaseArguments {
    /// The address, for example 192.0.2.7.
    address: IpAddr,
    /// Does not ask.
    #[arg(long, short)]
    yes: bool,
    /// Says what it would do, and does nothing.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error(transparent)]
    Api(#[from] api::Error),
    /// `account kubeconfig`.
    #[error(transparent)]
    Account(#[from] account::Error),
    /// `address release`.
    #[error(transparent)]
    Release(#[from] release::Error),
    /// `authority rotate`.
    #[error(transparent)]
    Authority(#[from] authority::Error),
    /// `restart`.
    #[error(transparent)]
    Restart(#[from] restart::Error),
    /// `preflight` found what keeps EPIC from working.
    #[error("this is not ready for EPIC; what begins with FAIL says what to do")]
    Preflight,
    /// Standard output is closed or full.
    #[error("cannot print: {0}")]
    Print(#[from] std::io::Error),
}

/// Does what the arguments say.
///
/// # Errors
/// What the command answers.
pub async fn run(arguments: Arguments) -> Result<(), Error> {
    if let Command::Preflight(wanted) = &arguments.command
        && wanted.node
    {
        return judged(wanted, &preflight::node::judge(&preflight::node::gather(wanted.port)));
    }
    if let Command::Node(NodeCommand::Shell(wanted)) = &arguments.command {
        return print(&node::shell(wanted, &arguments.connection));
    }
    let config = arguments.connection.config().await?;
    let client = api::client(config.clone())?;
    match arguments.command {
        Command::Get(get) => {
            let found = overview::gather(&client, get.account.as_deref()).await?;
            let overview = overview::judge::judge(&found, Timestamp::now());
            let text = match get.output {
                Form::Text => overview::render::render(&overview),
                Form::Json => overview::render::json(&overview),
            };
            print(&text)
        }
        Command::Explain(ExplainCommand::LoadBalancer(wanted)) => {
            let namespace = wanted.namespace.unwrap_or_else(|| config.default_namespace.clone());
            let found = explain::gather(&client, &namespace).await?;
            let subject = explain::Subject { namespace, name: wanted.name };
            let explanation = explain::explain(&found, &subject, Timestamp::now());
            let text = match wanted.output {
                Form::Text => explain::render(&explanation),
                Form::Json => explain::json(&explanation),
            };
            print(&text)
        }
        Command::Preflight(wanted) => {
            let facts = preflight::gather(&client, wanted.load_balancers, wanted.replicas).await?;
            judged(&wanted, &preflight::judge(&facts))
        }
        // Answered above, without an API server.
        Command::Node(_) => Ok(()),
        Command::Account(AccountCommand::Kubeconfig(kubeconfig)) => {
            let made = account::kubeconfig(&client, &config, &kubeconfig).await?;
            match &kubeconfig.file {
                Some(file) => account::write(file, &made.text)?,
                None => print(&made.text)?,
            }
            eprintln!("{}", made.note);
            Ok(())
        }
        Command::Authority(AuthorityCommand::Rotate(wanted)) => {
            Ok(authority::rotate(&client, &wanted, |text| println!("{text}")).await?)
        }
        Command::Restart(wanted) => print(&restart::restart(&client, &wanted, Timestamp::now()).await?),
        Command::Address(AddressCommand::Release(wanted)) => {
            let consent = match (wanted.dry_run, wanted.yes) {
                (true, _) => release::Consent::No,
                (false, true) => release::Consent::Yes,
                (false, false) => release::Consent::Ask,
            };
            Ok(release::release(&client, wanted.address, consent).await?)
        }
    }
}

/// Prints what was checked; an error where EPIC would not work.
fn judged(wanted: &PreflightArguments, checks: &[preflight::Check]) -> Result<(), Error> {
    let text = match wanted.output {
        Form::Text => preflight::render(checks),
        Form::Json => preflight::json(checks),
    };
    print(&text)?;
    if preflight::passes(checks) { Ok(()) } else { Err(Error::Preflight) }
}

/// Prints; a reader that has seen enough (`head`) is no error.
fn print(text: &str) -> Result<(), Error> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
