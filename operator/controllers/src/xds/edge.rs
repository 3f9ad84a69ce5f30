//! From a ServiceGroup to [`Edge`], the form that proxies are configured from. Pure.
//!
//! The schema keeps values out that cannot be meant. One that comes all the same, since it was stored before the schema
//! had its rule, is taken as the nearest one that can: a group never stops its LoadBalancers.

use std::time::Duration;

use epic_crds::{AccessLogFilter, Duration as Written, HealthCheck, ProxyProtocolVersion, ServiceGroupSpec};
use epic_model::address;
use epic_model::edge::{
    AccessLog, Check, ConnectionLimit, Edge, Limits, Listen, Passive, Probe, ProxyProtocol, RateLimit, Reach,
};

/// What `group` says, with every default in force.
pub(super) fn edge(group: &ServiceGroupSpec) -> Edge {
    Edge { listen: listen(group), reach: reach(group) }
}

fn listen(group: &ServiceGroupSpec) -> Listen {
    let defaults = Listen::default();
    let client = group.client.clone().unwrap_or_default();
    let idle = group.timeouts.as_ref().and_then(|timeouts| time(timeouts.idle.as_ref()));
    Listen {
        idle: idle.map_or(defaults.idle, |idle| (!idle.is_zero()).then_some(idle)),
        // Networks that cannot be read are not believed, and none at all lets nobody in: never the other way round.
        trusted_networks: client.proxy_protocol.map(|header| {
            let networks = header.trusted_networks.iter();
            networks.filter_map(|text| address::parse_network(text).ok()).collect()
        }),
        connection_limit: client.connection_limit.map(|limit| ConnectionLimit {
            value: count(limit.value),
            close_delay: time(limit.close_delay.as_ref()).unwrap_or_default(),
        }),
        rate_limit: client.rate_limit.map(|limit| {
            let per_second = count(limit.connections_per_second);
            RateLimit { per_second, burst: limit.burst.map_or(per_second, count).max(per_second) }
        }),
        access_log: access_log(group),
    }
}

fn access_log(group: &ServiceGroupSpec) -> AccessLog {
    let Some(log) = group.telemetry.as_ref().and_then(|telemetry| telemetry.access_log.as_ref()) else {
        return AccessLog::All;
    };
    match (log.disabled.unwrap_or_default(), log.filter.unwrap_or_default(), log.sample_percent) {
        (true, ..) => AccessLog::Off,
        (false, AccessLogFilter::Failures, _) => AccessLog::Sampled(0),
        (false, AccessLogFilter::All, None) => AccessLog::All,
        (false, AccessLogFilter::All, Some(share)) => match percent(share) {
            100 => AccessLog::All,
            share => AccessLog::Sampled(share),
        },
    }
}

fn reach(group: &ServiceGroupSpec) -> Reach {
    let defaults = Reach::default();
    let connect = group.timeouts.as_ref().and_then(|timeouts| time(timeouts.connect.as_ref()));
    let limits = group.circuit_breaker.as_ref().map(|breaker| Limits {
        connections: breaker.max_connections.map(count),
        pending: breaker.max_pending_requests.map(count),
        connections_per_endpoint: breaker.per_endpoint.as_ref().map(|each| count(each.max_connections)),
    });
    Reach {
        // Envoy refuses a cluster without time to connect.
        connect: connect.map_or(defaults.connect, |connect| connect.max(Duration::from_millis(1))),
        panic_threshold: group.panic_threshold.map_or(defaults.panic_threshold, percent),
        check: group.health_check.as_ref().and_then(check),
        passive: group.health_check.as_ref().map_or(defaults.passive, passive),
        proxy_protocol: group.proxy_protocol.as_ref().map(|header| match header.version {
            ProxyProtocolVersion::V1 => ProxyProtocol::V1,
            ProxyProtocolVersion::V2 => ProxyProtocol::V2,
        }),
        limits: limits.unwrap_or_default(),
    }
}

/// Endpoints are checked only where a probe is named.
fn check(written: &HealthCheck) -> Option<Check> {
    let probe = if let Some(http) = &written.http {
        let statuses = http.statuses.iter().flatten().filter_map(|status| u16::try_from(*status).ok());
        let statuses: Vec<u16> = statuses.collect();
        Probe::Http {
            path: http.path.clone(),
            host: http.host.clone(),
            statuses: if statuses.is_empty() { vec![200] } else { statuses },
        }
    } else if let Some(grpc) = &written.grpc {
        Probe::Grpc { service: grpc.service.clone().unwrap_or_default() }
    } else {
        written.tcp.as_ref().map(|_| Probe::Tcp)?
    };
    let defaults = Check::new(probe);
    Some(Check {
        interval: time(written.interval.as_ref()).unwrap_or(defaults.interval).max(Duration::from_secs(1)),
        timeout: time(written.timeout.as_ref()).unwrap_or(defaults.timeout).max(Duration::from_millis(1)),
        healthy_threshold: written.healthy_threshold.map_or(defaults.healthy_threshold, count),
        unhealthy_threshold: written.unhealthy_threshold.map_or(defaults.unhealthy_threshold, count),
        ..defaults
    })
}

fn passive(written: &HealthCheck) -> Passive {
    let defaults = Passive::default();
    let Some(written) = &written.passive else { return defaults };
    Passive {
        consecutive_failures: written.consecutive_failures.map_or(defaults.consecutive_failures, count),
        base_ejection: time(written.base_ejection_time.as_ref())
            .map_or(defaults.base_ejection, |time| time.max(Duration::from_secs(1))),
        max_ejection_percent: written.max_ejection_percent.map_or(defaults.max_ejection_percent, percent),
    }
}

fn time(written: Option<&Written>) -> Option<Duration> {
    written.and_then(|text| text.parse().ok())
}

fn count(written: i64) -> u32 {
    u32::try_from(written.max(1)).unwrap_or(u32::MAX)
}

fn percent(written: i64) -> u8 {
    u8::try_from(written.clamp(0, 100)).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(spec: Value) -> Edge {
        edge(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn a_group_that_says_nothing_gives_the_defaults() {
        assert_eq!(of(json!({})), Edge::default());
        assert_eq!(
            of(json!({"client": {}, "health-check": {}, "telemetry": {}, "timeouts": {}})),
            Edge::default()
        );
    }

    #[test]
    fn every_field_of_a_group_arrives() {
        let edge = of(json!({
            "timeouts": {"connect": "500ms", "idle": "5m"},
            "panic-threshold": 0,
            "proxy-protocol": {"version": "V1"},
            "client": {
                "proxy-protocol": {"trusted-networks": ["192.0.2.0/24", "2001:db8::/32"]},
                "connection-limit": {"value": 7, "close-delay": "1s"},
                "rate-limit": {"connections-per-second": 3, "burst": 9},
            },
            "circuit-breaker": {"max-connections": 1, "max-pending-requests": 2, "per-endpoint": {"max-connections": 3}},
            "health-check": {
                "interval": "3s", "timeout": "1s", "healthy-threshold": 2, "unhealthy-threshold": 4,
                "http": {"path": "/ok", "host": "a.example", "statuses": [200, 204]},
                "passive": {"consecutive-failures": 5, "base-ejection-time": "1m", "max-ejection-percent": 10},
            },
            "telemetry": {"access-log": {"sample-percent": 25}},
        }));
        let expected = Edge {
            listen: Listen {
                idle: Some(Duration::from_secs(300)),
                trusted_networks: Some(vec![
                    "192.0.2.0/24".parse().unwrap(),
                    "2001:db8::/32".parse().unwrap(),
                ]),
                connection_limit: Some(ConnectionLimit { value: 7, close_delay: Duration::from_secs(1) }),
                rate_limit: Some(RateLimit { per_second: 3, burst: 9 }),
                access_log: AccessLog::Sampled(25),
            },
            reach: Reach {
                connect: Duration::from_millis(500),
                panic_threshold: 0,
                check: Some(Check {
                    interval: Duration::from_secs(3),
                    timeout: Duration::from_secs(1),
                    healthy_threshold: 2,
                    unhealthy_threshold: 4,
                    port: None,
                    probe: Probe::Http {
                        path: "/ok".into(),
                        host: Some("a.example".into()),
                        statuses: vec![200, 204],
                    },
                }),
                passive: Passive {
                    consecutive_failures: 5,
                    base_ejection: Duration::from_secs(60),
                    max_ejection_percent: 10,
                },
                proxy_protocol: Some(ProxyProtocol::V1),
                limits: Limits { connections: Some(1), pending: Some(2), connections_per_endpoint: Some(3) },
            },
        };
        assert_eq!(edge, expected);
    }

    #[test]
    fn passive_checks_alone_switch_no_active_ones_on() {
        assert_eq!(of(json!({"health-check": {"passive": {"consecutive-failures": 1}}})).reach.check, None);
        assert_eq!(of(json!({"health-check": {"interval": "1s"}})).reach.check, None);
        let probes = [("tcp", json!({})), ("grpc", json!({})), ("http", json!({"path": "/"}))];
        for (probe, value) in probes {
            assert!(of(json!({"health-check": {probe: value}})).reach.check.is_some(), "{probe}");
        }
    }

    #[test]
    fn an_idle_time_of_zero_is_never() {
        assert_eq!(of(json!({"timeouts": {"idle": "0s"}})).listen.idle, None);
        assert_eq!(of(json!({"timeouts": {"idle": "nonsense"}})).listen.idle, Listen::default().idle);
    }

    #[test]
    fn networks_that_cannot_be_read_let_nobody_in() {
        let edge = of(json!({"client": {"proxy-protocol": {"trusted-networks": ["nonsense"]}}}));
        assert_eq!(edge.listen.trusted_networks, Some(vec![]));
    }

    #[test]
    fn logs_are_all_some_failures_or_none() {
        for (log, expected) in [
            (json!({}), AccessLog::All),
            (json!({"filter": "All", "sample-percent": 100}), AccessLog::All),
            (json!({"sample-percent": 1}), AccessLog::Sampled(1)),
            (json!({"filter": "Failures"}), AccessLog::Sampled(0)),
            (json!({"disabled": true}), AccessLog::Off),
            (json!({"disabled": false}), AccessLog::All),
        ] {
            assert_eq!(of(json!({"telemetry": {"access-log": log}})).listen.access_log, expected, "{log}");
        }
    }
}
