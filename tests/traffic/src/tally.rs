//! Who answered how often.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use serde::Serialize;

use crate::Answer;

/// Answers counted by who gave them, and the requests that nobody answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// How many requests were sent.
    pub asked: u64,
    /// `tenant host address` → how many answers.
    pub answered: BTreeMap<String, u64>,
    /// Peers that the servers saw → how many answers: addresses of proxies.
    pub peers: BTreeMap<String, u64>,
    /// Why the others failed: at most a hundred of them.
    pub failures: Vec<String>,
    /// How many failed.
    pub failed: u64,
}

/// So many failures are kept word by word.
const KEPT_FAILURES: usize = 100;

impl Tally {
    /// Counts the outcome of one request.
    pub fn count(&mut self, outcome: &io::Result<Answer>) {
        self.asked += 1;
        match outcome {
            Ok(answer) => {
                let who = format!("{} {} {}", answer.tenant, answer.host, answer.address);
                *self.answered.entry(who).or_default() += 1;
                let peer = answer.peer.rsplit_once(':').map_or(answer.peer.as_str(), |(peer, _)| peer);
                *self.peers.entry(peer.to_owned()).or_default() += 1;
            }
            Err(error) => {
                self.failed += 1;
                if self.failures.len() < KEPT_FAILURES {
                    self.failures.push(format!("request {}: {error}", self.asked));
                }
            }
        }
    }

    /// How many answers `tenant` gave.
    pub fn of_tenant(&self, tenant: &str) -> u64 {
        self.answered.iter().filter(|(who, _)| who.split(' ').next() == Some(tenant)).map(|(_, n)| n).sum()
    }

    /// How many answers a server on `host` gave.
    pub fn of_host(&self, host: &str) -> u64 {
        self.answered.iter().filter(|(who, _)| who.split(' ').nth(1) == Some(host)).map(|(_, n)| n).sum()
    }

    /// Whether every request was answered, by this tenant.
    pub fn is_right(&self, tenant: &str) -> bool {
        self.failed == 0 && self.asked > 0 && self.of_tenant(tenant) == self.asked
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests, {} failed", self.asked, self.failed)?;
        for (who, count) in &self.answered {
            write!(f, "; {count} by {who}")?;
        }
        for failure in self.failures.iter().take(5) {
            write!(f, "; {failure}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(tenant: &str, host: &str) -> io::Result<Answer> {
        Ok(Answer {
            host: host.to_owned(),
            address: "10.244.1.5".to_owned(),
            tenant: tenant.to_owned(),
            port: "8080".to_owned(),
            peer: "100.64.0.1:40000".to_owned(),
        })
    }

    #[test]
    fn a_tally_is_right_only_if_one_tenant_answered_everything() {
        let mut tally = Tally::default();
        assert!(!tally.is_right("sample"), "nothing asked is nothing shown");
        tally.count(&answer("sample", "client1"));
        tally.count(&answer("sample", "client2"));
        assert!(tally.is_right("sample"));
        assert_eq!((tally.of_host("client2"), tally.peers["100.64.0.1"]), (1, 2));
        let mut failed = tally.clone();
        failed.count(&Err(io::Error::other("reset")));
        assert!(!failed.is_right("sample"));
        tally.count(&answer("other", "client3"));
        assert!(!tally.is_right("sample"));
    }
}
