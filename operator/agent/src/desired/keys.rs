//! The keys of a LoadBalancer: derived from the master on an EPIC node, read from a Secret on a client.

use std::collections::BTreeMap;
use std::sync::Arc;

use epic_abi::Lb;
use epic_abi::gue::Key;
use epic_abi::keys::{ClientKeys, HELLO_KEY_LEN, Subject, node_key};
use epic_lb::ServiceKeys;
use epic_model::key;

use super::Identity;

/// Entry of the Secret `epic-gue-master` that holds the master.
pub const MASTER_ENTRY: &str = "master";
/// A shorter master is no key.
const SHORTEST_MASTER: usize = 32;

/// Hello keys by generation.
pub type HelloKeys = BTreeMap<u32, [u8; HELLO_KEY_LEN]>;

/// The secret that all tunnel keys are derived from. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Master(Vec<u8>);

impl std::fmt::Debug for Master {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Master(..)")
    }
}

impl Master {
    /// From the bytes in the Secret; `None` when they are too few.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= SHORTEST_MASTER).then(|| Self(bytes.to_vec()))
    }

    /// The seed of flow hashes.
    pub fn flow_hash_seed(&self) -> u32 {
        epic_abi::keys::flow_hash_seed(&self.0)
    }

    /// Data, node and hello keys of a LoadBalancer; `None` when its uid is none.
    pub fn keys(&self, identity: &Identity) -> Option<(ServiceKeys, HelloKeys)> {
        let uid = uid_bytes(&identity.uid)?;
        let mut hello = HelloKeys::new();
        let (mut data, mut node) = ([Key([0; 16]); 3], [Key([0; 16]); 3]);
        for generation in key::accepted(identity.generation) {
            let subject = Subject { lb: identity.lb(), uid, generation };
            let keys = ClientKeys::derive(&self.0, &subject);
            let slot = slot(identity.generation, generation);
            data[slot] = keys.data;
            node[slot] = node_key(&self.0, &subject);
            hello.insert(generation, keys.hello);
        }
        Some((ServiceKeys { data, node: Some(node) }, hello))
    }
}

/// What was derived for one LoadBalancer.
#[derive(Clone)]
struct Derived {
    lb: Lb,
    generation: u32,
    service: ServiceKeys,
    hello: Arc<HelloKeys>,
}

/// The keys derived so far. A derivation is worth hundreds of map look-ups, and its outcome never changes: it depends on
/// the master, the ids, the uid and the generation alone.
pub struct Keyring {
    master: Master,
    derived: BTreeMap<Arc<str>, Derived>,
}

impl Keyring {
    /// An empty one.
    pub fn new(master: Master) -> Self {
        Self { master, derived: BTreeMap::new() }
    }

    /// From now on of this master; what was derived from another one is forgotten.
    pub fn set_master(&mut self, master: Master) {
        if self.master != master {
            *self = Self::new(master);
        }
    }

    /// As [`Master::keys`].
    pub fn keys(&mut self, identity: &Identity) -> Option<(ServiceKeys, Arc<HelloKeys>)> {
        let known = self.derived.get(&identity.uid);
        let known = known.filter(|d| d.lb == identity.lb() && d.generation == identity.generation);
        if let Some(derived) = known {
            return Some((derived.service, Arc::clone(&derived.hello)));
        }
        let (service, hello) = self.master.keys(identity)?;
        let hello = Arc::new(hello);
        let derived = Derived {
            lb: identity.lb(),
            generation: identity.generation,
            service,
            hello: Arc::clone(&hello),
        };
        self.derived.insert(Arc::clone(&identity.uid), derived);
        Some((service, hello))
    }

    /// Forgets LoadBalancers that are gone.
    pub fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.derived.retain(|uid, _| is_there(uid));
    }
}

/// The keys of a LoadBalancer out of the entries of `epic-gue-keys`. `None` without the current generation: nothing
/// could be sent. A neighbour that is missing is a key that nobody has, so nothing is accepted with it.
pub fn from_entries<'a>(
    identity: &Identity,
    entry: impl Fn(&str) -> Option<&'a [u8]>,
) -> Option<(ServiceKeys, HelloKeys)> {
    let mut hello = HelloKeys::new();
    let mut data = [Key([0; 16]); 3];
    for generation in key::accepted(identity.generation) {
        let name = key::entry(&(*identity.uid).into(), generation);
        match entry(&name).and_then(ClientKeys::from_bytes) {
            Some(keys) => {
                data[slot(identity.generation, generation)] = keys.data;
                hello.insert(generation, keys.hello);
            }
            None if generation == identity.generation => return None,
            // A slot cannot be left out here, and one of zeros would be a key that everybody knows: the current one
            // twice accepts nothing more.
            None => {}
        }
    }
    let current = data[slot(identity.generation, identity.generation)];
    for key in &mut data {
        if key.0 == [0; 16] {
            *key = current;
        }
    }
    Some((ServiceKeys { data, node: None }, hello))
}

/// Place of a generation among n−1, n, n+1.
fn slot(current: u32, generation: u32) -> usize {
    match generation.cmp(&current) {
        std::cmp::Ordering::Less => 0,
        std::cmp::Ordering::Equal => 1,
        std::cmp::Ordering::Greater => 2,
    }
}

/// The 16 bytes of a uid in its text form.
fn uid_bytes(uid: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = uid.bytes().filter(|byte| *byte != b'-').collect();
    if digits.len() != 32 {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}
