//! The BPF programs of EPIC, all for tc: two on EPIC nodes, two on client nodes.
//!
//! | program | hook | does |
//! | --- | --- | --- |
//! | `epic_ingress` | NIC of an EPIC node, ingress | VIP → proxy, GUE from clients and nodes → proxy, ARP for VIPs |
//! | `epic_from_proxy` | host side of a proxy's veth, ingress | alias → tunnel, reply → internet, the rest dropped |
//! | `epic_client_ingress` | NIC of a client node, ingress | GUE → `epic0` |
//! | `epic_client_egress` | `epic0`, egress | proxy address → tunnel |
//!
//! What they do with a packet is [`epic_core`]'s. Here is what the kernel adds to it: the maps, the frames of tc, and the
//! helper that carries out a verdict.

#![no_std]
#![no_main]

mod kernel;
mod skb;

use aya_ebpf::{
    bindings::BPF_F_INGRESS,
    helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer},
    macros::classifier,
    programs::TcContext,
};
use epic_core::{Act, Step, Verdict, client_egress, client_ingress, finish, from_pod, ingress};

use crate::{kernel::Kernel, skb::Skb};

/// TCX_NEXT.
const NEXT: i32 = -1;
/// TC_ACT_OK.
const PASS: i32 = 0;
/// TC_ACT_SHOT.
const SHOT: i32 = 2;

/// Ingress of an EPIC node's interfaces.
#[classifier]
pub fn epic_ingress(ctx: TcContext) -> i32 {
    let mut frame = Skb::new(&ctx);
    let step = ingress::run(&mut frame, &Kernel);
    end(&frame, step)
}

/// Ingress of the host side of a proxy's veth: what the proxy sends.
#[classifier]
pub fn epic_from_proxy(ctx: TcContext) -> i32 {
    let mut frame = Skb::new(&ctx);
    let step = from_pod::run(&mut frame, &Kernel);
    end(&frame, step)
}

/// Ingress of the interface a client node's tunnels end at.
#[classifier]
pub fn epic_client_ingress(ctx: TcContext) -> i32 {
    let mut frame = Skb::new(&ctx);
    let step = client_ingress::run(&mut frame, &Kernel);
    end(&frame, step)
}

/// Egress of `epic0`: what endpoints send to proxies.
#[classifier]
pub fn epic_client_egress(ctx: TcContext) -> i32 {
    let mut frame = Skb::new(&ctx);
    let step = client_egress::run(&mut frame, &Kernel);
    end(&frame, step)
}

/// The one exit: counts, and has the kernel do what was found right.
#[inline(always)]
fn end(frame: &Skb, step: Step<Verdict>) -> i32 {
    let code = match finish(&Kernel, step) {
        Act::Next => return NEXT,
        Act::Pass => return PASS,
        Act::Drop => return SHOT,
        // SAFETY: no pointers.
        Act::Peer(ifindex) => unsafe { bpf_redirect_peer(ifindex, 0) },
        // SAFETY: no parameters: the kernel looks the next hop up itself.
        Act::Neighbour(ifindex) => unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) },
        Act::Hop(ifindex) => frame.send(ifindex),
        // SAFETY: no pointers.
        Act::Into(ifindex) => unsafe { bpf_redirect(ifindex, BPF_F_INGRESS as u64) },
        // SAFETY: no pointers.
        Act::Back(ifindex) => unsafe { bpf_redirect(ifindex, 0) },
    };
    code as i32
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Calls what does not exist: where a panic has not been folded away, the object has an undefined symbol, which
/// `hack/bpf` refuses.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    unsafe extern "C" {
        fn a_panic_is_left_in_the_programs() -> !;
    }
    // SAFETY: never linked.
    unsafe { a_panic_is_left_in_the_programs() }
}
