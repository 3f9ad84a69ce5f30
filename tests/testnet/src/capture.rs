//! Captures of the frames that an interface receives and sends.
//!
//! A packet socket sees a received frame before any tc program and a sent one after it, so on a tunnel's end it shows
//! what was really on the wire. With segmentation offload a captured frame may be one large packet.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Netns;

const ETHERNET_HEADER: usize = 14;
const RECEIVE_BUFFER: libc::c_int = 32 << 20;
const LARGEST_FRAME: usize = 1 << 17;

/// A captured frame.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Sent by the interface, not received.
    pub outgoing: bool,
    /// The whole frame with its Ethernet header.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// The IPv4 packet in the frame, if it carries one.
    pub fn ipv4(&self) -> Option<&[u8]> {
        (self.bytes.len() > ETHERNET_HEADER && self.bytes[12..14] == [0x08, 0x00])
            .then(|| &self.bytes[ETHERNET_HEADER..])
    }
}

/// A running capture.
pub struct Capture {
    frames: Receiver<Frame>,
    seen: Vec<Frame>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Starts capturing on an interface of `netns`; frames from now on are seen.
    pub fn start(netns: &Netns, interface: &str) -> Self {
        let socket = netns.run(|| open(interface).unwrap_or_else(|e| panic!("capture on {interface}: {e}")));
        let (sender, frames) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || read(&socket, &sender, &stopped));
        Self { frames, seen: Vec::new(), stop, thread: Some(thread) }
    }

    /// Waits until the frames seen so far satisfy `enough`, and fails the test when they do not in time.
    pub fn wait(&mut self, deadline: Duration, what: &str, enough: impl Fn(&[Frame]) -> bool) -> &[Frame] {
        let end = Instant::now() + deadline;
        while !enough(&self.seen) {
            let left = end.saturating_duration_since(Instant::now());
            match self.frames.recv_timeout(left) {
                Ok(frame) => self.seen.push(frame),
                Err(_) => panic!("no {what} among {} frames within {deadline:?}", self.seen.len()),
            }
        }
        &self.seen
    }

    /// Ends the capture; every frame that passed before the call is among the answer.
    pub fn finish(mut self) -> Vec<Frame> {
        self.end();
        let mut seen = std::mem::take(&mut self.seen);
        seen.extend(self.frames.try_iter());
        seen
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic of the reader is reported by its own thread.
            let _ = thread.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

fn open(interface: &str) -> io::Result<OwnedFd> {
    let name = std::ffi::CString::new(interface)?;
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: plain system calls with values only; the new descriptor is owned at once.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    set(&socket, libc::SO_RCVBUFFORCE, &RECEIVE_BUFFER)?;
    set(&socket, libc::SO_RCVTIMEO, &libc::timeval { tv_sec: 0, tv_usec: 20_000 })?;
    // SAFETY: the name is a C string, the address is a whole `sockaddr_ll` of which all other fields may be zero.
    unsafe {
        let index = libc::if_nametoindex(name.as_ptr());
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        let mut address: libc::sockaddr_ll = zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index as i32;
        let length = size_of::<libc::sockaddr_ll>() as u32;
        if libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(socket)
}

fn set<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as u32,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn read(socket: &OwnedFd, frames: &Sender<Frame>, stop: &AtomicBool) {
    let mut buffer = vec![0u8; LARGEST_FRAME];
    loop {
        // Read before receiving: what came before the stop is then still taken.
        let stopping = stop.load(Ordering::Acquire);
        // SAFETY: buffer and address are as long as said, and live through the call.
        let (length, address) = unsafe {
            let mut address: libc::sockaddr_ll = zeroed();
            let mut address_length = size_of::<libc::sockaddr_ll>() as u32;
            let length = libc::recvfrom(
                socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
                (&raw mut address).cast(),
                &raw mut address_length,
            );
            (length, address)
        };
        match usize::try_from(length) {
            Ok(length) => {
                let outgoing = address.sll_pkttype == libc::PACKET_OUTGOING;
                if frames.send(Frame { outgoing, bytes: buffer[..length].to_vec() }).is_err() {
                    return;
                }
            }
            Err(_) => match io::Error::last_os_error().kind() {
                io::ErrorKind::WouldBlock if stopping => return,
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                // The interface or its namespace is gone.
                _ => return,
            },
        }
    }
}
