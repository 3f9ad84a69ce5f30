//! Flags and environment of the operator. Wiring only: behaviour belongs into the EPIC object.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use epic_crds::ProxySettings;

use crate::proxy::PullPolicy;

/// The EPIC operator: allocates IDs and addresses, runs proxies, and serves them over xDS.
#[derive(Clone, Debug, Parser)]
#[command(name = "epic-operator", version, about)]
pub struct Settings {
    /// What to do; without one: be the operator.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// File with the connection to the API server. Absent: KUBECONFIG, or what a pod finds in its file system.
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,

    /// Namespace of EPIC itself.
    #[arg(long, env = "EPIC_NAMESPACE", default_value = "epic")]
    pub namespace: String,

    /// Name of this replica in the Lease: the pod's name.
    #[arg(long, env = "POD_NAME", default_value = "epic-operator")]
    pub identity: String,

    /// Health and metrics over HTTP.
    #[arg(long, env = "EPIC_OPS_ADDRESS", default_value = "0.0.0.0:8080")]
    pub ops_address: SocketAddr,

    /// xDS over mutual TLS.
    #[arg(long, env = "EPIC_XDS_ADDRESS", default_value = "0.0.0.0:18000")]
    pub xds_address: SocketAddr,

    /// Service in front of the xDS port; its ClusterIP is what proxies connect to.
    #[arg(long, env = "EPIC_XDS_SERVICE", default_value = "epic-xds")]
    pub xds_service: String,

    /// Image of Envoy where neither EPIC nor the ServiceGroup names one.
    #[arg(long, env = "EPIC_ENVOY_IMAGE", default_value = "epic/envoy:dev")]
    pub envoy_image: String,

    /// When Envoy's image is pulled.
    #[arg(long, env = "EPIC_ENVOY_PULL_POLICY", value_enum, default_value_t)]
    pub envoy_pull_policy: PullPolicy,

    /// Where proxies run and with what, where neither EPIC nor the ServiceGroup says it: JSON, spelled as
    /// EPIC.spec.proxies.
    #[arg(long, env = "EPIC_PROXIES", default_value = "{}", value_parser = proxies)]
    pub proxies: ProxySettings,

    /// Whether each tenant namespace gets a NetworkPolicy that lets its proxies work where namespaces deny by default.
    #[arg(long, env = "EPIC_TENANT_NETWORK_POLICIES", default_value_t = true, action = clap::ArgAction::Set)]
    pub tenant_network_policies: bool,

    /// Time between two full passes, which make good what events missed.
    #[arg(long, env = "EPIC_FULL_PASS", default_value = "300", value_parser = seconds)]
    pub full_pass: Duration,

    /// Time from a step in a change of the xDS authority to the next: as long as the kubelets and the other replica may
    /// take to bring new files to all proxies and to read the Secret.
    #[arg(long, env = "EPIC_AUTHORITY_SETTLE", default_value = "180", value_parser = seconds)]
    pub authority_settle: Duration,

    /// Writes without asking for the Lease. For a single process under test.
    #[arg(long, env = "EPIC_NO_LEASE")]
    pub no_lease: bool,

    /// Serves no xDS; for tests of the control plane alone.
    #[arg(long, env = "EPIC_NO_XDS")]
    pub no_xds: bool,
}

/// What the process does other than being the operator.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Takes EPIC off the cluster before its chart is deleted: nodes detach, proxies and finalizers go.
    Uninstall(UninstallArguments),
}

/// Flags of `epic-operator uninstall`.
#[derive(Clone, Debug, Args)]
pub struct UninstallArguments {
    /// How long to wait for nodes to detach and for proxies to end. What is left then is listed.
    #[arg(long, env = "EPIC_UNINSTALL_WAIT", default_value = "60", value_parser = seconds)]
    pub wait: Duration,

    /// Takes EPIC up again on the objects that an uninstallation kept: removes its annotation, and does nothing else.
    #[arg(long)]
    pub undo: bool,

    /// Does what it is told only while Helm uninstalls the release of this name (with --undo: installs it, or rolls it
    /// back), by Helm's own record in the namespace. The chart's hooks say this: a tool that knows no hooks applies
    /// them like anything else. Absent: whoever gives the command means it.
    #[arg(long)]
    pub release: Option<String>,
}

fn proxies(text: &str) -> Result<ProxySettings, String> {
    let settings: ProxySettings = serde_json::from_str(text)
        .map_err(|error| format!("not of the form of EPIC.spec.proxies: {error}"))?;
    if !settings.rest.is_empty() {
        return Err(format!("EPIC.spec.proxies has no field of these: {:?}", settings.rest));
    }
    settings.memory_bytes().map_err(|error| error.to_string())?;
    Ok(settings)
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => Err("expected a number of seconds greater than 0".to_owned()),
    }
}
