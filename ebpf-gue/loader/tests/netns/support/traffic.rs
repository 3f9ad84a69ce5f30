//! Real TCP in the lab: an endpoint that says who it is, a forwarder that stands for Envoy, and a client.
//!
//! The protocol: the client sends a line `UPLOAD TOTAL` and `UPLOAD` bytes of a pattern; the endpoint answers with
//! exactly `TOTAL` bytes, which begin with a line `NAME PEER` (peer: whom it sees) and go on with the pattern. So a
//! wrong answerer, a damaged byte and a stalled size are all seen by the client.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use epic_testnet::Netns;
use socket2::{Domain, Protocol, Socket, Type};

use super::eventually;

const CONNECT: Duration = Duration::from_secs(3);
const STALL: Duration = Duration::from_secs(4);
/// Servers bear with an idle connection for longer than any test keeps one, on an emulated machine too.
const IDLE: Duration = Duration::from_secs(600);
const ACCEPT_TICK: Duration = Duration::from_millis(50);

/// A listener with its threads; ends when dropped.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a client got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Who answered.
    pub(crate) name: String,
    /// Whom the endpoint saw.
    pub(crate) peer: SocketAddr,
}

/// An endpoint called `name`.
pub(crate) fn endpoint(netns: &Netns, port: u16, name: &str) -> Server {
    endpoint_with_gate(netns, port, name, Gate::open())
}

/// An endpoint that answers once the gate is open.
pub(crate) fn endpoint_with_gate(netns: &Netns, port: u16, name: &str, gate: Gate) -> Server {
    let name = name.to_owned();
    listen(netns, port, move |stream| answer(stream, &name, &gate))
}

/// Holds answers back, so that a test decides when an endpoint speaks first.
#[derive(Clone)]
pub(crate) struct Gate {
    open: Arc<AtomicBool>,
    waiting: Arc<AtomicUsize>,
}

impl Gate {
    fn open() -> Self {
        let gate = Self::closed();
        gate.release();
        gate
    }

    /// A closed gate.
    pub(crate) fn closed() -> Self {
        Self { open: Arc::new(AtomicBool::new(false)), waiting: Arc::new(AtomicUsize::new(0)) }
    }

    /// Answers that have been held back so far.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Lets all answers go.
    pub(crate) fn release(&self) {
        self.open.store(true, Ordering::Relaxed);
    }

    fn pass(&self) {
        if self.open.load(Ordering::Relaxed) {
            return;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        eventually("the gate opens", || self.open.load(Ordering::Relaxed));
    }
}

/// What a forwarder is told beside its targets.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Dialling {
    /// Local port of its outgoing connections; 0 lets the kernel choose.
    pub(crate) source_port: u16,
}

/// Stands for Envoy: every connection is forwarded to the next of `targets`.
pub(crate) fn forwarder(netns: &Netns, port: u16, targets: Vec<SocketAddr>, dialling: Dialling) -> Server {
    let next = AtomicUsize::new(0);
    listen(netns, port, move |inbound| {
        let target = targets[next.fetch_add(1, Ordering::Relaxed) % targets.len()];
        let outbound = dial(target, dialling.source_port)?;
        outbound.set_read_timeout(Some(IDLE))?;
        let (mut up_from, mut up_to) = (inbound.try_clone()?, outbound.try_clone()?);
        // Threads inherit the namespace of the one that starts them.
        let up = std::thread::spawn(move || {
            let _ = io::copy(&mut up_from, &mut up_to);
            let _ = up_to.shutdown(Shutdown::Write);
        });
        let (mut down_from, mut down_to) = (outbound, inbound);
        let copied = io::copy(&mut down_from, &mut down_to);
        let _ = down_to.shutdown(Shutdown::Both);
        let _ = up.join();
        copied.map(drop)
    })
}

/// A request from `netns`: `upload` bytes there, `total` bytes back.
pub(crate) fn request(netns: &Netns, to: SocketAddr, upload: usize, total: usize) -> io::Result<Answer> {
    netns.run(|| ask(dial(to, 0)?, upload, total))
}

/// `count` requests of one byte's upload and a hundred back, at most `parallel` at a time.
pub(crate) fn requests(
    netns: &Netns,
    to: SocketAddr,
    count: usize,
    parallel: usize,
    total: usize,
) -> Vec<io::Result<Answer>> {
    netns.run(|| {
        let left = AtomicUsize::new(count);
        let take = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..parallel)
                .map(|_| {
                    scope.spawn(|| {
                        let mut answers = Vec::new();
                        while take() {
                            answers.push(dial(to, 0).and_then(|stream| ask(stream, 1, total)));
                        }
                        answers
                    })
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("a client thread")).collect()
        })
    })
}

/// A connection that stays open; for tests of what happens to it.
pub(crate) struct Conversation {
    stream: TcpStream,
}

impl Conversation {
    /// Connects from `netns`.
    pub(crate) fn open(netns: &Netns, to: SocketAddr) -> io::Result<Self> {
        Ok(Self { stream: netns.run(|| dial(to, 0))? })
    }

    /// Sends the request, which ends the conversation with the answer.
    pub(crate) fn finish(self, upload: usize, total: usize) -> io::Result<Answer> {
        ask(self.stream, upload, total)
    }
}

fn dial(to: SocketAddr, source_port: u16) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if source_port != 0 {
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from(([0, 0, 0, 0], source_port)).into())?;
    }
    socket.connect_timeout(&to.into(), CONNECT)?;
    let stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn ask(mut stream: TcpStream, upload: usize, total: usize) -> io::Result<Answer> {
    let mut question = format!("{upload} {total}\n").into_bytes();
    question.extend(pattern(0, upload));
    stream.write_all(&question)?;
    let mut answer = Vec::with_capacity(total);
    stream.read_to_end(&mut answer)?;
    if answer.len() != total {
        return Err(broken(format!("{} bytes instead of {total}", answer.len())));
    }
    let head = answer.iter().position(|byte| *byte == b'\n').ok_or_else(|| broken("no line".to_owned()))?;
    let line = String::from_utf8_lossy(&answer[..head]).into_owned();
    let (name, peer) = line.split_once(' ').ok_or_else(|| broken(line.clone()))?;
    if answer[head + 1..] != pattern(head + 1, total) {
        return Err(broken("damaged bytes".to_owned()));
    }
    Ok(Answer { name: name.to_owned(), peer: peer.parse().map_err(|_| broken(line.clone()))? })
}

fn answer(stream: TcpStream, name: &str, gate: &Gate) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut numbers = line.split_whitespace().map(str::parse);
    let (Some(Ok(upload)), Some(Ok(total))) = (numbers.next(), numbers.next()) else {
        return Err(broken(format!("question {line:?}")));
    };
    let mut uploaded = vec![0; upload];
    reader.read_exact(&mut uploaded)?;
    gate.pass();
    let mut answer = if uploaded == pattern(0, upload) {
        format!("{name} {peer}\n").into_bytes()
    } else {
        format!("damaged-upload {peer}\n").into_bytes()
    };
    answer.extend(pattern(answer.len(), total));
    (&stream).write_all(&answer)?;
    stream.shutdown(Shutdown::Both)
}

/// Bytes `from..to` of the pattern.
fn pattern(from: usize, to: usize) -> Vec<u8> {
    (from..to).map(|at| (at.wrapping_mul(31) ^ (at >> 8)) as u8).collect()
}

fn broken(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn listen(
    netns: &Netns,
    port: u16,
    serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> Server {
    let open = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into())?;
        socket.listen(1024)?;
        // `accept` obeys it, so the thread can look at the stop flag.
        socket.set_read_timeout(Some(ACCEPT_TICK))?;
        io::Result::Ok(TcpListener::from(socket))
    };
    let mut listener = None;
    // A server before this one may not have given the port back yet.
    eventually("the port can be listened on", || {
        listener = netns.run(open).ok();
        listener.is_some()
    });
    let listener = listener.expect("opened");
    let stop = Arc::new(AtomicBool::new(false));
    let accepted = Arc::new(AtomicUsize::new(0));
    let (stopped, counted, serve) = (Arc::clone(&stop), Arc::clone(&accepted), Arc::new(serve));
    let thread = netns.spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            let Ok((stream, _)) = listener.accept() else { continue };
            counted.fetch_add(1, Ordering::Relaxed);
            let _ = stream.set_read_timeout(Some(IDLE));
            let _ = stream.set_write_timeout(Some(STALL));
            let _ = stream.set_nodelay(true);
            let serve = Arc::clone(&serve);
            // A connection that breaks is seen by the client that asked.
            std::thread::spawn(move || serve(stream));
        }
    });
    Server { stop, accepted, thread: Some(thread) }
}
