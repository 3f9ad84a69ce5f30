//! One connection: lines in, lines out, one at a time.
//!
//! A client that does not read its answers stops being read; after [`Link::patience`] it is dropped. Nobody else waits for
//! it: what it is told is written by its own task.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::protocol::{Reply, Request};
use super::refusal::Refusal;
use super::registry::ConnectionId;
use crate::file::Entry;

/// Bytes that are read at once.
const CHUNK: usize = 16 << 10;
/// How long a name that seems to be taken may take to become free: of a client that was just replaced the end may be
/// noticed after the beginning of its successor.
const HANDOVER: Duration = Duration::from_secs(1);

/// A request on its way to the server.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) connection: ConnectionId,
    pub(super) request: Request,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// What the server says to it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) reply: Reply,
    /// It may be another when this connection is over.
    pub(super) until: Option<CancellationToken>,
}

/// What a connection has of the server. Dropped, it says that the connection is over.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: ConnectionId,
    pub(super) requests: mpsc::Sender<Message>,
    pub(super) over: mpsc::UnboundedSender<ConnectionId>,
    /// The client is to be asked for its services.
    pub(super) ask: Arc<Notify>,
    /// Bytes that a line may have.
    pub(super) line: usize,
    /// Rows that a client may have.
    pub(super) rows: usize,
    /// How long a client may take to say who it is, or to read an answer.
    pub(super) patience: Duration,
}

impl Drop for Link {
    fn drop(&mut self) {
        // Without a server there is nobody to tell.
        let _ = self.over.send(self.id);
    }
}

/// A list that comes in parts.
#[derive(Debug, Default)]
struct Parts {
    services: Vec<Entry>,
    rows: usize,
    next: u32,
}

/// Serves a client until it leaves, is dropped, or the server ends.
pub(super) async fn attend(stream: UnixStream, link: Link) -> io::Result<()> {
    let (from, mut to) = stream.into_split();
    let mut lines = Lines { from, buffer: Vec::new(), searched: 0, limit: link.line, skipping: false };
    let (mut parts, mut registered) = (Parts::default(), false);
    let mut deadline = Instant::now() + link.patience;
    loop {
        let line = tokio::select! {
            () = link.ask.notified() => {
                send(&mut to, &Reply::List {}, link.patience).await?;
                continue;
            }
            line = lines.next() => line?,
            () = sleep_until(deadline), if !registered => {
                let refusal = Refusal::Silent { seconds: link.patience.as_secs() };
                return send(&mut to, &refused(&refusal), link.patience).await;
            }
        };
        let request = match line {
            Line::End => return Ok(()),
            Line::TooLong => Err(Refusal::TooLong { limit: link.line }),
            Line::Text(text) => serde_json::from_slice(&text).map_err(Refusal::Form),
        };
        let (reply, name) =
            match request.and_then(|request| whole(request, &mut parts, link.rows, registered)) {
                Err(refusal) => (refused(&refusal), None),
                Ok(None) => (Reply::OK, None),
                Ok(Some(request)) => {
                    let name = matches!(request, Request::Register { .. }).then_some(true);
                    (exchange(&link, request).await?, name)
                }
            };
        registered |= name.is_some() && matches!(reply, Reply::Ok { .. });
        send(&mut to, &reply, link.patience).await?;
        deadline = Instant::now() + link.patience;
    }
}

/// Collects the parts of a list; `None` while some are to come.
fn whole(
    request: Request,
    parts: &mut Parts,
    limit: usize,
    registered: bool,
) -> Result<Option<Request>, Refusal> {
    let Request::List { part, services, more } = request else { return Ok(Some(request)) };
    if !registered {
        return Err(Refusal::Unregistered);
    }
    let mut list = std::mem::take(parts);
    if part == 0 {
        list = Parts::default();
    } else if part != list.next {
        return Err(Refusal::Part { got: part, expected: list.next });
    }
    list.rows += services.iter().map(Entry::weight).sum::<usize>();
    if list.rows > limit {
        return Err(Refusal::TooManyRows { rows: list.rows, limit });
    }
    list.services.extend(services);
    if more {
        *parts = Parts { next: part + 1, ..list };
        return Ok(None);
    }
    Ok(Some(Request::List { part: 0, services: list.services, more: false }))
}

async fn exchange(link: &Link, request: Request) -> io::Result<Reply> {
    let name_again = match &request {
        Request::Register { .. } => Some(request.clone()),
        _ => None,
    };
    let Answer { reply, until } = tell(link, request).await?;
    let (Some(until), Some(request)) = (until, name_again) else { return Ok(reply) };
    match timeout(HANDOVER, until.cancelled()).await {
        Ok(()) => Ok(tell(link, request).await?.reply),
        Err(_) => Ok(reply),
    }
}

async fn tell(link: &Link, request: Request) -> io::Result<Answer> {
    let ended = || io::Error::other("the server ends");
    let (answer, answered) = oneshot::channel();
    let message = Message { connection: link.id, request, answer };
    link.requests.send(message).await.map_err(|_| ended())?;
    answered.await.map_err(|_| ended())
}

pub(super) fn refused(refusal: &Refusal) -> Reply {
    Reply::Refused { why: refusal.to_string() }
}

async fn send(to: &mut OwnedWriteHalf, reply: &Reply, patience: Duration) -> io::Result<()> {
    let line = reply.line();
    timeout(patience, to.write_all(&line)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Tells a client that there is no room for it.
pub(super) async fn turn_away(mut stream: UnixStream, refusal: Refusal, patience: Duration) {
    // Whoever does not take it is turned away all the same.
    let _ = timeout(patience, stream.write_all(&refused(&refusal).line())).await;
}

/// A line, without its end.
enum Line {
    Text(Vec<u8>),
    TooLong,
    End,
}

/// Reads lines of bounded length. What was read stays here if a read is given up.
struct Lines {
    from: OwnedReadHalf,
    buffer: Vec<u8>,
    /// So much of the buffer has no end of a line.
    searched: usize,
    limit: usize,
    /// Whether the rest of a line that was too long is to come.
    skipping: bool,
}

impl Lines {
    async fn next(&mut self) -> io::Result<Line> {
        let mut chunk = [0; CHUNK];
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(self.searched + end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                self.searched = 0;
                if std::mem::take(&mut self.skipping) {
                    continue;
                }
                return Ok(if line.len() > self.limit { Line::TooLong } else { Line::Text(line) });
            }
            self.searched = self.buffer.len();
            if self.skipping || self.buffer.len() > self.limit {
                (self.buffer, self.searched) = (Vec::new(), 0);
                if !std::mem::replace(&mut self.skipping, true) {
                    return Ok(Line::TooLong);
                }
            }
            match self.from.read(&mut chunk).await? {
                // What has no end is no line.
                0 => return Ok(Line::End),
                read => self.buffer.extend_from_slice(&chunk[..read]),
            }
        }
    }
}
