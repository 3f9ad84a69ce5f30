//! The authorities of an installation, and how one takes the place of another without a connection that fails.
//!
//! Both ends of a connection check the other's certificate, and neither hears of a change at the same moment as the
//! other: a replica reads it when it looks, a proxy when the kubelet has brought its files. So nothing may be presented
//! before everybody trusts it, and nothing distrusted before nobody presents it any more:
//!
//! 1. *trust both*: the next authority is made; everybody is to trust both, and leaves are still signed by the old one;
//! 2. *change leaves*: the next one signs, and everybody still trusts both;
//! 3. *drop the old one*, which ends it.
//!
//! Each step is one change of one value that is stored as a whole, so whoever goes on after a crash sees where it stood.
//! Pure: the caller stores the value, sees to it that everybody holds it, and asks [`is_due`].

use std::time::{Duration, SystemTime};

use crate::engine::Version;
use crate::pki::{self, KeyedCertificate, PkiError};

/// Who signs, and who is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorities {
    /// Signs what is issued now.
    pub signing: KeyedCertificate,
    /// Is to sign next; trusted already.
    pub next: Option<KeyedCertificate>,
    /// All that are trusted, PEM.
    pub trusted: String,
}

/// How far a change of the authority is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// There is one authority.
    Idle,
    /// Both are trusted, the old one signs.
    TrustBoth,
    /// Both are trusted, the new one signs.
    ChangeLeaves,
}

impl Authorities {
    /// One authority and no other.
    pub fn one(signing: KeyedCertificate) -> Self {
        let trusted = pki::bundle([signing.certificate.as_str()]);
        Self { signing, next: None, trusted }
    }

    /// As it was stored. Whoever signs is trusted, whatever is missing from `trusted`.
    pub fn stored(signing: KeyedCertificate, next: Option<KeyedCertificate>, trusted: Option<&str>) -> Self {
        let mut all = vec![signing.certificate.trim()];
        all.extend(next.iter().map(|next| next.certificate.trim()));
        for other in trusted.into_iter().flat_map(certificates) {
            if !all.contains(&other) {
                all.push(other);
            }
        }
        let trusted = pki::bundle(all);
        Self { signing, next, trusted }
    }

    /// How far a change is.
    pub fn step(&self) -> Step {
        match (&self.next, certificates(&self.trusted).count()) {
            (Some(_), _) => Step::TrustBoth,
            (None, 0 | 1) => Step::Idle,
            (None, _) => Step::ChangeLeaves,
        }
    }

    /// The next step: from [`Step::Idle`] on, one change begins, and after three steps it is over.
    ///
    /// # Errors
    /// When the system has no randomness for a key.
    pub fn advanced(&self, now: SystemTime) -> Result<Self, PkiError> {
        let old = &self.signing.certificate;
        Ok(match &self.next {
            Some(next) => {
                let trusted = pki::bundle([next.certificate.as_str(), old.as_str()]);
                Self { signing: next.clone(), next: None, trusted }
            }
            None if self.step() == Step::ChangeLeaves => Self::one(self.signing.clone()),
            None => {
                let next = pki::create_authority(now)?;
                let trusted = pki::bundle([old.as_str(), next.certificate.as_str()]);
                Self { signing: self.signing.clone(), next: Some(next), trusted }
            }
        })
    }

    /// Tells apart what is to be presented and trusted: a holder with another version is to get new files.
    pub fn version(&self) -> Version {
        Version::of(format!("{}{}", self.signing.certificate, self.trusted).as_bytes())
    }
}

/// The certificates of a PEM text, one by one.
fn certificates(text: &str) -> impl Iterator<Item = &str> {
    const END: &str = "-----END CERTIFICATE-----";
    text.split_inclusive(END).map(str::trim).filter(|part| part.ends_with(END))
}

/// Whether the next step may be taken: a change is asked for, or everybody has been given what the present step
/// says for `settle`, which is as long as files and replicas may be late.
pub fn is_due(step: Step, asked: bool, given_for: Option<Duration>, settle: Duration) -> bool {
    match step {
        Step::Idle => asked,
        Step::TrustBoth | Step::ChangeLeaves => given_for.is_some_and(|since| since >= settle),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * 86_400)
    }

    /// What somebody presents and trusts who was given this.
    fn works(server: &Authorities, proxy: &Authorities) -> bool {
        let trusts = |whom: &Authorities, by: &Authorities| {
            certificates(&by.trusted).any(|one| one == whom.signing.certificate.trim())
        };
        trusts(server, proxy) && trusts(proxy, server)
    }

    #[test]
    fn whoever_is_a_step_behind_still_gets_on_with_everybody_and_after_three_steps_it_is_over() {
        let mut steps = vec![Authorities::one(pki::create_authority(now()).unwrap())];
        for step in [Step::TrustBoth, Step::ChangeLeaves, Step::Idle] {
            let next = steps.last().unwrap().advanced(now()).unwrap();
            assert_eq!(next.step(), step);
            steps.push(next);
        }
        for pair in steps.windows(2) {
            let [before, after] = pair else { unreachable!("two at a time") };
            assert!(works(before, after) && works(after, before), "{:?}", after.step());
            assert_ne!(before.version(), after.version());
        }
        assert!(!works(&steps[0], &steps[2]), "which is why nobody may be two steps behind");
        assert_ne!(steps[0].signing, steps[3].signing);
        assert!(!steps[3].trusted.contains(steps[0].signing.certificate.trim()));
    }

    #[test]
    fn every_step_is_read_back_as_it_was_stored() {
        let mut authorities = Authorities::one(pki::create_authority(now()).unwrap());
        for _ in 0..4 {
            let Authorities { signing, next, trusted } = authorities.clone();
            let again = Authorities::stored(signing, next, Some(&trusted));
            assert_eq!(again.step(), authorities.step());
            assert_eq!(again.trusted.len(), authorities.trusted.len());
            authorities = again.advanced(now()).unwrap();
        }
    }

    #[test]
    fn whoever_signs_is_trusted_even_if_the_bundle_was_lost() {
        let signing = pki::create_authority(now()).unwrap();
        assert_eq!(Authorities::stored(signing.clone(), None, None), Authorities::one(signing));
    }

    #[test]
    fn a_step_waits_until_everybody_has_been_given_the_one_before_for_a_while() {
        let settle = Duration::from_secs(180);
        assert!(!is_due(Step::Idle, false, Some(settle), settle));
        assert!(is_due(Step::Idle, true, None, settle));
        for step in [Step::TrustBoth, Step::ChangeLeaves] {
            assert!(!is_due(step, true, None, settle));
            assert!(!is_due(step, true, Some(settle / 2), settle));
            assert!(is_due(step, false, Some(settle), settle));
        }
    }
}
