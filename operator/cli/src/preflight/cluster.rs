//! What the API server knows of a cluster, judged. Pure.

use std::net::IpAddr;

use epic_model::address;
use k8s_openapi::api::core::v1::{Container, Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt as _;

use super::gather::Facts;
use super::{Check, OLDEST_KERNEL, OLDEST_KUBERNETES, some, version};

/// Port of the node agent's health and metrics.
const AGENT_PORT: i32 = 9980;
/// What a proxy asks for where nothing else is set: memory in MiB.
const PROXY_MEBIBYTES: u64 = 256;
/// Where the command to set another range begins.
const RANGES: &str = "before the first LoadBalancer, set other ranges in the EPIC object: spec.proxy-addresses.ipv4 and spec.alias-addresses.ipv4";

/// All checks of a cluster.
pub fn judge(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![kubernetes(facts), pod_security(facts)];
    match &facts.nodes {
        None => checks.push(Check::unknown("nodes", "you may not list nodes")),
        Some(nodes) => {
            let linux: Vec<&Node> = nodes.iter().filter(|node| is_linux(node)).collect();
            checks.extend([kernels(&linux), architectures(&linux), addresses(&linux)]);
            checks.push(ranges(facts, &linux));
            checks.push(capacity(facts, &linux));
        }
    }
    checks.push(ports(facts));
    checks.extend(network_plugin(facts));
    checks
}

fn kubernetes(facts: &Facts) -> Check {
    const NAME: &str = "Kubernetes";
    let (major, minor) = OLDEST_KUBERNETES;
    match version(&facts.version) {
        None => Check::unknown(NAME, format!("its version {:?} cannot be read", facts.version)),
        Some(found) if found >= OLDEST_KUBERNETES => Check::ok(NAME, facts.version.clone()),
        Some(_) => Check::fail(
            NAME,
            format!("{} is older than {major}.{minor}", facts.version),
            "upgrade the cluster: EPIC's policies and native sleep of preStop need it",
        ),
    }
}

fn pod_security(facts: &Facts) -> Check {
    const NAME: &str = "PodSecurity";
    const LABEL: &str = "pod-security.kubernetes.io/enforce";
    let remedy = "kubectl apply -f config/namespace.yaml, or: kubectl create namespace epic; kubectl label namespace epic pod-security.kubernetes.io/enforce=privileged";
    let Some(namespace) = &facts.namespace else {
        return Check::warn(
            NAME,
            "namespace epic is not there; one that helm creates has no PodSecurity level, and a level that the cluster sets by default refuses the node agents",
            remedy,
        );
    };
    match namespace.labels().get(LABEL).map(String::as_str) {
        Some("privileged") => Check::ok(NAME, "namespace epic admits node agents"),
        Some(level) => {
            Check::fail(NAME, format!("namespace epic enforces {level}; node agents need privileged"), remedy)
        }
        None => Check::warn(
            NAME,
            "namespace epic has no PodSecurity level; where the cluster sets one by default, node agents are refused",
            remedy,
        ),
    }
}

fn is_linux(node: &Node) -> bool {
    node.labels().get("kubernetes.io/os").is_none_or(|os| os == "linux")
}

fn kernels(nodes: &[&Node]) -> Check {
    const NAME: &str = "kernels";
    let kernel = |node: &Node| Some(node.status.as_ref()?.node_info.as_ref()?.kernel_version.clone());
    let old: Vec<String> = nodes
        .iter()
        .filter_map(|node| {
            let kernel = kernel(node)?;
            (version(&kernel)? < OLDEST_KERNEL).then(|| format!("{} ({kernel})", node.name_any()))
        })
        .collect();
    let (major, minor) = OLDEST_KERNEL;
    match (old.len(), nodes.len()) {
        (0, all) => Check::ok(NAME, format!("{all} nodes with {major}.{minor} or newer")),
        (few, all) if few < all => Check::warn(
            NAME,
            format!("older than {major}.{minor}: {}", some(&old)),
            "keep agents away from them: agent.nodeSelector of the chart",
        ),
        _ => Check::fail(
            NAME,
            format!("older than {major}.{minor}: {}", some(&old)),
            "upgrade the kernel of some nodes",
        ),
    }
}

fn architectures(nodes: &[&Node]) -> Check {
    const NAME: &str = "architecture";
    let others: Vec<String> = nodes
        .iter()
        .filter_map(|node| {
            let architecture = node.labels().get("kubernetes.io/arch").filter(|arch| *arch != "amd64")?;
            Some(format!("{} ({architecture})", node.name_any()))
        })
        .collect();
    match (others.len(), nodes.len()) {
        (0, _) => Check::ok(NAME, "amd64 everywhere"),
        (few, all) if few < all => Check::warn(
            NAME,
            format!("the images are for amd64, and not for {}", some(&others)),
            "nothing with the chart's selectors, which name the architecture; to use these nodes build images for them",
        ),
        _ => Check::fail(NAME, "no node is amd64", "build images for your architecture: docs/install.md"),
    }
}

fn internal(node: &Node) -> impl Iterator<Item = IpAddr> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    addresses
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
}

fn addresses(nodes: &[&Node]) -> Check {
    const NAME: &str = "addresses";
    let lacking: Vec<String> = nodes
        .iter()
        .filter(|node| !internal(node).any(|address| address.is_ipv4()))
        .map(|node| node.name_any())
        .collect();
    match (lacking.len(), nodes.len()) {
        (0, _) => Check::ok(NAME, "every node has an IPv4 InternalIP"),
        (few, all) if few < all => Check::warn(
            NAME,
            format!("no IPv4 InternalIP: {}; they take no part", some(&lacking)),
            "give them one, or keep agents away from them: agent.nodeSelector of the chart",
        ),
        _ => Check::fail(
            NAME,
            "no node has an IPv4 InternalIP",
            "tunnels are IPv4: give the nodes such an address",
        ),
    }
}

/// EPIC's ranges of proxies and aliases against what the cluster uses.
fn ranges(facts: &Facts, nodes: &[&Node]) -> Check {
    const NAME: &str = "ranges";
    let spec = facts.epic.clone().unwrap_or_default();
    let own = [("proxies", spec.proxy_ipv4()), ("aliases", spec.alias_ipv4())];
    let mut used: Vec<(String, String)> = Vec::new();
    for node in nodes {
        let pods = node
            .spec
            .iter()
            .flat_map(|spec| spec.pod_cidrs.iter().flatten().cloned().chain(spec.pod_cidr.clone()));
        used.extend(pods.map(|network| (format!("pods of {}", node.name_any()), network)));
        used.extend(
            internal(node)
                .map(|address| (format!("node {}", node.name_any()), address::host(address).to_string())),
        );
    }
    used.extend(facts.service_networks.iter().map(|network| ("Services".to_owned(), network.clone())));
    let mut collisions = Vec::new();
    for (what, range) in own {
        let Ok(range) = address::parse_network(range) else { continue };
        for (whose, network) in &used {
            let Ok(network) = address::parse_network(network) else { continue };
            if range.contains(&network) || network.contains(&range) {
                collisions.push(format!("{range} ({what}) and {network} ({whose})"));
            }
        }
    }
    collisions.dedup();
    match collisions.is_empty() {
        true => Check::ok(
            NAME,
            format!("{} and {} are free in this cluster", spec.proxy_ipv4(), spec.alias_ipv4()),
        ),
        false => Check::fail(NAME, format!("these overlap: {}", some(&collisions)), RANGES),
    }
}

/// Whether as many proxies fit as were asked about.
fn capacity(facts: &Facts, nodes: &[&Node]) -> Check {
    const NAME: &str = "capacity";
    let proxies = facts.load_balancers * facts.replicas;
    let allocatable = |node: &Node, what: &str| -> u64 {
        let quantities = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        quantities.and_then(|quantities| quantities.get(what)).and_then(amount).unwrap_or(0)
    };
    let pods: u64 = nodes.iter().map(|node| allocatable(node, "pods")).sum();
    let mebibytes: u64 = nodes.iter().map(|node| allocatable(node, "memory") >> 20).sum();
    let fit = pods.min(mebibytes / PROXY_MEBIBYTES);
    let text = format!(
        "{proxies} proxies ({} load balancers x {}) of {fit} that fit {} nodes with nothing else on them",
        facts.load_balancers,
        facts.replicas,
        nodes.len()
    );
    match proxies <= fit {
        true => Check::ok(NAME, text),
        false => Check::warn(
            NAME,
            text,
            "add nodes, raise the kubelet's maxPods, or give proxies less memory (spec.proxies.resources)",
        ),
    }
}

/// A quantity in whole units: bytes, or pods.
fn amount(quantity: &Quantity) -> Option<u64> {
    let text = quantity.0.as_str();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let factor = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// Host ports that the agents need.
fn ports(facts: &Facts) -> Check {
    const NAME: &str = "ports";
    let gue = i32::from(facts.epic.clone().unwrap_or_default().gue_port());
    let Some(pods) = &facts.pods else { return Check::unknown(NAME, "you may not list pods") };
    let mut taken: Vec<String> = pods
        .iter()
        .filter(|pod| pod.namespace().as_deref() != Some(epic_crds::well_known::EPIC_NAMESPACE))
        .flat_map(|pod| host_ports(pod).map(move |(port, protocol)| (pod, port, protocol)))
        .filter(|(_, port, protocol)| {
            (*port == gue && protocol == "UDP") || (*port == AGENT_PORT && protocol == "TCP")
        })
        .map(|(pod, port, protocol)| {
            format!("{port}/{protocol} by {}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
        })
        .collect();
    taken.dedup();
    match taken.is_empty() {
        true => Check::ok(NAME, format!("no pod takes UDP {gue} or TCP {AGENT_PORT} of a node")),
        false => Check::fail(
            NAME,
            format!("taken on nodes: {}", some(&taken)),
            "set another spec.gue.port in the EPIC object, another agent.listen.port in the chart, or move that pod",
        ),
    }
}

fn host_ports(pod: &Pod) -> impl Iterator<Item = (i32, String)> {
    let on_host = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    let containers: &[Container] = pod.spec.as_ref().map_or(&[], |spec| spec.containers.as_slice());
    containers.iter().flat_map(|container| container.ports.iter().flatten()).filter_map(move |port| {
        let number = port.host_port.or_else(|| on_host.then_some(port.container_port))?;
        Some((number, port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())))
    })
}

/// Traps of network plugins.
fn network_plugin(facts: &Facts) -> Vec<Check> {
    const NAME: &str = "network";
    let mut checks = Vec::new();
    if let Some(cilium) = &facts.cilium {
        let is = |key: &str, values: &[&str]| {
            cilium.get(key).is_some_and(|value| values.contains(&value.as_str()))
        };
        let replaces =
            is("kube-proxy-replacement", &["true", "strict", "partial"]) || is("bpf-lb-sock", &["true"]);
        if replaces && !is("bpf-lb-sock-hostns-only", &["true"]) {
            checks.push(Check::fail(
                NAME,
                "Cilium translates Service addresses at the socket, so proxies call the operator by an address that their fence does not know",
                "set socketLB.hostNamespaceOnly=true (bpf-lb-sock-hostns-only) in Cilium",
            ));
        }
        if is("datapath-mode", &["netkit", "netkit-l2"]) {
            checks.push(Check::fail(
                NAME,
                "Cilium gives pods netkit devices; EPIC attaches to the host side of veth devices",
                "use Cilium's veth mode (bpf.datapathMode=veth)",
            ));
        }
    }
    if facts.calico_bpf {
        checks.push(Check::warn(
            NAME,
            "Calico's eBPF data plane has programs of its own on the same devices; this was not tried",
            "try it with one LoadBalancer first, or use Calico's standard data plane",
        ));
    }
    if checks.is_empty() {
        checks.push(Check::ok(NAME, facts.plugins.join(", ")));
    }
    checks
}
