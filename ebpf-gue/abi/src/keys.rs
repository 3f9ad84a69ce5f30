//! Keys, message authentication codes and cookies.
//!
//! Keys are derived, not stored: HKDF-SHA256 (no salt) of the master with
//! `info = label ‖ group u16 ‖ service u16 ‖ uid of the LoadBalancer [16] ‖ generation u32`, big-endian. The uid
//! makes a recreated LoadBalancer's keys differ although it may get the same ids. Nothing here prints a secret.

use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::{
    Ip, Lb,
    gue::{KEY_LEN, Key},
    hello::{COOKIE_LEN, Entry, HEADER_LEN, MAC_LEN, mac_input},
};

/// Label of data keys: in every data packet between an EPIC node and a client.
pub const LABEL_DATA: &[u8] = b"epic gue data";
/// Label of hello keys: they authenticate hello messages.
pub const LABEL_HELLO: &[u8] = b"epic gue hello";
/// Label of node keys: in every data packet between two EPIC nodes; never given to tenants.
pub const LABEL_NODE: &[u8] = b"epic gue node";
/// Label of the seed of flow hashes.
pub const LABEL_FLOW_HASH: &[u8] = b"epic flow hash";
/// Bytes of a hello key.
pub const HELLO_KEY_LEN: usize = 32;
/// Bytes of what a client is given: data key, then hello key.
pub const CLIENT_KEYS_LEN: usize = KEY_LEN + HELLO_KEY_LEN;
/// First label of the input of a cookie, so that its key cannot be made to answer for anything else.
const LABEL_COOKIE: &[u8] = b"epic gue cookie";

/// What the keys of a LoadBalancer are derived for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Ids of the LoadBalancer.
    pub lb: Lb,
    /// Uid of the LoadBalancer object.
    pub uid: [u8; 16],
    /// Key generation, from 1.
    pub generation: u32,
}

/// The keys a client gets for one generation of one LoadBalancer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClientKeys {
    /// Goes into data packets.
    pub data: Key,
    /// Authenticates hello messages.
    pub hello: [u8; HELLO_KEY_LEN],
}

impl core::fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("ClientKeys(..)")
    }
}

impl ClientKeys {
    /// The keys of `subject`.
    pub fn derive(master: &[u8], subject: &Subject) -> Self {
        Self { data: Key(expand(master, LABEL_DATA, subject)), hello: expand(master, LABEL_HELLO, subject) }
    }

    /// As they stand in the Secret `epic-gue-keys`: data key, then hello key.
    pub fn to_bytes(&self) -> [u8; CLIENT_KEYS_LEN] {
        let mut bytes = [0; CLIENT_KEYS_LEN];
        bytes[..KEY_LEN].copy_from_slice(&self.data.0);
        bytes[KEY_LEN..].copy_from_slice(&self.hello);
        bytes
    }

    /// Reads an entry of the Secret; `None` when it is not 48 bytes long.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (data, hello) = bytes.split_first_chunk::<KEY_LEN>()?;
        Some(Self { data: Key(*data), hello: hello.try_into().ok()? })
    }
}

/// The key between EPIC nodes for `subject`.
pub fn node_key(master: &[u8], subject: &Subject) -> Key {
    Key(expand(master, LABEL_NODE, subject))
}

/// The seed of flow hashes. The same on all nodes, and nobody else knows it: who did could choose the ports of his flows
/// so that all of them meet one proxy.
pub fn flow_hash_seed(master: &[u8]) -> u32 {
    let mut out = [0; 4];
    let expanded = Hkdf::<Sha256>::new(None, master).expand(LABEL_FLOW_HASH, &mut out);
    assert!(expanded.is_ok(), "HKDF-SHA256 gives up to 8,160 bytes");
    u32::from_be_bytes(out)
}

fn expand<const N: usize>(master: &[u8], label: &[u8], subject: &Subject) -> [u8; N] {
    let mut out = [0; N];
    let expanded = Hkdf::<Sha256>::new(None, master).expand_multi_info(
        &[
            label,
            &subject.lb.group.to_be_bytes(),
            &subject.lb.service.to_be_bytes(),
            &subject.uid,
            &subject.generation.to_be_bytes(),
        ],
        &mut out,
    );
    assert!(expanded.is_ok(), "HKDF-SHA256 gives up to 8,160 bytes");
    out
}

/// The MAC of an entry under an encoded header, with the hello key of the tunnel's LoadBalancer.
pub fn entry_mac(key: &[u8; HELLO_KEY_LEN], header: &[u8; HEADER_LEN], entry: &Entry) -> [u8; MAC_LEN] {
    hmac(key, &[&mac_input(header, entry)])
}

/// Whether the MAC of a received entry is right; in constant time.
pub fn verify_entry(key: &[u8; HELLO_KEY_LEN], header: &[u8; HEADER_LEN], entry: &Entry) -> bool {
    entry_mac(key, header, entry).ct_eq(&entry.mac).into()
}

/// A secret of one agent process from which it makes its cookies; random, never stored.
#[derive(Clone)]
pub struct CookieSecret([u8; 32]);

impl core::fmt::Debug for CookieSecret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("CookieSecret(..)")
    }
}

impl CookieSecret {
    /// From 32 random bytes.
    pub const fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// The cookie for a client observed at `address`, `port` in `epoch`, a counter the agent moves on every
    /// minute or so.
    pub fn cookie(&self, address: &Ip, port: u16, session: u64, epoch: u32) -> [u8; COOKIE_LEN] {
        hmac(
            &self.0,
            &[
                LABEL_COOKIE,
                &address.octets(),
                &port.to_be_bytes(),
                &session.to_be_bytes(),
                &epoch.to_be_bytes(),
            ],
        )
    }

    /// Whether `cookie` was made for this client in `epoch` or the one before; in constant time.
    pub fn verify(
        &self,
        cookie: &[u8; COOKIE_LEN],
        address: &Ip,
        port: u16,
        session: u64,
        epoch: u32,
    ) -> bool {
        let now = self.cookie(address, port, session, epoch).ct_eq(cookie);
        let before = self.cookie(address, port, session, epoch.wrapping_sub(1)).ct_eq(cookie);
        (now | before).into()
    }
}

fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 16] {
    // A key of 32 bytes fits the block, so this form cannot fail for want of a length.
    let mut block = [0; 64];
    block[..32].copy_from_slice(key);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    for part in parts {
        mac.update(part);
    }
    let full = mac.finalize().into_bytes();
    let mut out = [0; 16];
    out.copy_from_slice(&full[..16]);
    out
}
