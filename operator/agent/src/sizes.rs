//! Sizes of the BPF maps as flags of both agents, and as environment variables.

use clap::Args;
use epic_datapath::Sizes;

/// What the BPF maps have room for. To change it costs nothing but the memory of two sets of maps for some seconds.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(next_help_heading = "Sizes of BPF maps")]
pub struct SizeFlags {
    /// LoadBalancers, with four public ports and four proxies each on average.
    #[arg(long, env = "EPIC_MAX_LOAD_BALANCERS", value_name = "NUMBER", default_value_t = Sizes::default().load_balancers, value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    max_load_balancers: u32,
    /// Tunnels of this host.
    #[arg(long, env = "EPIC_MAX_TUNNELS", value_name = "NUMBER", default_value_t = Sizes::default().tunnels, value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    max_tunnels: u32,
    /// Endpoints of all LoadBalancers.
    #[arg(long, env = "EPIC_MAX_ENDPOINTS", value_name = "NUMBER", default_value_t = Sizes::default().endpoints, value_parser = clap::value_parser!(u32).range(16..=4_194_304))]
    max_endpoints: u32,
    /// Flows that keep their proxy when proxies come and go. The kernel holds about 110 bytes for each, used or not.
    #[arg(long, env = "EPIC_MAX_FLOWS", value_name = "NUMBER", default_value_t = Sizes::default().flows, value_parser = clap::value_parser!(u32).range(1_024..=16_777_216))]
    max_flows: u32,
}

impl SizeFlags {
    /// The sizes.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            load_balancers: self.max_load_balancers,
            tunnels: self.max_tunnels,
            endpoints: self.max_endpoints,
            flows: self.max_flows,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        sizes: SizeFlags,
    }

    fn parse(flags: &[&str]) -> Result<Sizes, clap::Error> {
        Program::try_parse_from(["program"].iter().chain(flags)).map(|program| program.sizes.sizes())
    }

    #[test]
    fn what_is_not_given_is_as_compiled_in() {
        assert_eq!(parse(&[]).ok(), Some(Sizes::default()));
        let given = parse(&["--max-flows", "1024", "--max-tunnels", "100"]).ok();
        assert_eq!(given, Some(Sizes { flows: 1_024, tunnels: 100, ..Sizes::default() }));
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_can() {
        let refused = parse(&["--max-flows", "7"]).unwrap_err().to_string();
        assert!(refused.contains("1024..=16777216"), "{refused}");
    }
}
