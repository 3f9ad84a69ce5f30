//! Requests that go on while something happens to the system.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use epic_traffic::{Question, Tally};

use crate::lab::{Lab, PATIENCE};

/// Time from one request to the next.
const PERIOD: Duration = Duration::from_millis(25);

/// A client in the internet of the lab that asks again and again, each time over a new connection.
pub struct Stream {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    thread: JoinHandle<Tally>,
}

impl Stream {
    /// Starts asking `to`.
    pub fn start(lab: &Lab, to: SocketAddr) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&asked));
        let start = Instant::now();
        let thread = lab.host("internet").spawn(move || {
            let question = Question::new(to);
            let mut tally = Tally::default();
            while !stopped.load(Ordering::Acquire) {
                let next = Instant::now() + PERIOD;
                let outcome = question.ask();
                if let Err(error) = &outcome {
                    eprintln!(
                        "    {:.1} s: a request to {to} failed: {error}",
                        start.elapsed().as_secs_f64()
                    );
                }
                tally.count(&outcome);
                count.store(tally.asked, Ordering::Release);
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            tally
        });
        Self { stop, asked, thread }
    }

    /// Asks until this many requests were sent in all, then ends.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn finish(self, at_least: u64) -> Tally {
        let deadline = Instant::now() + PATIENCE;
        while self.asked.load(Ordering::Acquire) < at_least && !self.thread.is_finished() {
            assert!(Instant::now() < deadline, "{at_least} requests were not sent within {PATIENCE:?}");
            std::thread::sleep(PERIOD);
        }
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("the client in the internet")
    }
}
