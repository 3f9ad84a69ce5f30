//! What a packet costs: each kind of packet by `BPF_PROG_TEST_RUN`, beside a program that does nothing and beside the object
//! of version 92d0f78, whose figures the design counts from.
//!
//! The shortest of many runs counts, and runs of the three take turns, since the machine does other things too. A run that
//! changes its packet is made once a call; others are repeated within it. `hack/bench-datapath` runs this long enough
//! for figures and judges them; as a test it makes sure that every kind of packet takes the way it is named after, in both
//! objects, and that code stays within its budgets.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use epic_abi::gue::OVERHEAD_V4;
use epic_abi::maps::Side;
use epic_datapath::Program::{self, ClientEgress, ClientIngress, FromProxy, Ingress};

use crate::frame::{ACK, addr, frame, gue, segment, tcp, udp};
use crate::kernel::{DROP, IFINDEX, Kernel, NEXT, REDIRECT, Routes};
use crate::scene::{self, DATA_KEY, LB, NODE_KEY};

/// The object that ratios are to.
const BASE: &[u8] = include_bytes!("../objects/layout-1.bpf.o");
/// Runs within a call for packets that stay as they are.
const REPEAT: u32 = 1_000;

/// Into a tunnel, and out of it.
const INTO: isize = OVERHEAD_V4 as isize;
const OUT: isize = -INTO;

/// A kind of packet.
struct Kind {
    row: &'static str,
    program: Program,
    frame: Vec<u8>,
    verdict: i32,
    /// The proxy that new flows get.
    proxy: u32,
    /// Bytes that the packet gains by the outer headers, or loses with them.
    grows: isize,
    /// Most nanoseconds above the empty program, if there is such a bar, and how much of the base object's at most.
    bars: (Option<f64>, Option<f64>),
}

fn kinds() -> Vec<Kind> {
    let kind =
        |row, program, frame, verdict, bars| Kind { row, program, frame, verdict, proxy: 1, grows: 0, bars };
    let data = |from, key, inner: &[u8]| gue(from, "198.51.100.1:6080", 3, 7, key, inner);
    let answer = segment("10.244.1.5:8080", "100.64.0.1:41000", b"pong");
    let from_node = segment("203.0.113.10:40000", "100.64.0.1:10001", b"GET /");
    let client = "198.51.100.2:50000";
    // Each from a port of its own: a known flow keeps its proxy.
    let request = |client| frame(&segment(client, "192.0.2.7:80", b"GET /"));
    let (local, remote) = (request("203.0.113.10:40000"), request("203.0.113.10:40001"));
    let foreign = frame(&segment("203.0.113.10:40000", "198.51.100.77:443", b"hello"));
    let no_service = frame(&segment("203.0.113.10:40000", "192.0.2.7:81", b"hello"));
    let unknown = gue(client, "198.51.100.1:6080", 9, 9, &DATA_KEY, &answer);
    let strange = data("198.51.100.66:50000", &DATA_KEY, &answer);
    let ns = |most| (Some(most), None);
    let of_base = |most| (None, Some(most));
    vec![
        kind("foreign", Ingress, foreign, NEXT, ns(25.0)),
        kind("unknown_service", Ingress, unknown, DROP, ns(55.0)),
        kind("wrong_key", Ingress, data(client, &[7; 16], &answer), DROP, ns(70.0)),
        kind("wrong_outer_source", Ingress, strange, DROP, ns(150.0)),
        kind("vip_without_service", Ingress, no_service, DROP, ns(90.0)),
        Kind {
            grows: OUT,
            ..kind("from_client", Ingress, data(client, &DATA_KEY, &answer), REDIRECT, of_base(0.8))
        },
        Kind {
            grows: OUT,
            ..kind(
                "from_node",
                Ingress,
                data("198.51.100.3:50000", &NODE_KEY, &from_node),
                REDIRECT,
                of_base(0.75),
            )
        },
        kind("vip_to_local_proxy", Ingress, local, REDIRECT, of_base(0.75)),
        Kind {
            proxy: 3,
            grows: INTO,
            ..kind("vip_to_remote_proxy", Ingress, remote, REDIRECT, of_base(0.8))
        },
        Kind {
            grows: INTO,
            ..kind(
                "proxy_to_tunnel",
                FromProxy,
                frame(&segment("10.244.1.7:41000", "100.127.0.7:8080", b"ping")),
                REDIRECT,
                of_base(0.85),
            )
        },
        kind(
            "reply",
            FromProxy,
            frame(&tcp(addr("10.244.1.7:10001"), addr("203.0.113.10:40000"), ACK, &[], b"200")),
            REDIRECT,
            of_base(0.7),
        ),
        kind(
            "client_foreign",
            ClientIngress,
            frame(&udp(addr("198.51.100.77:53"), addr("198.51.100.2:4000"), b"answer")),
            NEXT,
            ns(25.0),
        ),
        Kind {
            grows: OUT,
            ..kind(
                "client_in",
                ClientIngress,
                gue(
                    "198.51.100.1:50000",
                    "198.51.100.2:6080",
                    3,
                    7,
                    &DATA_KEY,
                    &segment("100.64.0.1:41000", "10.244.1.5:8080", b"ping"),
                ),
                REDIRECT,
                of_base(0.8),
            )
        },
        Kind { grows: INTO, ..kind("client_out", ClientEgress, frame(&answer), REDIRECT, of_base(0.85)) },
    ]
}

/// Programs of one object: those of a node and those of a client, with everything in their maps.
struct Object {
    node: Kernel,
    client: Kernel,
}

impl Object {
    fn load(bytes: &[u8], routes: Routes) -> Self {
        let node = scene::node_in(Kernel::load_object(Side::Node, bytes));
        let client = scene::client_in(Kernel::load_object(Side::Client, bytes));
        Self { node: scene::routed_in(node, routes), client }
    }

    fn of(&mut self, program: Program) -> &mut Kernel {
        match program.side() {
            Side::Client => &mut self.client,
            _ => &mut self.node,
        }
    }
}

#[test]
fn every_kind_of_packet_takes_its_way_and_costs_are_told() {
    let rounds: u32 = std::env::var("EPIC_BENCH_RUNS").map_or(3, |text| text.parse().expect("a number"));
    scene::in_netns(|routes| {
        let (mut ours, mut base) =
            (Object::load(epic_datapath::object_bytes(), routes), Object::load(BASE, routes));
        let nothing = empty();
        for kind in kinds() {
            for object in [&mut ours, &mut base] {
                let kernel = object.of(kind.program);
                if kind.program == Ingress {
                    kernel.set_maglev(LB, &[kind.proxy]);
                }
                let outcome = kernel.run(kind.program, &kind.frame);
                let grown = outcome.frame.len() as isize - kind.frame.len() as isize;
                assert_eq!((outcome.verdict, grown), (kind.verdict, kind.grows), "{}", kind.row);
            }
            let repeat = if kind.verdict == REDIRECT { 1 } else { REPEAT };
            let runs = if repeat == 1 { rounds * 500 } else { rounds };
            let mut least = [f64::MAX; 3];
            for _ in 0..runs {
                let fds = [
                    nothing.as_fd(),
                    ours.of(kind.program).program(kind.program).fd().unwrap().as_fd(),
                    base.of(kind.program).program(kind.program).fd().unwrap().as_fd(),
                ];
                for (least, fd) in least.iter_mut().zip(fds) {
                    *least = least.min(f64::from(run(fd, &kind.frame, repeat)));
                }
            }
            let [empty, ours, base] = least;
            print_row(&kind, ours - empty, base - empty);
        }
    });
}

/// A line of JSON for `hack/bench-datapath`.
fn print_row(kind: &Kind, ours: f64, base: f64) {
    let name = kind.row;
    let bar = |most: Option<f64>| most.map_or("null".to_owned(), |most| most.to_string());
    println!(r#"row {{"row": "{name}_ns", "value": {ours:.0}, "unit": "ns", "bar": {}}}"#, bar(kind.bars.0));
    let ratio = ours / base.max(1.0);
    println!(
        r#"row {{"row": "{name}_of_base", "value": {ratio:.2}, "unit": "", "bar": {}}}"#,
        bar(kind.bars.1)
    );
}

#[test]
fn code_stays_within_its_budgets() {
    // Instructions as the kernel runs them, and bytes of machine code (x86-64).
    let budgets = [
        (Ingress, 6_500, 30_000),
        (FromProxy, 5_000, 23_000),
        (ClientIngress, 2_600, 12_000),
        (ClientEgress, 2_400, 11_000),
    ];
    let (node, client) = (Kernel::load(Side::Node), Kernel::load(Side::Client));
    for (program, most_instructions, most_bytes) in budgets {
        let kernel = if program.side() == Side::Client { &client } else { &node };
        let info = kernel.program(program).info().unwrap();
        let instructions = info.size_translated().unwrap() / 8;
        let (bytes, verified) = (info.size_jitted(), info.verified_instruction_count().unwrap());
        let name = program.name();
        println!(
            r#"row {{"row": "{name}_instructions", "value": {instructions}, "unit": "", "bar": {most_instructions}}}"#
        );
        println!(r#"row {{"row": "{name}_bytes", "value": {bytes}, "unit": "B", "bar": {most_bytes}}}"#);
        println!(r#"row {{"row": "{name}_verified", "value": {verified}, "unit": "", "bar": 150000}}"#);
        assert!(instructions <= most_instructions, "{name}: {instructions} instructions");
        assert!(bytes <= most_bytes, "{name}: {bytes} bytes of machine code");
        assert!(verified <= 150_000, "{name}: the verifier looked at {verified} instructions");
    }
}

/// `struct bpf_attr` of `BPF_PROG_TEST_RUN`, without what came later.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    verdict: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
}

/// Nanoseconds of one run, on average of `repeat`.
fn run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> u32 {
    let context = Kernel::context(IFINDEX, 0);
    let mut attributes = TestRun {
        program: program.as_raw_fd() as u32,
        size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat,
        context_size_in: context.len() as u32,
        context_in: context.as_ptr() as u64,
        ..TestRun::default()
    };
    bpf(10, &mut attributes);
    attributes.duration
}

/// `struct bpf_attr` of `BPF_PROG_LOAD`, its beginning.
#[repr(C)]
struct Load {
    kind: u32,
    instructions: u32,
    at: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
}

/// A program that says TCX_NEXT and nothing else.
fn empty() -> OwnedFd {
    const SCHED_CLS: u32 = 3;
    // mov64 r0, -1; exit
    let instructions: [u64; 2] = [0xFFFF_FFFF_0000_00B7, 0x95];
    let mut attributes = Load {
        kind: SCHED_CLS,
        instructions: 2,
        at: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel: 0,
        flags: 0,
    };
    let fd = bpf(5, &mut attributes);
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn bpf<T>(command: i32, attributes: &mut T) -> i32 {
    // SAFETY: `attributes` is live and initialised, and its pointers are to buffers that outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    assert!(result >= 0, "bpf command {command}: {}", std::io::Error::last_os_error());
    result as i32
}
