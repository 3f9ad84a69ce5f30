//! What the agent asks the kernel about interfaces, addresses and routes, by route netlink alone.
//!
//! Neither a container runtime's socket nor the host's process table is needed: the kernel answers for another
//! network namespace when it is named by the id it has here (`IFLA_TARGET_NETNSID`), provided the socket has
//! `NETLINK_GET_STRICT_CHK`. Without that option it silently answers for *this* namespace, so every connection
//! here is strict.
//!
//! A connection belongs to the namespace of the thread that opened it, whatever thread uses it later.
//! Nothing here keeps state; [`watch`] says when to ask again.

pub mod link;
pub mod route;
pub mod veth;
pub mod watch;

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use rtnetlink::packet_core::{
    ErrorMessage, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use tokio::task::JoinHandle;

/// Tries of a dump that changes tear.
const DUMPS: usize = 5;

/// A request that the kernel refused, or that could not be sent.
#[derive(Debug, thiserror::Error)]
#[error("netlink: could not {action}: {reason}")]
pub struct Error {
    /// What was asked, in words.
    action: String,
    reason: String,
    errno: Option<i32>,
}

impl Error {
    fn new(action: impl Into<String>, source: rtnetlink::Error) -> Self {
        let (reason, errno) = match source {
            rtnetlink::Error::NetlinkError(ErrorMessage { code: Some(code), .. }) => {
                let errno = code.get().saturating_abs();
                (io::Error::from_raw_os_error(errno).to_string(), Some(errno))
            }
            other => (other.to_string(), None),
        };
        Self { action: action.into(), reason, errno }
    }

    pub(crate) fn answer(action: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { action: action.into(), reason: reason.into(), errno: None }
    }

    /// The kernel's error number, when the kernel answered with one.
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }

    /// Whether the thing asked for does not exist (any more).
    pub fn is_absent(&self) -> bool {
        matches!(self.errno, Some(libc::ENODEV | libc::ENXIO | libc::ENOENT | libc::ESRCH))
    }
}

/// A connection to route netlink in the namespace of the thread that opened it.
///
/// Cheap to clone. The kernel's answers are read by a task of the runtime, which ends with the last clone. When it ends before,
/// because reading from the socket failed, the next request opens another connection, in the namespace of its thread.
#[derive(Debug, Clone)]
pub struct Netlink {
    connection: Arc<Mutex<Connection>>,
}

#[derive(Debug)]
struct Connection {
    handle: rtnetlink::Handle,
    reader: JoinHandle<()>,
}

impl Connection {
    fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
        Ok(Self { handle, reader: tokio::spawn(connection) })
    }
}

impl Netlink {
    /// Opens a connection in the current thread's network namespace.
    ///
    /// Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// The socket could not be opened, or the kernel has no strict checking (before 4.20).
    pub fn connect() -> io::Result<Self> {
        Ok(Self { connection: Arc::new(Mutex::new(Connection::open()?)) })
    }

    /// What requests are made with. Where no other connection can be opened, requests fail as they would have.
    fn handle(&self) -> rtnetlink::Handle {
        let mut connection = self.connection.lock();
        if connection.reader.is_finished() {
            match Connection::open() {
                Ok(another) => {
                    tracing::warn!("the connection to netlink had ended; opened another");
                    *connection = another;
                }
                Err(error) => {
                    tracing::warn!(%error, "the connection to netlink has ended, and none can be opened")
                }
            }
        }
        connection.handle.clone()
    }
}

impl Netlink {
    /// A dump, whole. The kernel marks one during which something changed (`NLM_F_DUMP_INTR`): it may lack what was there
    /// all the time, so it is asked for again.
    async fn dump(
        &self,
        action: &str,
        request: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        for _ in 0..DUMPS {
            let mut message = NetlinkMessage::from(request.clone());
            message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
            let answers = self.handle().request(message);
            let mut answers = answers.map_err(|source| Error::new(action, source))?;
            let (mut found, mut torn) = (Vec::new(), false);
            while let Some(answer) = answers.next().await {
                torn |= answer.header.flags & NLM_F_DUMP_INTR != 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => found.push(message),
                    NetlinkPayload::Error(error) => {
                        return Err(Error::new(action, rtnetlink::Error::NetlinkError(error)));
                    }
                    _ => {}
                }
            }
            if !torn {
                return Ok(found);
            }
        }
        Err(Error::answer(action, format!("it changed during each of {DUMPS} tries")))
    }
}

/// Collects a dump of which a torn one does no harm.
async fn all<T>(
    action: &str,
    stream: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, Error> {
    stream.try_collect().await.map_err(|source| Error::new(action, source))
}

/// The first answer of a request that has one.
async fn one<T>(action: &str, stream: impl Stream<Item = Result<T, rtnetlink::Error>>) -> Result<T, Error> {
    let mut stream = std::pin::pin!(stream);
    match stream.try_next().await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(Error::answer(action, "the kernel sent no answer")),
        Err(source) => Err(Error::new(action, source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_that_ended_is_opened_again() {
        let netlink = Netlink::connect().expect("netlink");
        let other = netlink.clone();
        assert!(!netlink.links().await.expect("interfaces").is_empty());
        for _ in 0..3 {
            netlink.connection.lock().reader.abort();
            while !netlink.connection.lock().reader.is_finished() {
                tokio::task::yield_now().await;
            }
            assert!(!other.links().await.expect("interfaces").is_empty());
            assert!(!netlink.links().await.expect("interfaces").is_empty());
        }
    }
}
