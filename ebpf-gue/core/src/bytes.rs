//! A frame in the memory of a process.

use std::{rc::Rc, vec::Vec};

use epic_abi::{Ip, drop::DropReason};

use crate::{Carried, ETH, Family, Frame, Span, Step, Way, Window, checksum};

/// What the routing table says about a packet: source, destination, protocol and the interface that it came in by.
pub type Route = Rc<dyn Fn([Ip; 2], u8, u32) -> Way>;

/// A frame of bytes, changed as the kernel's helpers change one whose checksums are all filled in.
#[derive(Clone)]
pub struct Bytes {
    /// The frame.
    pub bytes: Vec<u8>,
    /// [`Frame::segment`]; 0 for no super-packet.
    pub segment: u32,
    /// Whether the kernel can make no room in it and take none, as of a super-packet that is not of TCP. Those that
    /// BPF_PROG_TEST_RUN makes are of no protocol.
    pub is_rigid: bool,
    /// [`Frame::ifindex`].
    pub ifindex: u32,
    /// MAC address of that interface.
    pub mac: [u8; 6],
    /// Whether a tag of a VLAN was taken off.
    pub is_tagged: bool,
    /// The routing table.
    pub route: Route,
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub now: u64,
}

impl Bytes {
    /// A frame that came by the interface `ifindex`, whose MAC address is zero, on a host whose destinations are all inside.
    pub fn new(bytes: Vec<u8>, ifindex: u32) -> Self {
        Self {
            bytes,
            segment: 0,
            is_rigid: false,
            ifindex,
            mac: [0; 6],
            is_tagged: false,
            route: Rc::new(|_, _, _| Way::Inside),
            now: 0,
        }
    }

    /// Makes `room` bytes behind the Ethernet header, or takes as many as it is negative.
    fn adjust(&mut self, room: isize) -> Step<()> {
        if self.is_rigid || self.bytes.len() < ETH + (-room).max(0).unsigned_abs() {
            return Err(DropReason::KernelRefused);
        }
        let at = ETH..ETH;
        if room > 0 {
            self.bytes.splice(at, core::iter::repeat_n(0, room.unsigned_abs()));
        } else {
            self.bytes.drain(ETH..ETH + room.unsigned_abs());
        }
        Ok(())
    }
}

impl Frame for Bytes {
    fn window<S: Span>(&mut self) -> Option<Window<'_, S>> {
        if self.bytes.len() < S::LEN {
            return None;
        }
        // SAFETY: so many bytes are there, and borrowed for as long as the window.
        Some(unsafe { Window::new(self.bytes.as_mut_ptr()) })
    }

    fn length(&self) -> usize {
        self.bytes.len()
    }

    fn packets(&self) -> u32 {
        if self.segment == 0 { 1 } else { 2 }
    }

    fn segment(&self) -> u32 {
        self.segment
    }

    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    fn is_tagged(&self) -> bool {
        self.is_tagged
    }

    fn is_foreign(&self) -> bool {
        let Some(window) = self.bytes.get(..ETH) else { return false };
        // Frames to groups are for everybody.
        window[0] & 1 == 0 && window[..6] != self.mac
    }

    fn push<O: Carried>(&mut self, end: usize) -> Step<()> {
        if self.segment == 0 {
            self.bytes.truncate(end);
        }
        self.adjust(O::OVERHEAD as isize)
    }

    fn pull<O: Carried>(&mut self) -> Step<()> {
        self.adjust(-(O::OVERHEAD as isize))
    }

    fn quote(&mut self, end: usize, room: usize) -> Step<()> {
        self.bytes.truncate(end);
        // What is cut is no super-packet any more.
        (self.segment, self.is_rigid) = (0, false);
        self.adjust(room as isize)
    }

    fn mend(&mut self, at: usize, addresses: u32, ports: [u32; 2]) -> Step<()> {
        let Some(field) = self.bytes.get(at..at + 2) else { return Err(DropReason::KernelRefused) };
        let mut check = u16::from_ne_bytes([field[0], field[1]]);
        check = checksum::replace(check, addresses);
        if ports[0] != ports[1] {
            check = checksum::replace_word(check, ports[0], ports[1]);
        }
        self.bytes[at..at + 2].copy_from_slice(&check.to_ne_bytes());
        Ok(())
    }

    fn word(&mut self, at: usize) -> Option<[u8; 4]> {
        self.bytes.get(at..at + 4)?.try_into().ok()
    }

    fn replace(&mut self, at: usize, bytes: [u8; 2], check: usize, sum: [u16; 2]) -> Step<()> {
        let is_there = |at: usize| self.bytes.len() >= at + 2;
        if !is_there(at) || !is_there(check) {
            return Err(DropReason::KernelRefused);
        }
        let old = u16::from_ne_bytes([self.bytes[check], self.bytes[check + 1]]);
        let new = checksum::replace_word(old, sum[0].into(), sum[1].into());
        self.bytes[check..check + 2].copy_from_slice(&new.to_ne_bytes());
        self.bytes[at..at + 2].copy_from_slice(&bytes);
        Ok(())
    }

    fn route<I: Family>(&mut self, addresses: [I::Address; 2], protocol: u8, ifindex: u32) -> Way {
        (self.route)(addresses.map(I::ip), protocol, ifindex)
    }

    fn now(&self) -> u64 {
        self.now
    }
}
