//! What the kernel has found out about a frame before a program sees it: its VLAN tag, and whom it is for.

use aya_ebpf::programs::TcContext;

/// The VLAN id within a tag; the other bits are a priority.
const VLAN_ID: u32 = 0x0FFF;
/// PACKET_OTHERHOST.
const OTHER_HOST: u32 = 3;

/// Whether the frame belongs to a VLAN.
///
/// The kernel takes the tag off before programs run, so the bytes look like those of an untagged frame. On the
/// interface of that VLAN, where the host has one, the tag is gone here, too. Id 0 is no VLAN but a mere priority.
#[inline(always)]
pub fn is_tagged(ctx: &TcContext) -> bool {
    // SAFETY: a field of the context, read only. It is 0 where there is no tag.
    unsafe { (*ctx.skb.skb).vlan_tci & VLAN_ID != 0 }
}

/// Whether the frame is for the MAC address of another host. A promiscuous interface (a capture, a bridge's port) next
/// to a switch that floods gets such ones; the stack takes none of them, and their own host gets its copy.
#[inline(always)]
pub fn is_foreign(ctx: &TcContext) -> bool {
    // SAFETY: a field of the context, read only.
    unsafe { (*ctx.skb.skb).pkt_type == OTHER_HOST }
}
