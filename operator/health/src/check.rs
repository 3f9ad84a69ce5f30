//! What is asked of a backend, how often, and how many answers make a verdict.
//!
//! One field of the API serves two checkers: Envoy's, for backends behind a proxy, and this one, for backends that
//! packets reach directly. So what a check means is Envoy's meaning wherever the API says nothing else.
//!
//! | question | Envoy | kubelet | here |
//! | --- | --- | --- | --- |
//! | first result | decides at once, both ways | counts like any other | decides at once, both ways |
//! | failures in a row | `unhealthy_threshold`; a wrong HTTP status or gRPC answer decides at once | `failureThreshold` | [`Check::unhealthy_threshold`]; for wrong answers see [`WrongAnswer`] |
//! | next probe | interval after the *result*, plus jitter | every period | interval after the result, plus jitter |
//! | timeout | covers connect, request and answer | the same | the same |
//! | connection | reused, or not if told so | a new one each time | a new one each time |
//! | TCP | connected | connected | connected |
//! | HTTP | 200, or listed statuses; redirects are not followed | 200 to 399; redirects to the same host are followed | listed statuses; redirects are not followed |
//! | gRPC | status OK and SERVING | status OK and SERVING | status OK and SERVING |
//!
//! Sources: Envoy's `config.core.v3.HealthCheck` and `health_checker_base_impl.cc`; kubelet's `pkg/probe`; the gRPC
//! health checking protocol, `grpc.health.v1`.

use std::sync::Arc;
use std::time::Duration;

use epic_model::edge;

/// A check. Targets share one behind an [`Arc`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub probe: Probe,
    /// From a result to the next probe.
    pub interval: Duration,
    /// The same while the target is unhealthy; `None`: as long as [`Check::interval`].
    pub unhealthy_interval: Option<Duration>,
    /// For connection, request and answer together.
    pub timeout: Duration,
    /// Good results in a row until healthy; zero counts as one.
    pub healthy_threshold: u32,
    /// Failures in a row until unhealthy; zero counts as one.
    pub unhealthy_threshold: u32,
    /// What an answer does that came, and is not the wanted one.
    pub wrong_answer: WrongAnswer,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Whether a connection is accepted.
    Tcp,
    /// What `GET path` of HTTP/1.1 is answered with.
    Http {
        /// Path, with a query if any.
        path: String,
        /// Host header; `None`: address and port.
        host: Option<String>,
        /// Good statuses; empty: 200.
        statuses: Vec<u16>,
    },
    /// What `grpc.health.v1.Health/Check` says.
    Grpc {
        /// Of this service; empty: of the server.
        service: String,
        /// `:authority` of the call; `None`: address and port.
        authority: Option<String>,
    },
}

/// What an answer does that came, and is not the wanted one: another HTTP status, NOT_SERVING.
///
/// Silence may be the network's fault, an answer is the target's word. Envoy takes that word at once and applies
/// `unhealthy_threshold` to silence alone, unless `retriable_statuses` says otherwise; kubelet counts both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WrongAnswer {
    /// It is one failure more.
    #[default]
    Counts,
    /// The target is unhealthy.
    Decides,
}

impl Check {
    /// A check with this probe and the defaults of the API for all else.
    pub fn new(probe: Probe) -> Self {
        let edge::Check { interval, timeout, healthy_threshold, unhealthy_threshold, .. } =
            edge::Check::new(edge::Probe::Tcp);
        Self {
            probe,
            interval,
            unhealthy_interval: None,
            timeout,
            healthy_threshold,
            unhealthy_threshold,
            wrong_answer: WrongAnswer::default(),
        }
    }

    /// The check of a ServiceGroup, in the name of `load_balancer` where the group names no host: the same name that
    /// proxies send.
    pub fn of_group(check: &edge::Check, load_balancer: &str) -> Arc<Self> {
        let probe = match &check.probe {
            edge::Probe::Tcp => Probe::Tcp,
            edge::Probe::Http { path, host, statuses } => Probe::Http {
                path: path.clone(),
                host: Some(host.clone().unwrap_or_else(|| load_balancer.to_owned())),
                statuses: statuses.clone(),
            },
            edge::Probe::Grpc { service } => {
                Probe::Grpc { service: service.clone(), authority: Some(load_balancer.to_owned()) }
            }
        };
        Arc::new(Self {
            probe,
            interval: check.interval,
            unhealthy_interval: None,
            timeout: check.timeout,
            healthy_threshold: check.healthy_threshold,
            unhealthy_threshold: check.unhealthy_threshold,
            // The API says of the threshold "failures in a row" and makes no difference between failures.
            wrong_answer: WrongAnswer::Counts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_of_a_group_says_what_a_proxy_would_say() {
        let group = edge::Check {
            interval: Duration::from_secs(7),
            ..edge::Check::new(edge::Probe::Http { path: "/ok".into(), host: None, statuses: vec![204] })
        };
        let check = Check::of_group(&group, "shop");
        assert_eq!(
            check.probe,
            Probe::Http { path: "/ok".into(), host: Some("shop".into()), statuses: vec![204] }
        );
        assert_eq!((check.interval, check.timeout), (Duration::from_secs(7), Duration::from_secs(2)));
        assert_eq!((check.healthy_threshold, check.unhealthy_threshold), (1, 3));

        let named =
            edge::Probe::Http { path: "/".into(), host: Some("a.example".into()), statuses: vec![200] };
        let named = Check::of_group(&edge::Check::new(named), "shop");
        assert!(matches!(&named.probe, Probe::Http { host: Some(host), .. } if host == "a.example"));

        let grpc = Check::of_group(&edge::Check::new(edge::Probe::Grpc { service: "s".into() }), "shop");
        assert_eq!(grpc.probe, Probe::Grpc { service: "s".into(), authority: Some("shop".into()) });
        assert_eq!(Check::of_group(&edge::Check::new(edge::Probe::Tcp), "shop").probe, Probe::Tcp);
    }
}
