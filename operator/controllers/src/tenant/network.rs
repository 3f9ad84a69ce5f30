//! The NetworkPolicy of a tenant's proxies, for clusters whose namespaces deny by default.
//!
//! It lets through what the data path needs, and is not what isolates tenants: that is the fence at each pod's veth,
//! which is narrower than a NetworkPolicy can be and acts with every CNI. Packets that our programs redirect pass most
//! CNIs' enforcement by; one whose programs come first sees the clients' packets, and answers whose flow it does not
//! know, so any client may be their destination. A proxy needs no DNS.

use epic_crds::FIRST_LISTENER_PORT;
use epic_crds::well_known::{EPIC_NAMESPACE, LABEL_LOAD_BALANCER};
use epic_xds::bootstrap::{OPS_PORT, XDS_PORT};
use serde_json::{Value, json};

use super::metadata;
use super::namespace::Tenant;

/// Name of the object.
pub const NAME: &str = "epic-proxies";

/// Last port that a listener can have: outgoing connections of the pods begin above it.
const LAST_LISTENER_PORT: u16 = 16_383;

/// The policy.
pub fn policy(tenant: &Tenant) -> Value {
    let listeners = |protocol: &str| json!({"protocol": protocol, "port": FIRST_LISTENER_PORT, "endPort": LAST_LISTENER_PORT});
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(&tenant.account, &tenant.namespace, NAME),
        "spec": {
            "podSelector": {"matchExpressions": [{"key": LABEL_LOAD_BALANCER, "operator": "Exists"}]},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                // Clients, wherever they are.
                {"ports": [listeners("TCP"), listeners("UDP")]},
                // Probes of the kubelet, and whoever collects metrics.
                {"ports": [{"protocol": "TCP", "port": OPS_PORT}]},
            ],
            "egress": [
                {
                    "to": [{
                        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": EPIC_NAMESPACE}},
                        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "epic-operator"}},
                    }],
                    "ports": [{"protocol": "TCP", "port": XDS_PORT}],
                },
                // Endpoints by their aliases, and answers to clients.
                {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}, {"ipBlock": {"cidr": "::/0"}}]},
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::networking::v1::NetworkPolicy;

    fn found() -> NetworkPolicy {
        let tenant = Tenant {
            account: "red".into(),
            namespace: "epic-red".into(),
            created: None,
            subjects: Vec::new(),
            system: "epic".into(),
        };
        serde_json::from_value(policy(&tenant)).unwrap()
    }

    #[test]
    fn a_proxy_is_reached_at_its_listeners_and_its_probe_and_reaches_the_xds_server() {
        let spec = found().spec.unwrap();
        let ingress = spec.ingress.unwrap();
        let admits = |protocol: &str, wanted: i32| {
            ingress
                .iter()
                .filter(|rule| rule.from.is_none())
                .flat_map(|rule| rule.ports.iter().flatten())
                .any(|port| {
                    let first = match &port.port {
                        Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(first)) => *first,
                        _ => return false,
                    };
                    port.protocol.as_deref() == Some(protocol)
                        && (first..=port.end_port.unwrap_or(first)).contains(&wanted)
                })
        };
        assert!(admits("TCP", 10_000) && admits("UDP", 16_383) && admits("TCP", 9901));
        assert!(!admits("TCP", 18_000) && !admits("TCP", 16_384) && !admits("UDP", 53));
        let egress = spec.egress.unwrap();
        let operator = &egress[0].to.as_ref().unwrap()[0];
        assert!(operator.namespace_selector.is_some() && operator.pod_selector.is_some());
        assert_eq!(spec.policy_types.unwrap(), ["Ingress", "Egress"]);
    }

    /// Everything else in the namespace stays under the policies of its owner.
    #[test]
    fn it_selects_proxies_alone() {
        let selector = found().spec.unwrap().pod_selector.unwrap();
        assert_eq!(selector.match_expressions.unwrap()[0].key, LABEL_LOAD_BALANCER);
    }
}
