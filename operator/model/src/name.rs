//! Names that EPIC gives: injective, stable, and legal wherever they are used.
//!
//! A name made from another name carries a hash of all that must be told apart, so two different owners never get
//! one child. A name alone proves nothing: an object without our ownerRef uid is never adopted (api.md).

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};

use sha2::{Digest, Sha256};

use crate::id::{Namespace, ObjectName};

/// The namespace of the system.
pub const SYSTEM_NAMESPACE: &str = "epic";

const CHILD_STEM: usize = 40;

/// The name of a child of a LoadBalancer (Deployment, PodDisruptionBudget, Secret):
/// `epic-<up to 40 characters of the name>-<hash of namespace, name>`, a DNS label of at most 62 characters.
/// Dots of the name become dashes; the hash is over the name as it is, so the result stays injective.
pub fn child(namespace: &Namespace, name: &ObjectName) -> String {
    let stem: String =
        name.as_str().chars().take(CHILD_STEM).map(|c| if c == '.' { '-' } else { c }).collect();
    format!("epic-{}-{}", stem.trim_end_matches('-'), short_hash(&[namespace.as_str(), name.as_str()]))
}

/// Longest name of an object.
const NAME_MAX: usize = 253;

/// The name of the copy, in a tenant's namespace, of a Secret that images are pulled with.
pub fn pull_secret(source: &ObjectName) -> String {
    let name = format!("epic-pull-{source}");
    if name.len() <= NAME_MAX { name } else { format!("epic-pull-{}", short_hash(&[source.as_str()])) }
}

/// 16 hexadecimal digits of SHA-256 over the parts; a separator that no name holds keeps `a, bc` from `ab, c`.
pub fn short_hash(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let mut text = String::with_capacity(16);
    for byte in &hash.finalize()[..8] {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The name of an address's claim: the address for IPv4, all eight groups with dashes for IPv6
/// (`2001-0db8-0000-…`), since a name may not hold colons and must not have two spellings.
pub fn claim(address: IpAddr) -> ObjectName {
    match address.to_canonical() {
        IpAddr::V4(v4) => ObjectName::new(v4.to_string()),
        IpAddr::V6(v6) => {
            let groups: Vec<String> = v6.segments().iter().map(|group| format!("{group:04x}")).collect();
            ObjectName::new(groups.join("-"))
        }
    }
}

/// The address that a claim's name stands for; `None` if no claim can be named so.
pub fn claim_address(name: &ObjectName) -> Option<IpAddr> {
    let text = name.as_str();
    let address = if text.contains('-') {
        let groups: Option<Vec<u16>> =
            text.split('-').map(|group| u16::from_str_radix(group, 16).ok()).collect();
        let groups: [u16; 8] = groups?.try_into().ok()?;
        IpAddr::V6(Ipv6Addr::from(groups))
    } else {
        text.parse().ok()?
    };
    (claim(address) == *name).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn child_names_are_labels_and_injective() {
        let name = |namespace: &str, name: &str| child(&namespace.into(), &name.into());
        assert_eq!(name("epic-sample", "sample-acnodal"), name("epic-sample", "sample-acnodal"));
        assert_ne!(name("epic-a", "b"), name("epic-b", "b"));
        assert_ne!(name("epic-a", "x.y"), name("epic-a", "x-y"));
        assert_ne!(name("epic-a", &"x".repeat(41)), name("epic-a", &"x".repeat(42)));
        for long in ["a", &"a.".repeat(126), &format!("{}-{}", "a".repeat(39), "b".repeat(80))] {
            let child = name("epic-sample", long);
            assert!(child.len() <= 63, "{child}");
            assert!(!child.contains('.') && !child.contains("--"), "{child}");
        }
    }

    #[test]
    fn claims_are_named_after_the_address_in_one_way_only() {
        let cases = [
            ("192.0.2.7", "192.0.2.7"),
            ("2001:db8::7", "2001-0db8-0000-0000-0000-0000-0000-0007"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
        ];
        for (address, name) in cases {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(claim(address).as_str(), name);
            assert_eq!(claim_address(&claim(address)), Some(address.to_canonical()));
        }
        for wrong in ["2001-db8-0-0-0-0-0-7", "192.0.2.07", "a", "0000-0000-0000-0000-0000-ffff-c000-0207"] {
            assert_eq!(claim_address(&wrong.into()), None, "{wrong}");
        }
    }
}
