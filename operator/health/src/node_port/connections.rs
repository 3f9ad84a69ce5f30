//! Connections of load balancers, bounded in number and time.
//!
//! Everybody who reaches the node can connect. When all places are taken the *oldest* connection is closed: a health
//! check is over within milliseconds, so what is old is what holds connections open to keep health checks out.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};

use super::answer::{Answers, Subject, answer};

/// As much of a request is read: the least that hyper takes.
const MAX_HEAD: usize = 8 << 10;

#[derive(Debug)]
pub(super) struct Connections<A> {
    answers: Arc<A>,
    most: usize,
    header_timeout: Duration,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    tasks: JoinSet<()>,
    /// The oldest first; some have ended already.
    order: VecDeque<AbortHandle>,
}

impl<A: Answers> Connections<A> {
    pub(super) fn new(answers: Arc<A>, most: usize, header_timeout: Duration) -> Self {
        Self { answers, most: most.max(1), header_timeout, open: Mutex::default() }
    }

    /// Answers one request on the connection.
    pub(super) fn serve(&self, stream: TcpStream, subject: Subject) {
        let answers = Arc::clone(&self.answers);
        let service = service_fn(move |request| {
            let request: http::Request<hyper::body::Incoming> = request;
            let answer = answer(&*answers, subject, request.method(), request.uri().path());
            ready(Ok::<_, Infallible>(answer))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_buf_size(MAX_HEAD)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        let mut open = self.open.lock();
        while open.tasks.try_join_next().is_some() {}
        if open.order.len() >= self.most {
            open.order.retain(|connection| !connection.is_finished());
        }
        while open.order.len() >= self.most {
            if let Some(oldest) = open.order.pop_front() {
                oldest.abort();
            }
        }
        let task = open.tasks.spawn(async move {
            // Whether a client went away before it was answered is nobody's concern.
            let _ = connection.await;
        });
        open.order.push_back(task);
    }
}
