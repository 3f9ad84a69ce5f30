//! The BPF programs of EPIC, all for tc: two on EPIC nodes, two on client nodes.
//!
//! | program | hook | does |
//! | --- | --- | --- |
//! | `epic_ingress` | NIC of an EPIC node, ingress | VIP → proxy, GUE from clients and nodes → proxy, ARP for VIPs |
//! | `epic_from_proxy` | host side of a proxy's veth, ingress | alias → tunnel, reply → internet, the rest dropped |
//! | `epic_client_ingress` | NIC of a client node, ingress | GUE → `epic0` |
//! | `epic_client_egress` | `epic0`, egress | proxy address → tunnel |
//!
//! This version carries TCP in IPv4 in IPv4, without IP options and without fragments. What else arrives for EPIC is
//! dropped and counted under a [`epic_abi::drop::DropReason`]; what is not EPIC's goes on with TCX_NEXT.
//! Frames of a VLAN are not EPIC's: it serves the link of the interface itself, and a pod has none. Frames for another
//! host's MAC address are not, either; what a pod sends is judged whomever it is for.
//!
//! The order of steps within a packet is not free. Direct access first and one linear stretch, because loading header
//! bytes by helper costs ten times as much. Checks before changes: a refusal must quote the packet as its sender
//! knows it. NAT before encapsulation, decapsulation before NAT: the checksum helpers know one offset. Every helper
//! that changes the packet invalidates all pointers into it, so they are taken anew after each.

#![no_std]
#![no_main]

mod arp;
mod client_egress;
mod client_ingress;
mod count;
mod fib;
mod frame;
mod from_proxy;
mod gue;
mod icmp;
mod ingress;
mod maps;
mod mss;
mod nat;
mod packet;
mod source;
mod tunnel;
mod verdict;
mod vip;

use aya_ebpf::{macros::classifier, programs::TcContext};

/// Ingress of an EPIC node's interfaces.
#[classifier]
pub fn epic_ingress(ctx: TcContext) -> i32 {
    ingress::run(&ctx)
}

/// Ingress of the host side of a proxy's veth: what the proxy sends.
#[classifier]
pub fn epic_from_proxy(ctx: TcContext) -> i32 {
    from_proxy::run(&ctx)
}

/// Ingress of the interface a client node's tunnels end at.
#[classifier]
pub fn epic_client_ingress(ctx: TcContext) -> i32 {
    client_ingress::run(&ctx)
}

/// Egress of `epic0`: what endpoints send to proxies.
#[classifier]
pub fn epic_client_egress(ctx: TcContext) -> i32 {
    client_egress::run(&ctx)
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
