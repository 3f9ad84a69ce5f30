//! Why a packet was dropped: a closed list, index of the `drops` map and label of the metric.
//!
//! The order is part of the layout: add at the end, never renumber. `epic_drops_total{reason="…"}`.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet was dropped.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of the `drops` map.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The label of the metric: lower case, words joined by underscores. Never changes.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it means, for people.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// Something inside the packet ends before it should, or lengths contradict each other.
    Malformed = "malformed",
    /// The map `config` is not written yet.
    NotConfigured = "not_configured",
    /// A helper of the kernel refused to change the packet (memory, size, encapsulation state).
    KernelRefused = "kernel_refused",
    /// The GUE header is of another version, length, flags or protocol than EPIC's.
    GueHeader = "gue_header",
    /// An outer packet was fragmented on the way: some link is smaller than the configured MTU.
    OuterFragment = "outer_fragment",
    /// IPv6 where this version carries IPv4 only.
    Ipv6 = "ipv6",
    /// Neither TCP nor anything this version carries (UDP, SCTP, ICMP echo, a pod's VLAN and so on).
    Protocol = "protocol",
    /// An IP header with options.
    IpOptions = "ip_options",
    /// A fragment, which has no ports to find its way by.
    Fragment = "fragment",
    /// An ICMP error made by somebody else; not translated by this version.
    IcmpError = "icmp_error",
    /// No keys for the group and service named in the packet.
    UnknownService = "unknown_service",
    /// The key in the packet is none of the accepted ones.
    Key = "key",
    /// Right key, but the outer source is not where this tunnel's other end is known to be.
    OuterSource = "outer_source",
    /// The inner source is no endpoint (from a client) or no proxy address (to a client) of this service.
    InnerSource = "inner_source",
    /// The inner destination is no proxy (from a client) or no endpoint (to a client) of this service.
    InnerDestination = "inner_destination",
    /// The proxy named by the packet does not run on this node.
    ProxyElsewhere = "proxy_elsewhere",
    /// An address of a proxy outside any tunnel, as source or destination.
    BareProxyAddress = "bare_proxy_address",
    /// A VIP, but no service on that protocol and port.
    VipNoService = "vip_no_service",
    /// The client is outside the source ranges of the service.
    SourceRange = "source_range",
    /// The service has no proxy that takes new flows.
    NoProxy = "no_proxy",
    /// Too big for the leg to the proxy's node; answered with frag-needed.
    TooBigForNode = "too_big_for_node",
    /// Too big for the tunnel; answered with frag-needed.
    TooBigForTunnel = "too_big_for_tunnel",
    /// The other end of the tunnel has not called home yet; answered with host-unreachable.
    NoRemote = "no_remote",
    /// The tunnel an entry points to is not there.
    NoTunnel = "no_tunnel",
    /// A pod sent from an address that is not its own, or told its neighbours that it has another one.
    PodSource = "pod_source",
    /// A proxy sent to an alias that is none of its service, or to another port or protocol of it.
    UnknownAlias = "unknown_alias",
    /// A proxy sent something that is neither to an endpoint, nor a reply, nor explicitly allowed.
    ProxyNotAllowed = "proxy_not_allowed",
    /// A reply from a listener that would not leave by the public interface.
    ReplyNotPublic = "reply_not_public",
    /// The routing table refuses the destination (blackhole, prohibit, unreachable).
    NoRoute = "no_route",
    /// A control message from an address that is no EPIC node.
    ControlSource = "control_source",
    /// A packet for a proxy address that no tunnel leads to.
    NoProxyRoute = "no_proxy_route",
    /// A tenant's pod that is no listed proxy, not yet or no more, sent what neither its probes nor xDS need.
    NotListed = "not_listed",
    /// To a VIP from a source that nobody out there has: an alias, this node, the VIP, 0/8, 127/8 or 224/3.
    Martian = "martian",
}

/// Entries of the `drops` map; larger than the list so that reasons can be added without a new layout.
pub const DROPS_LEN: u32 = 64;

const _: () = assert!(DropReason::ALL.len() <= DROPS_LEN as usize);
