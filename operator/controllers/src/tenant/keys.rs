//! The keys of a tenant's tunnels.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use epic_abi::Lb;
use epic_abi::keys::{ClientKeys, Subject};
use epic_crds::well_known::SECRET_GUE_KEYS;
use epic_model::key;
use serde_json::{Value, json};

use super::metadata;

/// LoadBalancers whose keys fit into one Secret: three entries each, and as much again in `managedFields`, of the 1.5 MiB
/// that etcd takes.
pub const MOST_LOAD_BALANCERS: u64 = 3_000;

/// The secret all tunnel keys are derived from. Never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey(Vec<u8>);

impl MasterKey {
    /// Bytes of a new master key.
    pub const LEN: usize = 32;
    /// Its entry in the Secret.
    pub const ENTRY: &str = "master";

    /// A key from the bytes in the Secret; `None` when they are too few to be one.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() >= Self::LEN).then_some(Self(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

/// A LoadBalancer as far as its keys are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadBalancerKeys {
    /// Group and service id.
    pub lb: Lb,
    /// Uid of the object.
    pub uid: String,
    /// `status.key-generation`.
    pub generation: u32,
}

/// The 16 bytes of a uid (RFC 9562 text form, as the API server makes them).
pub fn uid_bytes(uid: &str) -> Option<[u8; 16]> {
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

/// The Secret `epic-gue-keys` with generations n−1, n and n+1 of every LoadBalancer of a namespace. A uid that is none
/// (made up by hand) gets no keys, and harms no other.
pub fn gue_keys(account: &str, namespace: &str, master: &MasterKey, balancers: &[LoadBalancerKeys]) -> Value {
    let mut content = BTreeMap::new();
    for balancer in balancers {
        let Some(uid) = uid_bytes(&balancer.uid) else { continue };
        for generation in key::accepted(balancer.generation) {
            let keys = ClientKeys::derive(master.as_bytes(), &Subject { lb: balancer.lb, uid, generation });
            let entry = key::entry(&balancer.uid.as_str().into(), generation);
            content.insert(entry, STANDARD.encode(keys.to_bytes()));
        }
    }
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(account, namespace, SECRET_GUE_KEYS),
        "type": "Opaque",
        "data": content,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "1a8522b9-70a4-4a9c-bdd7-ba912a61170a";

    fn master() -> MasterKey {
        MasterKey::from_bytes(vec![1; 32]).unwrap()
    }

    #[test]
    fn a_secret_holds_the_neighbours_of_the_generation() {
        let balancer = LoadBalancerKeys { lb: Lb::new(1, 1), uid: UID.to_owned(), generation: 4 };
        let secret = gue_keys("red", "epic-red", &master(), &[balancer]);
        let entries: Vec<&String> = secret["data"].as_object().unwrap().keys().collect();
        assert_eq!(entries, [&format!("{UID}.3"), &format!("{UID}.4"), &format!("{UID}.5")]);
        let bytes = STANDARD.decode(secret["data"][format!("{UID}.4")].as_str().unwrap()).unwrap();
        assert_eq!(bytes.len(), 48);
    }

    #[test]
    fn the_keys_of_as_many_load_balancers_as_there_may_be_fit_into_one_secret() {
        let many: Vec<LoadBalancerKeys> = (0..MOST_LOAD_BALANCERS)
            .map(|number| LoadBalancerKeys {
                lb: Lb::new(1, u16::try_from(number).unwrap()),
                uid: format!("1a8522b9-70a4-4a9c-bdd7-{number:012x}"),
                generation: u32::MAX - 1,
            })
            .collect();
        let secret = gue_keys("red", "epic-red", &master(), &many);
        let entries = secret["data"].as_object().unwrap();
        assert_eq!(entries.len(), 9_000);
        // As etcd has it: name, raw bytes, a few bytes around them; and the name once more as a field of ours.
        let stored: usize = entries.keys().map(|name| name.len() + 48 + 10 + name.len() + 8).sum();
        assert!(stored < 3 * 512 * 1024 - 16 * 1024, "{stored}");
    }

    #[test]
    fn a_successor_with_the_same_ids_has_other_keys() {
        let keys = |uid: &str| {
            let balancer = LoadBalancerKeys { lb: Lb::new(1, 1), uid: uid.to_owned(), generation: 1 };
            gue_keys("red", "epic-red", &master(), &[balancer])["data"].clone()
        };
        let (first, second) = (keys(UID), keys("2b8522b9-70a4-4a9c-bdd7-ba912a61170a"));
        assert_ne!(first.as_object().unwrap().values().next(), second.as_object().unwrap().values().next());
    }

    #[test]
    fn a_uid_is_sixteen_bytes_or_nothing() {
        assert_eq!(uid_bytes(UID).map(|b| (b[0], b[15])), Some((0x1a, 0x0a)));
        for wrong in
            ["", "1a8522b9", "zz8522b9-70a4-4a9c-bdd7-ba912a61170a", "é8522b9-70a4-4a9c-bdd7-ba912a6117"]
        {
            assert_eq!(uid_bytes(wrong), None, "{wrong}");
        }
    }
}
