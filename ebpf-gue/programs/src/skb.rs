//! The frames of tc.

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO,
        BPF_F_PSEUDO_HDR, BPF_FIB_LOOKUP_SKIP_NEIGH, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_fib_lookup,
        bpf_redir_neigh,
    },
    helpers::generated::{
        self, bpf_ktime_get_ns, bpf_l4_csum_replace, bpf_redirect_neigh, bpf_set_hash_invalid,
        bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use epic_abi::drop::DropReason;
use epic_core::{Carried, Family, Frame, Maps, Span, Step, V4, Way, Window, build_answer, lower_mss};

use crate::kernel::Kernel;

/// The VLAN id within a tag; the other bits are a priority.
const VLAN_ID: u32 = 0x0FFF;
/// PACKET_OTHERHOST.
const OTHER_HOST: u32 = 3;
/// More than the headers of any packet that is carried.
const LINEAR: u32 = 160;
/// The kernel's answer when the packet is encapsulated already: it keeps that mark of a packet that came through a
/// tunnel on a virtual link.
const EALREADY: i64 = -114;

/// Family IPv4.
const AF_INET: u8 = 2;
/// Family IPv6.
const AF_INET6: u8 = 10;
/// Results of the route lookup (`BPF_FIB_LKUP_RET_*`).
const SUCCESS: i64 = 0;
const BLACKHOLE: i64 = 1;
const PROHIBIT: i64 = 3;
const FORWARDING_OFF: i64 = 5;
const NO_NEIGHBOUR: i64 = 7;
const FRAG_NEEDED: i64 = 8;

/// A frame of tc. Ethernet is at offset 0 at all our hooks.
pub struct Skb {
    skb: *mut __sk_buff,
    /// The next hop of the last route that was found.
    hop: Option<Hop>,
}

/// A next hop: `bpf_redir_neigh` of the kernel.
#[repr(C)]
#[derive(Clone, Copy)]
struct Hop {
    family: u32,
    address: [u32; 4],
}

const _: () = assert!(size_of::<Hop>() == size_of::<bpf_redir_neigh>());

impl Skb {
    /// The frame of a program, its headers made linear. Done once: looking for bytes in fragments at every header would
    /// cost more.
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        let frame = Self { skb: ctx.skb.skb, hop: None };
        let linear = frame.end() - frame.start();
        if linear < LINEAR as usize && linear < frame.length() {
            let wanted = if frame.length() < LINEAR as usize { frame.length() as u32 } else { LINEAR };
            // SAFETY: the context is the kernel's. Where it fails, windows do not open.
            unsafe { bpf_skb_pull_data(frame.skb, wanted) };
        }
        frame
    }

    /// Sends the frame out of `ifindex`, to the next hop that was found, or that the kernel finds for its destination.
    #[inline(always)]
    pub fn send(&self, ifindex: u32) -> i64 {
        match self.hop {
            // SAFETY: Hop has the layout of the kernel's struct (size asserted above).
            Some(mut hop) => unsafe {
                bpf_redirect_neigh(ifindex, (&raw mut hop).cast(), size_of::<Hop>() as i32, 0)
            },
            // SAFETY: no parameters.
            None => unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) },
        }
    }

    #[inline(always)]
    fn start(&self) -> usize {
        // SAFETY: a field of the context.
        unsafe { (*self.skb).data as usize }
    }

    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: a field of the context.
        unsafe { (*self.skb).data_end as usize }
    }
}

/// What a helper has answered.
#[inline(always)]
fn done(answer: i64) -> Step<()> {
    if answer == 0 { Ok(()) } else { Err(DropReason::KernelRefused) }
}

impl Frame for Skb {
    #[inline(always)]
    fn window<S: Span>(&mut self) -> Option<Window<'_, S>> {
        let data = self.start();
        if data + S::LEN > self.end() {
            return None;
        }
        // SAFETY: compared with the end, as the verifier wants it.
        Some(unsafe { Window::new(data as *mut u8) })
    }

    #[inline(always)]
    fn length(&self) -> usize {
        // SAFETY: a field of the context.
        unsafe { (*self.skb).len as usize }
    }

    #[inline(always)]
    fn packets(&self) -> u32 {
        // SAFETY: a field of the context.
        let segments = unsafe { (*self.skb).gso_segs };
        if segments > 1 { segments } else { 1 }
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        // SAFETY: a field of the context.
        unsafe { (*self.skb).gso_size }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: a field of the context.
        unsafe { (*self.skb).ifindex }
    }

    #[inline(always)]
    fn is_tagged(&self) -> bool {
        // SAFETY: a field of the context. It is 0 where there is no tag.
        unsafe { (*self.skb).vlan_tci & VLAN_ID != 0 }
    }

    #[inline(always)]
    fn is_foreign(&self) -> bool {
        // SAFETY: a field of the context.
        unsafe { (*self.skb).pkt_type == OTHER_HOST }
    }

    #[inline(always)]
    fn push<O: Carried>(&mut self, end: usize) -> Step<()> {
        const { assert!(O::ETHERTYPE == V4::ETHERTYPE, "the kernel's mark of a tunnel over IPv4") };
        // FIXED_GSO: segments keep their size (lowering it wastes bytes and refuses UDP segmentation).
        let plain = BPF_F_ADJ_ROOM_FIXED_GSO as u64;
        let tunnel = plain | (BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP) as u64;
        let has_no_segments = self.segment() == 0;
        // SAFETY: the context is the kernel's.
        unsafe {
            // Short frames come padded from a NIC. Inside a tunnel the padding would belong to the UDP payload.
            if has_no_segments && self.length() > end {
                done(bpf_skb_change_tail(self.skb, end as u32, 0))?;
            }
            let room = O::OVERHEAD as i32;
            let mut answer = bpf_skb_adjust_room(self.skb, room, BPF_ADJ_ROOM_MAC, tunnel);
            if answer == EALREADY && has_no_segments {
                // Without segmentation to come, the kernel need not know that this is a tunnel.
                answer = bpf_skb_adjust_room(self.skb, room, BPF_ADJ_ROOM_MAC, plain);
            }
            done(answer)?;
            // The hash of the inner flow would choose queues for the outer one.
            bpf_set_hash_invalid(self.skb);
        }
        Ok(())
    }

    #[inline(always)]
    fn pull<O: Carried>(&mut self) -> Step<()> {
        let flags = BPF_F_ADJ_ROOM_FIXED_GSO as u64;
        // SAFETY: the context is the kernel's.
        done(unsafe { bpf_skb_adjust_room(self.skb, -(O::OVERHEAD as i32), BPF_ADJ_ROOM_MAC, flags) })
    }

    #[inline(always)]
    fn quote(&mut self, end: usize, room: usize) -> Step<()> {
        // SAFETY: the context is the kernel's.
        unsafe {
            done(bpf_skb_change_tail(self.skb, end as u32, 0))?;
            done(bpf_skb_adjust_room(self.skb, room as i32, BPF_ADJ_ROOM_MAC, 0))
        }
    }

    #[inline(always)]
    fn mend(&mut self, at: usize, addresses: u32, ports: [u32; 2]) -> Step<()> {
        // SAFETY: the context is the kernel's.
        unsafe {
            // The addresses are part of the pseudo header. Without the flag a CHECKSUM_PARTIAL packet, whose field holds only
            // the pseudo header's sum, would be left as it is and leave with a wrong checksum. Size 0: the last value is
            // a difference.
            let flags = BPF_F_PSEUDO_HDR as u64;
            done(bpf_l4_csum_replace(self.skb, at as u32, 0, addresses as u64, flags))?;
            if ports[0] == ports[1] {
                return Ok(());
            }
            done(bpf_l4_csum_replace(self.skb, at as u32, ports[0] as u64, ports[1] as u64, 4))
        }
    }

    #[inline(always)]
    fn word(&mut self, at: usize) -> Option<[u8; 4]> {
        let mut word = [0u8; 4];
        let skb = self.skb.cast_const().cast();
        // SAFETY: four bytes to write to.
        let answer = unsafe { bpf_skb_load_bytes(skb, at as u32, word.as_mut_ptr().cast(), 4) };
        if answer == 0 { Some(word) } else { None }
    }

    #[inline(always)]
    fn replace(&mut self, at: usize, bytes: [u8; 2], check: usize, sum: [u16; 2]) -> Step<()> {
        // SAFETY: the context is the kernel's, the value two bytes.
        unsafe {
            done(bpf_l4_csum_replace(self.skb, check as u32, sum[0] as u64, sum[1] as u64, 2))?;
            done(bpf_skb_store_bytes(self.skb, at as u32, bytes.as_ptr().cast(), 2, 0))
        }
    }

    #[inline(always)]
    fn route<I: Family>(&mut self, [from, to]: [I::Address; 2], protocol: u8, ifindex: u32) -> Way {
        let is_v4 = I::ETHERTYPE == V4::ETHERTYPE;
        let pair = |low: u32, high: u32| low as u64 | ((high as u64) << 32);
        let words = |address| {
            let [a, b, c, d] = I::ip(address).words;
            if is_v4 { [d as u64, 0] } else { [pair(a, b), pair(c, d)] }
        };
        let mut params = Params {
            family: if is_v4 { AF_INET } else { AF_INET6 },
            protocol,
            source_port: 0,
            destination_port: 0,
            // 0: tunnels and frag-needed are our own business.
            total: 0,
            ifindex,
            tos: 0,
            source: words(from),
            destination: words(to),
            answer: [0; 2],
        };
        // SAFETY: Params has the layout of the kernel's struct (size asserted below).
        let answer = unsafe {
            generated::bpf_fib_lookup(
                self.skb.cast(),
                (&raw mut params).cast(),
                size_of::<Params>() as i32,
                BPF_FIB_LOOKUP_SKIP_NEIGH,
            )
        };
        match answer {
            // Asked without a length, the kernel holds the frame against the MTU of the interface that it has found.
            SUCCESS | NO_NEIGHBOUR | FRAG_NEEDED => {
                // The kernel has put the next hop where the destination was; its family need not be the packet's.
                let [low, high] = params.destination;
                let address = [low as u32, (low >> 32) as u32, high as u32, (high >> 32) as u32];
                self.hop = Some(Hop { family: params.family as u32, address });
                Way::Interface(params.ifindex)
            }
            // Forwarding is off on the interface, so the kernel does not say. Proxies work without forwarding.
            FORWARDING_OFF => Way::Interface(ifindex),
            BLACKHOLE..=PROHIBIT => Way::Refused,
            _ => Way::Inside,
        }
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: no arguments.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn answer(&mut self, kind: u32, rest: u32) -> Step<()> {
        done(answer(self.skb, kind, rest))
    }

    #[inline(always)]
    fn lower_mss<M: Maps>(&mut self, _: &M, options: usize, limit: u16) -> Step<()> {
        done(lower(self.skb, options, limit))
    }
}

/// The parameters of the route lookup: `bpf_fib_lookup` of the kernel without its unions. In words of 64 bits, as zeroing
/// narrower ones would become calls of memset.
#[repr(C)]
struct Params {
    family: u8,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
    total: u16,
    ifindex: u32,
    tos: u32,
    source: [u64; 2],
    destination: [u64; 2],
    /// VLAN and MAC addresses of the next hop, which are not asked for.
    answer: [u64; 2],
}

const _: () = assert!(size_of::<Params>() == size_of::<bpf_fib_lookup>());

// Functions of their own for the verifier and the stack: few packets come here. Fixed symbols: mangled ones depend on
// where the source lies, and the object shall not. One word for an answer: more does not fit the register.

/// [`build_answer`]; 0 when it is done.
#[unsafe(export_name = "epic_icmp_build")]
#[inline(never)]
fn answer(skb: *mut __sk_buff, kind: u32, rest: u32) -> i64 {
    build_answer(&mut Skb { skb, hop: None }, kind, rest).is_err() as i64
}

/// [`lower_mss`]; 0 when it is done, or there was nothing to do.
#[unsafe(export_name = "epic_mss_lower")]
#[inline(never)]
fn lower(skb: *mut __sk_buff, options: usize, limit: u16) -> i64 {
    lower_mss(&mut Skb { skb, hop: None }, &Kernel, options, limit).is_err() as i64
}
