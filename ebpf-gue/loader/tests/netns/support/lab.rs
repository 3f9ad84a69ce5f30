//! Hosts and links, without EPIC: what a site looks like before an agent comes.

use std::net::Ipv4Addr;

use epic_testnet::{Netns, Offloads, set_offloads, veth};

/// The host that stands for everybody on the internet; same link as the nodes.
pub(crate) const INTERNET: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 100);
/// The outside of the NAT in front of client 1.
pub(crate) const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 20);
/// Name of every host's interface to the outside.
pub(crate) const NIC: &str = "nic0";
/// Name of the client's device.
pub(crate) const DEVICE: &str = "epic0";
/// MAC address of the client's device.
pub(crate) const DEVICE_MAC: [u8; 6] = [2, 0, b'E', b'P', b'I', b'C'];

/// A host with pods behind a bridge.
pub(crate) struct Host {
    /// Its namespace.
    pub(crate) netns: Netns,
    /// Its address on the outside.
    pub(crate) address: Ipv4Addr,
}

impl Host {
    /// Index of an interface.
    pub(crate) fn ifindex(&self, name: &str) -> u32 {
        ifindex(&self.netns, name)
    }

    /// MAC address of an interface.
    pub(crate) fn mac(&self, name: &str) -> [u8; 6] {
        mac(&self.netns, name)
    }

    /// Adds a pod behind the bridge `cni0`; the host's side is named after the last byte of its address.
    pub(crate) fn pod(&self, address: Ipv4Addr) -> Pod {
        let netns = Netns::new("pod");
        let [a, b, c, d] = address.octets();
        let host_side = format!("veth{d}");
        veth(&self.netns, &host_side, &netns, "eth0");
        self.netns.ip(&format!("link set {host_side} master cni0"));
        netns.ip_batch(&format!(
            "addr add {address}/24 dev eth0\n\
             route add default via {a}.{b}.{c}.1\n"
        ));
        let ifindex = self.ifindex(&host_side);
        Pod { netns, address, host_side, ifindex }
    }
}

/// A namespace behind a host's bridge: a proxy or an endpoint.
pub(crate) struct Pod {
    /// Its namespace.
    pub(crate) netns: Netns,
    /// Its address.
    pub(crate) address: Ipv4Addr,
    /// Name of the veth's end on the host.
    pub(crate) host_side: String,
    /// Index of the veth's end on the host.
    pub(crate) ifindex: u32,
}

/// All hosts.
pub(crate) struct Site {
    /// The link between them.
    pub(crate) switch: Netns,
    /// Somebody on the internet.
    pub(crate) internet: Netns,
    /// EPIC nodes.
    pub(crate) nodes: Vec<Host>,
    /// The NAT router in front of client 1.
    pub(crate) router: Netns,
    /// Client nodes: 0 on the link, 1 behind the router.
    pub(crate) clients: Vec<Host>,
}

impl Site {
    /// Builds everything. Pods and endpoints are added by the test.
    pub(crate) fn new() -> Self {
        let switch = Netns::new("switch");
        switch.ip_batch("link add br0 type bridge\nlink set br0 up\n");
        let plug = |netns: &Netns, name: &str, port: &str, address: Ipv4Addr| {
            veth(&switch, port, netns, name);
            switch.ip(&format!("link set {port} master br0"));
            netns.ip(&format!("addr add {address}/24 dev {name}"));
        };
        let internet = Netns::new("internet");
        plug(&internet, NIC, "internet", INTERNET);
        let router = Netns::new("router");
        plug(&router, "wan0", "router", ROUTER);
        let node = |number: u8| {
            let host = Host { netns: Netns::new("node"), address: Ipv4Addr::new(192, 168, 77, 11 + number) };
            plug(&host.netns, NIC, &format!("node{number}"), host.address);
            bridge(&host.netns, Ipv4Addr::new(10, 244, 1 + number, 1));
            host
        };
        let nodes = vec![node(0), node(1)];
        let near = Host { netns: Netns::new("client"), address: Ipv4Addr::new(192, 168, 77, 21) };
        plug(&near.netns, NIC, "client0", near.address);
        let far = Host { netns: Netns::new("client"), address: Ipv4Addr::new(192, 168, 78, 2) };
        veth(&router, "lan0", &far.netns, NIC);
        router.ip("addr add 192.168.78.1/24 dev lan0");
        far.netns.ip_batch("addr add 192.168.78.2/24 dev nic0\nroute add default via 192.168.78.1\n");
        router.sysctl("net/ipv4/ip_forward", "1");
        router.feed(
            "nft",
            &["-f", "-"],
            "table ip nat {\n chain post {\n type nat hook postrouting priority 100\n oifname wan0 masquerade random\n }\n}\n",
        );
        let clients = vec![near, far];
        for client in &clients {
            bridge(&client.netns, Ipv4Addr::new(10, 244, 1, 1));
            // What the agent's device module does.
            let [a, b, c, d, e, f] = DEVICE_MAC;
            client.netns.ip_batch(&format!(
                "link add {DEVICE} address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} type bridge mcast_snooping 0\n\
                 link set {DEVICE} addrgenmode none\n\
                 link set {DEVICE} arp off mtu 1448 up\n\
                 route add 100.64.0.0/11 dev {DEVICE}\n"
            ));
        }
        for host in nodes.iter().chain(&clients) {
            host.netns.sysctl("net/ipv4/ip_forward", "1");
            host.netns.sysctl("net/ipv4/conf/all/rp_filter", "1");
        }
        Self { switch, internet, nodes, router, clients }
    }

    /// Sets the offloads of every outer link, both ends. Pods are left to [`Site::pod_offloads`].
    pub(crate) fn offloads(&self, offloads: Offloads) {
        set_offloads(&self.internet, NIC, offloads);
        for host in self.nodes.iter().chain(&self.clients) {
            set_offloads(&host.netns, NIC, offloads);
        }
        for port in ["internet", "router", "node0", "node1", "client0"] {
            set_offloads(&self.switch, port, offloads);
        }
        set_offloads(&self.router, "wan0", offloads);
        set_offloads(&self.router, "lan0", offloads);
    }
}

impl Pod {
    /// Sets the offloads of the veth, both ends.
    pub(crate) fn offloads(&self, host: &Host, offloads: Offloads) {
        set_offloads(&self.netns, "eth0", offloads);
        set_offloads(&host.netns, &self.host_side, offloads);
    }
}

fn bridge(netns: &Netns, gateway: Ipv4Addr) {
    netns.ip_batch(&format!(
        "link add cni0 type bridge\n\
         addr add {gateway}/24 dev cni0\n\
         link set cni0 up\n"
    ));
}

/// MAC address of an interface of a namespace.
pub(crate) fn mac(netns: &Netns, name: &str) -> [u8; 6] {
    let shown = netns.ip(&format!("-o link show {name}"));
    let text = shown.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a MAC");
    let bytes: Vec<_> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect();
    bytes.try_into().expect("six bytes")
}

/// Index of an interface of a namespace.
pub(crate) fn ifindex(netns: &Netns, name: &str) -> u32 {
    let shown = netns.ip(&format!("-o link show {name}"));
    shown.split(':').next().expect("an index").trim().parse().expect("a number")
}
