//! Commands and flags.

use std::io::Write as _;
use std::net::IpAddr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use k8s_openapi::jiff::Timestamp;

use crate::api::{self, Connection};
use crate::restart::{self, RestartCommand};
use crate::{account, authority, overview, release};

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
    /// What a tenant needs.
    #[command(subcommand)]
    Account(AccountCommand),
    /// Public addresses.
    #[command(subcommand)]
    Address(AddressCommand),
    /// The authority that proxies and xDS servers know each other by.
    #[command(subcommand)]
    Authority(AuthorityCommand),
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
    /// Standard output is closed or full.
    #[error("cannot print: {0}")]
    Print(#[from] std::io::Error),
}

/// Does what the arguments say.
///
/// # Errors
/// What the command answers.
pub async fn run(arguments: Arguments) -> Result<(), Error> {
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

/// Prints; a reader that has seen enough (`head`) is no error.
fn print(text: &str) -> Result<(), Error> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
