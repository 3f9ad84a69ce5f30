//! Where the routing table would send a packet.

use aya_ebpf::{
    bindings::{BPF_FIB_LOOKUP_SKIP_NEIGH, bpf_fib_lookup},
    helpers::generated,
    programs::TcContext,
};

use crate::packet::Tcp;

/// Family IPv4.
const AF_INET: u8 = 2;
/// Results of the lookup (`BPF_FIB_LKUP_RET_*`).
const SUCCESS: i64 = 0;
const BLACKHOLE: i64 = 1;
const PROHIBIT: i64 = 3;
const FORWARDING_OFF: i64 = 5;
const NO_NEIGHBOUR: i64 = 7;

/// Where a destination lies.
pub enum Way {
    /// Behind this interface.
    Interface(u32),
    /// On this host, or behind a device of the pod network that is no plain route.
    Inside,
    /// The table says blackhole, unreachable or prohibit.
    Refused,
}

/// The parameters of the helper: `bpf_fib_lookup` of the kernel without its unions.
#[repr(C)]
struct Params {
    family: u8,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
    total: u16,
    ifindex: u32,
    tos: u32,
    source: [u32; 4],
    destination: [u32; 4],
    vlan: u32,
    macs: [u32; 3],
}

const _: () = assert!(size_of::<Params>() == size_of::<bpf_fib_lookup>());

/// Looks up the way of `tcp` as if it had come in by `ifindex`.
#[inline(always)]
pub fn way(ctx: &TcContext, tcp: &Tcp, ifindex: u32) -> Way {
    let mut params = Params {
        family: AF_INET,
        protocol: epic_abi::PROTOCOL_TCP,
        source_port: 0,
        destination_port: 0,
        // 0: no check of the MTU; tunnels and frag-needed are our own business.
        total: 0,
        ifindex,
        tos: 0,
        source: [tcp.source, 0, 0, 0],
        destination: [tcp.destination, 0, 0, 0],
        vlan: 0,
        macs: [0; 3],
    };
    // SAFETY: Params has the layout of the kernel's struct (size asserted above).
    let rc = unsafe {
        generated::bpf_fib_lookup(
            ctx.skb.skb.cast(),
            (&raw mut params).cast(),
            size_of::<Params>() as i32,
            BPF_FIB_LOOKUP_SKIP_NEIGH,
        )
    };
    match rc {
        SUCCESS | NO_NEIGHBOUR => Way::Interface(params.ifindex),
        // Forwarding is off on the interface, so the kernel does not say. Proxies work without forwarding.
        FORWARDING_OFF => Way::Interface(ifindex),
        BLACKHOLE..=PROHIBIT => Way::Refused,
        _ => Way::Inside,
    }
}
