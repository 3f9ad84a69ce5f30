//! How many requests a second a path takes, and how long each takes.
//!
//! Closed loop: each connection asks again as soon as it is answered, so two paths are compared under the same number
//! of requests in flight.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Question;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Whom to ask.
    pub to: SocketAddr,
    /// Requests in flight.
    pub connections: usize,
    /// For how long.
    pub duration: Duration,
    /// A new connection for each request.
    pub reconnect: bool,
}

/// What was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Requests answered.
    pub requests: u64,
    /// Requests that failed.
    pub failed: u64,
    /// The first failure.
    pub failure: Option<String>,
    /// Answered requests a second.
    pub requests_per_second: f64,
    /// Median time of a request in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile of it.
    pub p99_ms: f64,
}

impl Load {
    /// Measures.
    pub fn run(&self) -> Report {
        let start = Instant::now();
        let end = start + self.duration;
        let workers: Vec<_> = (0..self.connections.max(1))
            .map(|_| {
                let load = *self;
                thread::spawn(move || load.work(end))
            })
            .collect();
        let mut times = Vec::new();
        let mut report = Report::default();
        for worker in workers {
            let Ok((own, failures)) = worker.join() else { continue };
            times.extend(own);
            report.failed += failures.len() as u64;
            if let Some(failure) = failures.into_iter().next() {
                report.failure.get_or_insert(failure);
            }
        }
        times.sort_unstable();
        report.requests = times.len() as u64;
        report.requests_per_second = times.len() as f64 / start.elapsed().as_secs_f64();
        report.p50_ms = percentile(&times, 50);
        report.p99_ms = percentile(&times, 99);
        report
    }

    fn work(&self, end: Instant) -> (Vec<Duration>, Vec<String>) {
        let question = Question::new(self.to);
        let (mut times, mut failures) = (Vec::new(), Vec::new());
        let mut kept = None;
        while Instant::now() < end && failures.len() < 1_000 {
            let asked = Instant::now();
            let mut exchange = || -> io::Result<_> {
                let mut connection = match kept.take() {
                    Some(connection) => connection,
                    None => question.connect()?,
                };
                connection.exchange(&question.path, self.reconnect)?;
                Ok(connection)
            };
            match exchange() {
                Ok(connection) => {
                    times.push(asked.elapsed());
                    kept = (!self.reconnect).then_some(connection);
                }
                Err(error) => failures.push(error.to_string()),
            }
        }
        (times, failures)
    }
}

/// In milliseconds, of sorted times; 0 when there are none.
pub fn percentile(times: &[Duration], percent: usize) -> f64 {
    let at = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let times: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert!((percentile(&times, 50) - 101.0).abs() < f64::EPSILON);
        assert!((percentile(&times, 99) - 199.0).abs() < f64::EPSILON);
        assert!(percentile(&[], 99).abs() < f64::EPSILON);
    }
}
