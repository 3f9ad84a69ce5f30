//! What programs count besides drops and tunnels: a closed list, index of the `stats` map.
//!
//! The order is part of the layout: add at the end, never renumber. `epic_packets_total{event="…"}`. Packets are
//! packets as they go over the wire: a segmentation super-packet counts as its segments.

macro_rules! events {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Something worth counting that is not a drop.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Event {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Event {
            /// Every event, in the order of the `stats` map.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The label of the metric. Never changes.
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

events! {
    /// ARP requests for an owned VIP that were answered.
    ArpAnswered = "arp_answered",
    /// Packets from the internet given to a proxy on this node.
    VipLocal = "vip_local",
    /// Packets from the internet sent on to the node of their proxy.
    VipToNode = "vip_to_node",
    /// Packets taken from another EPIC node.
    FromNode = "from_node",
    /// Replies of proxies that left for the internet.
    Reply = "reply",
    /// Flows entered into the flow table.
    FlowNew = "flow_new",
    /// Flows not entered because the cap on new flows was reached; they went by Maglev alone.
    FlowCapped = "flow_capped",
    /// Flows whose proxy was gone, and that were given to another.
    FlowMoved = "flow_moved",
    /// Packets of a proxy passed to the node by an explicit entry (xDS, untunnelled endpoints).
    Passed = "passed",
    /// Replies to probes and scrapes, passed to the node.
    PassedOps = "passed_ops",
    /// Frag-needed messages made here.
    FragNeeded = "frag_needed",
    /// Host-unreachable messages made here.
    HostUnreachable = "host_unreachable",
    /// SYN and SYN-ACK packets whose MSS was lowered.
    MssClamped = "mss_clamped",
    /// Control messages given to the agent.
    Control = "control",
    /// Proxy addresses learned from packets by a client node.
    ProxyLearned = "proxy_learned",
}

/// Entries of the `stats` map; larger than the list so that events can be added without a new layout.
pub const STATS_LEN: u32 = 32;

const _: () = assert!(Event::ALL.len() <= STATS_LEN as usize);
