//! What each identity takes up of this server.
//!
//! A certificate is enough to open connections and to name things, so without a bound one proxy could take the memory
//! that serves all. Counted are connections, and bytes: requests that are still arriving, and what the streams keep of
//! them. Others with the same certificate pay for one that takes too much; those with another one do not.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::Status;

use crate::identity::Identity;

/// All shares.
#[derive(Debug, Default)]
pub(super) struct Shares {
    taken: Mutex<BTreeMap<Identity, Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    connections: usize,
    bytes: usize,
}

impl Shares {
    /// A place for one more connection of `identity`, unless it has `connections` of them already. Together they may
    /// take `bytes`.
    pub(super) fn admit(
        self: &Arc<Self>,
        identity: &Identity,
        connections: usize,
        bytes: usize,
    ) -> Option<Arc<Share>> {
        let mut taken = self.taken.lock();
        if taken.get(identity).map_or(0, |of| of.connections) >= connections {
            return None;
        }
        taken.entry(identity.clone()).or_default().connections += 1;
        Some(Arc::new(Share { shares: Arc::clone(self), identity: identity.clone(), bytes }))
    }
}

/// The place of one connection, given back when it and all its streams are gone.
#[derive(Debug)]
pub(super) struct Share {
    shares: Arc<Shares>,
    identity: Identity,
    /// What all connections of the identity may take together.
    bytes: usize,
}

impl Share {
    /// Counts `after` in place of `before`.
    fn count(&self, before: usize, after: usize) -> Result<(), Status> {
        let mut taken = self.shares.taken.lock();
        let Some(of) = taken.get_mut(&self.identity) else { return Ok(()) };
        of.bytes = of.bytes + after - before;
        if after > before && of.bytes > self.bytes {
            return Err(Status::resource_exhausted(format!(
                "the proxies of one LoadBalancer may take {} bytes of the server together: ask for fewer names",
                self.bytes
            )));
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken.lock();
        if let Some(of) = taken.get_mut(&self.identity) {
            of.connections -= 1;
            if of.connections == 0 {
                taken.remove(&self.identity);
            }
        }
    }
}

/// What one stream takes, given back with it.
#[derive(Debug)]
pub(super) struct Held {
    share: Arc<Share>,
    arriving: AtomicUsize,
    kept: AtomicUsize,
    /// Streams of its connection.
    open: watch::Sender<usize>,
}

impl Held {
    /// One more stream, counted in `open` as long as it lives.
    pub(super) fn new(share: &Arc<Share>, open: watch::Sender<usize>) -> Arc<Self> {
        open.send_modify(|streams| *streams += 1);
        let (arriving, kept) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { share: Arc::clone(share), arriving, kept, open })
    }

    /// More bytes of a request came.
    fn arrive(&self, bytes: usize) -> Result<(), Status> {
        let before = self.arriving.fetch_add(bytes, Ordering::Relaxed);
        self.share.count(before, before + bytes)
    }

    /// A request is complete. The beginning of the next one, less than a frame, goes uncounted.
    pub(super) fn arrived(&self) {
        let before = self.arriving.swap(0, Ordering::Relaxed);
        // Less is never refused.
        let _ = self.share.count(before, 0);
    }

    /// The stream keeps this much of the requests so far.
    pub(super) fn keep(&self, bytes: usize) -> Result<(), Status> {
        let before = self.kept.swap(bytes, Ordering::Relaxed);
        self.share.count(before, bytes)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.share.count(*self.arriving.get_mut() + *self.kept.get_mut(), 0);
        self.open.send_modify(|streams| *streams -= 1);
    }
}

/// A body whose bytes are counted while they arrive.
pub(super) struct Counted {
    body: Incoming,
    held: Arc<Held>,
}

impl Counted {
    pub(super) fn new(body: Incoming, held: Arc<Held>) -> Self {
        Self { body, held }
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            let frame = frame.map_err(|error| Status::from_error(Box::new(error)))?;
            self.held.arrive(frame.data_ref().map_or(0, Bytes::len))?;
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(share: &Arc<Share>) -> Arc<Held> {
        Held::new(share, watch::Sender::new(0))
    }

    fn admit(shares: &Arc<Shares>, load_balancer: &str) -> Option<Arc<Share>> {
        shares.admit(&Identity::new("red", load_balancer, "u"), 2, 100)
    }

    #[test]
    fn a_connection_beyond_the_bound_waits_until_one_is_gone_with_its_streams_and_others_do_not() {
        let shares = Arc::new(Shares::default());
        let first = admit(&shares, "web").unwrap();
        let _second = admit(&shares, "web").unwrap();
        assert!(admit(&shares, "web").is_none());
        assert!(admit(&shares, "dns").is_some());
        let stream = held(&first);
        drop(first);
        assert!(admit(&shares, "web").is_none());
        drop(stream);
        assert!(admit(&shares, "web").is_some());
    }

    #[test]
    fn bytes_count_once_while_they_arrive_and_as_long_as_they_are_kept() {
        let shares = Arc::new(Shares::default());
        let (web, dns) = (admit(&shares, "web").unwrap(), admit(&shares, "dns").unwrap());
        let (one, other) = (held(&web), held(&admit(&shares, "web").unwrap()));
        one.arrive(60).unwrap();
        assert!(other.arrive(60).is_err());
        drop(other);
        one.arrived();
        one.keep(60).unwrap();
        one.arrive(40).unwrap();
        assert!(one.arrive(1).is_err());
        held(&dns).arrive(100).unwrap();
        drop(one);
        held(&web).arrive(100).unwrap();
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let shares = Arc::new(Shares::default());
        held(&admit(&shares, "web").unwrap()).keep(7).unwrap();
        assert!(shares.taken.lock().is_empty());
    }
}
