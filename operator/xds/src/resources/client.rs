//! What a listener asks of those who connect. All of it is absent from the listener of a group that asks for nothing.

use envoy_types::pb::envoy::config::core::v3::CidrRange;
use envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChainMatch, ListenerFilter, filter, listener_filter,
};
use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use envoy_types::pb::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit;
use envoy_types::pb::envoy::extensions::filters::network::local_ratelimit::v3::LocalRateLimit;
use envoy_types::pb::envoy::r#type::v3::TokenBucket;
use envoy_types::pb::google::protobuf::{Any, Duration, UInt64Value};
use envoy_types::util::pack_any;
use epic_model::edge::Listen;
use ipnet::IpNet;

use super::{duration, seconds, uint};

/// Reads the PROXY header. It judges nobody: [`chain_match`] does.
pub(super) fn listener_filters(listen: &Listen) -> Vec<ListenerFilter> {
    let reads_header = listen.trusted_networks.is_some();
    let filter = || ListenerFilter {
        name: "envoy.filters.listener.proxy_protocol".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(pack_any(ProxyProtocol::default()))),
        ..ListenerFilter::default()
    };
    reads_header.then(filter).into_iter().collect()
}

/// How long a header may take. Who sends nothing is closed then: Envoy's 15 s would be a long time for many of them.
pub(super) fn listener_filters_timeout(listen: &Listen) -> Option<Duration> {
    listen.trusted_networks.as_ref().and_then(|_| seconds(5))
}

/// Lets trusted networks in, by the address that the packets come from and not by the one in the header. Envoy closes a
/// connection that fits no filter chain: whatever an untrusted one claims, it reaches nobody.
pub(super) fn chain_match(listen: &Listen) -> Option<FilterChainMatch> {
    let networks = listen.trusted_networks.as_ref()?;
    // No range at all would match everybody; one that no packet comes from matches nobody.
    let nobody = CidrRange { address_prefix: "255.255.255.255".to_owned(), prefix_len: uint(32) };
    let ranges = networks.iter().map(range);
    Some(FilterChainMatch {
        direct_source_prefix_ranges: if networks.is_empty() { vec![nobody] } else { ranges.collect() },
        ..FilterChainMatch::default()
    })
}

fn range(network: &IpNet) -> CidrRange {
    CidrRange { address_prefix: network.network().to_string(), prefix_len: uint(network.prefix_len().into()) }
}

/// Filters before the proxy: who comes too fast is closed first, and so counts for no limit.
pub(super) fn filters(listen: &Listen, name: &str) -> Vec<Filter> {
    let rate = listen.rate_limit.map(|limit| {
        let config = LocalRateLimit {
            stat_prefix: name.to_owned(),
            token_bucket: Some(TokenBucket {
                max_tokens: limit.burst,
                tokens_per_fill: uint(limit.per_second),
                fill_interval: seconds(1),
            }),
            ..LocalRateLimit::default()
        };
        filter("envoy.filters.network.local_ratelimit", pack_any(config))
    });
    let limit = listen.connection_limit.map(|limit| {
        let config = ConnectionLimit {
            stat_prefix: name.to_owned(),
            max_connections: Some(UInt64Value { value: limit.value.into() }),
            delay: (!limit.close_delay.is_zero()).then(|| duration(limit.close_delay)).flatten(),
            ..ConnectionLimit::default()
        };
        filter("envoy.filters.network.connection_limit", pack_any(config))
    });
    rate.into_iter().chain(limit).collect()
}

/// A network filter.
pub(super) fn filter(name: &str, config: Any) -> Filter {
    Filter { name: name.to_owned(), config_type: Some(filter::ConfigType::TypedConfig(config)) }
}
