//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use epic_lb::Location;
use epic_reconciler::{Backoff, Budget, Settings};
use epic_sources::file::parse_span;

/// The load-balancing control plane with maps in memory, and a prompt to look into it.
///
/// Sources, health checks and the reconciler work as on a node; nothing is forwarded. Commands come from standard input, with a
/// prompt on a terminal, or from --run; `help` lists them.
#[derive(Clone, Debug, Parser)]
#[command(name = "epic-lb", version)]
pub(crate) struct Args {
    /// State file with services (YAML). It is followed: replace it as a whole.
    #[arg(long, value_name = "FILE", required_unless_present = "kubeconfig")]
    pub(crate) state: Option<PathBuf>,
    /// Kubeconfig of a cluster whose Services and EndpointSlices are followed.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Of the cluster only Services of type LoadBalancer and this class. Absent: all Services.
    #[arg(long, value_name = "CLASS", requires = "kubeconfig")]
    pub(crate) load_balancer_class: Option<String>,
    /// Address of this node, at which node ports are served; may be given several times.
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

    /// Name of this node: for policy Local, preferences by place, and health check node ports.
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    pub(crate) node: String,
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

    /// Before a map operation that failed is tried again; it doubles with each failure.
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = parse_span)]
    backoff_min: Duration,
    /// At most so long.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_span)]
    backoff_max: Duration,
    /// Rows that one round of the reconciler renders.
    #[arg(long, value_name = "NUMBER", default_value_t = Budget::default().rows as u64, value_parser = clap::value_parser!(u64).range(1..))]
    budget_rows: u64,
    /// Map operations that one round tries.
    #[arg(long, value_name = "NUMBER", default_value_t = Budget::default().operations as u64, value_parser = clap::value_parser!(u64).range(1..))]
    budget_operations: u64,
    /// Map operations that are given to the maps at once.
    #[arg(long, value_name = "NUMBER", default_value_t = Settings::default().batch as u64, value_parser = clap::value_parser!(u64).range(1..))]
    batch: u64,
    /// A change of at most so many rows goes before all greater ones.
    #[arg(long, value_name = "NUMBER", default_value_t = Settings::default().small_change as u64)]
    small_change: u64,
    /// Between full passes that read the maps back.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_span)]
    refresh: Duration,
}

impl Args {
    /// Where selection takes place.
    pub(crate) fn location(&self) -> Location {
        let arc = |name: &String| Arc::from(name.as_str());
        Location {
            node: Some(arc(&self.node)),
            zone: self.zone.as_ref().map(arc),
            cluster: self.cluster.as_ref().map(arc),
        }
    }

    /// How the reconciler works.
    ///
    /// # Errors
    /// What does not fit together, and what to give instead.
    pub(crate) fn engine(&self) -> Result<Settings, String> {
        if self.backoff_min > self.backoff_max {
            return Err(format!(
                "--backoff-min {:?} is more than --backoff-max {:?}; give them the other way round",
                self.backoff_min, self.backoff_max
            ));
        }
        if self.refresh.is_zero() || self.backoff_min.is_zero() {
            return Err(
                "--refresh and --backoff-min are more than nothing; give for example 5m and 50ms".to_owned()
            );
        }
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Ok(Settings {
            backoff: Backoff { min: self.backoff_min, max: self.backoff_max },
            budget: Budget { rows: count(self.budget_rows), operations: count(self.budget_operations) },
            batch: count(self.batch),
            small_change: count(self.small_change),
            refresh: self.refresh,
            ..Settings::default()
        })
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
    fn without_flags_the_engine_works_as_it_does_in_an_agent() {
        assert_eq!(parse("").engine(), Ok(Settings::default()));
    }

    #[test]
    fn every_setting_of_the_engine_has_a_flag() {
        let args = parse(
            "--backoff-min 1s --backoff-max 2m --budget-rows 3 --budget-operations 4 --batch 5 --small-change 6 --refresh 7s",
        );
        let wanted = Settings {
            backoff: Backoff { min: Duration::from_secs(1), max: Duration::from_secs(120) },
            budget: Budget { rows: 3, operations: 4 },
            batch: 5,
            small_change: 6,
            refresh: Duration::from_secs(7),
            ..Settings::default()
        };
        assert_eq!(args.engine(), Ok(wanted));
    }

    #[test]
    fn what_would_never_get_on_is_refused_with_what_to_give_instead() {
        assert!(parse("--backoff-min 2s --backoff-max 1s").engine().unwrap_err().contains("other way round"));
        assert!(parse("--refresh 0s").engine().unwrap_err().contains("for example 5m"));
        for words in ["--batch 0", "--budget-rows 0", "--refresh soon", "--room 0"] {
            let words = format!("epic-lb --state f {words}");
            assert!(Args::try_parse_from(words.split_whitespace()).is_err(), "{words}");
        }
        assert!(Args::try_parse_from(["epic-lb"]).is_err(), "without a source there is nothing to do");
    }
}
