//! One packet in, verdict, bytes and counters out: the programs by `BPF_PROG_TEST_RUN`.
//!
//! Needs root (CAP_BPF, CAP_NET_ADMIN) and a kernel with tcx; without, every test fails and says so. Nothing is
//! attached and no packet leaves: the kernel runs a program on a packet made for it. What depends on devices (GSO,
//! redirects, neighbours) is in the tests with namespaces.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod arp;
mod client;
mod cost;
mod differential;
mod fence;
mod foreign;
mod from_client;
mod kernel;
mod malformed;
mod mss;
mod nodes;
mod refusals;
mod scene;
mod sources;
mod to_client;
mod vip;

use epic_fuzz::frame;
