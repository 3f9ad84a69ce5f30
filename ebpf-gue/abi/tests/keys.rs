//! Keys and cookies: golden vectors, computed by another implementation of HKDF and HMAC.
#![cfg(feature = "keys")]

use epic_abi::{
    Ip, Lb,
    keys::{ClientKeys, CookieSecret, Subject, flow_hash_seed, node_key},
};

fn master() -> [u8; 32] {
    core::array::from_fn(|i| i as u8)
}

fn subject() -> Subject {
    Subject { lb: Lb::new(3, 7), uid: core::array::from_fn(|i| 0x10 + i as u8), generation: 1 }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn keys_have_their_golden_values() {
    let keys = ClientKeys::derive(&master(), &subject());
    assert_eq!(hex(&keys.data.0), "acd4105167380fc34fc6a281bcb377f0");
    assert_eq!(hex(&keys.hello), "bcf0e2775b6591c731dd46b066b36eb60690a0ba6985274b8278d8cd8290ef60");
    assert_eq!(hex(&node_key(&master(), &subject()).0), "a2fe94ae0b71a3bd58042ed83dbd8c56");
    assert_eq!(flow_hash_seed(&master()), 0x392d_17e9);
    let next = Subject { generation: 2, ..subject() };
    assert_eq!(hex(&ClientKeys::derive(&master(), &next).data.0), "868c1b54c02ba1b3fb8230a70e4d9848");
}

#[test]
fn every_part_of_the_subject_changes_the_keys() {
    let keys = ClientKeys::derive(&master(), &subject());
    let mut uid = subject().uid;
    uid[15] ^= 1;
    for other in [
        Subject { lb: Lb::new(7, 3), ..subject() },
        Subject { lb: Lb::new(3, 8), ..subject() },
        Subject { uid, ..subject() },
        Subject { generation: 3, ..subject() },
    ] {
        assert_ne!(ClientKeys::derive(&master(), &other), keys, "{other:?}");
    }
    assert_ne!(ClientKeys::derive(&[0; 32], &subject()), keys);
}

#[test]
fn an_entry_of_the_secret_is_read_as_it_was_written() {
    let keys = ClientKeys::derive(&master(), &subject());
    assert_eq!(ClientKeys::from_bytes(&keys.to_bytes()), Some(keys));
    assert_eq!(ClientKeys::from_bytes(&keys.to_bytes()[..47]), None);
    assert_eq!(ClientKeys::from_bytes(&[0; 49]), None);
    assert_eq!(format!("{keys:?}"), "ClientKeys(..)");
}

#[test]
fn a_cookie_counts_for_one_address_port_and_session_and_two_epochs() {
    let secret = CookieSecret::new([7; 32]);
    let (address, port, session) = (Ip::v4([203, 0, 113, 9]), 40001, 0x1122_3344_5566_7788);
    let cookie = secret.cookie(&address, port, session, 3);
    assert_eq!(hex(&cookie), "055171fec3640f03b85854f3614d7efb");
    assert!(secret.verify(&cookie, &address, port, session, 3));
    assert!(secret.verify(&cookie, &address, port, session, 4));
    assert!(!secret.verify(&cookie, &address, port, session, 5));
    assert!(!secret.verify(&cookie, &address, port, session, 2));
    assert!(!secret.verify(&cookie, &address, port + 1, session, 3));
    assert!(!secret.verify(&cookie, &Ip::v4([203, 0, 113, 8]), port, session, 3));
    assert!(!secret.verify(&cookie, &address, port, session + 1, 3));
    assert!(!CookieSecret::new([8; 32]).verify(&cookie, &address, port, session, 3));
}
