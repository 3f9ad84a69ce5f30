//! What EPIC does with a packet, step by step, without a kernel.
//!
//! The programs of `ebpf-gue/programs` are this crate over the frames and maps of the kernel; tests, properties and
//! fuzzers are the same code over bytes and hash maps of a process (feature `std`). Three things are parameters:
//! the [`Frame`] that a packet lies in, the [`Maps`] that say what becomes of it, and the address [`Family`]s outside and
//! inside of tunnels. Protocols are values.
//!
//! A program is one `run` of [`ingress`], [`from_pod`], [`client_ingress`] or [`client_egress`]. Its steps return a
//! [`Step`]: a value, or the reason for which the packet is dropped. Nobody but [`finish`] ends a program: there
//! reasons and events are counted.
//!
//! This version carries TCP in IPv4 in IPv4, without IP options and without fragments. What else arrives for EPIC is
//! dropped under a reason; what is not EPIC's goes on. Frames of a VLAN are not EPIC's: it serves the link of the interface
//! itself, and a pod has none. Frames for another host's MAC address are not, either; what a pod sends is judged
//! whomever it is for.
//!
//! The order of steps within a packet is not free. Checks before changes: a refusal must quote the packet as its sender
//! knows it. NAT before encapsulation, decapsulation before NAT: the checksum helpers of the kernel know one offset. Every
//! change of a frame ends its [`Window`]s, which the borrow of the frame enforces.
//!
//! Rules for code that the verifier of the kernel reads:
//!
//! - The way of a packet is `inline(always)`: as functions, its steps were slower and saved no code. What is rare is a
//!   method of [`Frame`] that the programs put out of line.
//! - A panic must fold away: the handler of the programs calls a symbol that does not exist, and `hack/bpf` refuses
//!   an object with an undefined symbol. So the compiler has proven every offset into a [`Window`].
//! - What a program run at the same time may change, such as an index in the value of a map, is copied before it is
//!   checked.

#![no_std]

#[cfg(feature = "std")]
extern crate std;

pub mod client_egress;
pub mod client_ingress;
pub mod from_pod;
pub mod ingress;

mod arp;
#[cfg(feature = "std")]
mod bytes;
mod checksum;
mod choose;
mod encapsulate;
mod exit;
mod family;
mod frame;
mod gue;
mod icmp;
mod maps;
mod mss;
mod nat;
mod neighbour;
mod packet;
#[cfg(feature = "std")]
mod tables;
mod window;

#[cfg(feature = "std")]
pub use bytes::{Bytes, Route};
pub use exit::{Act, Step, Verdict, finish};
pub use family::{Carried, Family, Header, V4, V6};
pub use frame::{Frame, Way};
pub use icmp::build as build_answer;
pub use maps::Maps;
pub use mss::lower as lower_mss;
pub use packet::{Bare, ETH, Place, Within};
#[cfg(feature = "std")]
pub use tables::Tables;
pub use window::{Span, Window, Wire};
