//! What a client agent has to know besides its own objects.

use epic_abi::{gue, hello};
use epic_crds::SourcePorts;
use epic_crds::well_known::CONFIG_MAP_CLIENT;
use serde_json::{Value, json};

use super::metadata;

/// The facts in ConfigMap `epic-client`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// Proxy addresses of IPv4, a CIDR.
    pub proxies_ipv4: Option<String>,
    /// Proxy addresses of IPv6, a CIDR.
    pub proxies_ipv6: Option<String>,
    /// UDP port of GUE.
    pub port: u16,
    /// UDP source ports of packets in tunnels.
    pub source_ports: SourcePorts,
}

/// Key of the IPv4 proxy range in the ConfigMap.
pub const PROXIES_IPV4: &str = "proxy-addresses.ipv4";
/// Key of the IPv6 proxy range.
pub const PROXIES_IPV6: &str = "proxy-addresses.ipv6";
/// Key of the UDP port of GUE.
pub const PORT: &str = "gue.port";
/// Key of the UDP source ports of packets in tunnels, `Fixed` or `Flow`.
pub const SOURCE_PORTS: &str = "gue.source-ports";
/// Key of the bytes a tunnel adds to a packet of IPv4: a client's MTU is that of its underlay less this.
pub const OVERHEAD: &str = "gue.overhead.ipv4";
/// Key of the GUE variant and hello version this EPIC speaks, `<variant>/<hello>`.
pub const VERSIONS: &str = "protocol.versions";

/// The ConfigMap.
pub fn client_config(account: &str, namespace: &str, config: &ClientConfig) -> Value {
    let mut content = serde_json::Map::new();
    for (key, range) in [(PROXIES_IPV4, &config.proxies_ipv4), (PROXIES_IPV6, &config.proxies_ipv6)] {
        if let Some(range) = range {
            content.insert(key.to_owned(), range.as_str().into());
        }
    }
    content.insert(PORT.to_owned(), config.port.to_string().into());
    content.insert(SOURCE_PORTS.to_owned(), json!(config.source_ports));
    content.insert(OVERHEAD.to_owned(), gue::OVERHEAD_V4.to_string().into());
    content.insert(VERSIONS.to_owned(), format!("0/{}", hello::VERSION).into());
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(account, namespace, CONFIG_MAP_CLIENT),
        "data": content,
    })
}
