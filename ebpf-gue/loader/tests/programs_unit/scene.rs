//! The hosts that all tests play on, in the kernel.

use epic_abi::maps::{CONFIG_KEY, Config, Side};
use epic_testnet::Netns;

use crate::kernel::Kernel;

pub(crate) use epic_fuzz::scene::*;

/// An EPIC node with everything in its maps.
pub(crate) fn node() -> Kernel {
    node_in(Kernel::load(Side::Node))
}

/// The same in programs that are loaded already.
pub(crate) fn node_in(mut kernel: Kernel) -> Kernel {
    epic_fuzz::scene::node(&mut kernel);
    kernel
}

/// A client node with everything in its maps.
pub(crate) fn client() -> Kernel {
    client_in(Kernel::load(Side::Client))
}

/// The same in programs that are loaded already.
pub(crate) fn client_in(mut kernel: Kernel) -> Kernel {
    epic_fuzz::scene::client(&mut kernel);
    kernel
}

/// A kernel in a namespace whose default route is interface `nic`, and whose pods are behind `cni`.
pub(crate) fn routed<T: Send>(work: impl FnOnce(&mut Kernel) -> T + Send) -> T {
    in_netns(|routes| work(&mut routed_in(node(), routes)))
}

/// The same with more links, addresses, routes and rules, as `ip` takes them.
pub(crate) fn routed_by<T: Send>(commands: &[&str], work: impl FnOnce(&mut Kernel) -> T + Send) -> T {
    in_netns_with(commands, |routes| work(&mut routed_in(node(), routes)))
}

/// The same in programs that are loaded already, in such a namespace.
pub(crate) fn routed_in(mut kernel: Kernel, routes: Routes) -> Kernel {
    let Routes { nic, .. } = routes;
    kernel.set("config", CONFIG_KEY, Config { public_ifindex: nic, underlay_ifindex: nic, ..config() });
    kernel.routes = Some(routes);
    kernel
}

/// Such a namespace; `work` is told its interfaces.
pub(crate) fn in_netns<T: Send>(work: impl FnOnce(Routes) -> T + Send) -> T {
    in_netns_with(&[], work)
}

fn in_netns_with<T: Send>(commands: &[&str], work: impl FnOnce(Routes) -> T + Send) -> T {
    let netns = Netns::new("bpf-unit");
    netns.ip("link add nic type veth peer name wire");
    netns.ip("link add cni type veth peer name pod");
    for device in ["lo", "nic", "wire", "cni", "pod"] {
        netns.ip(&format!("link set {device} up"));
    }
    netns.ip("address add 198.51.100.1/24 dev nic");
    netns.ip("address add 10.244.1.1/24 dev cni");
    netns.ip("route add default via 198.51.100.254 dev nic");
    netns.ip("route add blackhole 192.0.2.128/25");
    netns.sysctl("net/ipv4/ip_forward", "1");
    for command in commands {
        netns.ip(command);
    }
    let index = |device: &str| -> u32 {
        let link = netns.ip(&format!("-o link show {device}"));
        link.split(':').next().unwrap().trim().parse().unwrap()
    };
    let routes = Routes { nic: index("nic"), cni: index("cni") };
    netns.run(|| work(routes))
}
