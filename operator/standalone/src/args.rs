//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgGroup, Parser};
use epic_lb::Location;
use epic_sources::file::parse_span;

/// The load-balancing control plane with maps in memory, and a prompt to look into it.
///
/// Sources, health checks and the reconciler work as on a node; nothing is forwarded. Commands come from standard input, with a
/// prompt on a terminal, or from --run; `help` lists them.
#[derive(Clone, Debug, Parser)]
#[command(name = "epic-lb", version)]
#[command(group = ArgGroup::new("source").args(["state", "kubeconfig", "services_socket", "etcd"]).required(true).multiple(true))]
#[command(group = ArgGroup::new("of-cluster").arg("load_balancer_class").requires("kubeconfig"))]
pub(crate) struct Args {
    /// Kubeconfig of a cluster whose Services, EndpointSlices and, for their host ports, Pods are followed.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,

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
    pub(crate) sources: epic_sources::Flags,
    #[command(flatten)]
    pub(crate) reconciler: epic_reconciler::Flags,
}

impl Args {
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
    fn what_makes_no_sense_is_refused() {
        assert!(parse("--backoff-min 2s --backoff-max 1s").reconciler.settings().is_err());
        for words in ["--batch 0", "--refresh soon", "--room 0", "--load-balancer-class edge"] {
            let words = format!("epic-lb --state f {words}");
            assert!(Args::try_parse_from(words.split_whitespace()).is_err(), "{words}");
        }
        assert!(Args::try_parse_from(["epic-lb", "--etcd-prefix", "/a"]).is_err(), "of which etcd?");
        assert!(Args::try_parse_from(["epic-lb"]).is_err(), "without a source there is nothing to do");
    }
}
