//! Hello messages: golden bytes, and everything else refused.

use epic_abi::{
    Ip,
    hello::{self, ENTRY_LEN, Entry, Error, HEADER_LEN, Header, Kind, MAX_ENTRIES, MAX_LEN, Status},
};
use proptest::prelude::*;

const COOKIE: [u8; 16] =
    [0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf];
const MAC: [u8; 16] =
    [0x23, 0xf4, 0xe3, 0xdc, 0x99, 0x8a, 0x7f, 0x48, 0x92, 0x03, 0x6d, 0x56, 0xa8, 0x37, 0x18, 0x88];

/// Written by another implementation: sequence 5, session 0x1122334455667788, from 192.168.1.25:6080 every 2 s,
/// round trip 1,500 us, tunnel 9, generation 1.
const GOLDEN: &[u8] = b"\x01\x01\x01\x00\x00\x00\x00\x05\x11\x22\x33\x44\x55\x66\x77\x88\
    \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\xa8\x01\x19\x17\xc0\x07\xd0\x00\x00\x05\xdc\
    \xa0\xa1\xa2\xa3\xa4\xa5\xa6\xa7\xa8\xa9\xaa\xab\xac\xad\xae\xaf\
    \x00\x00\x00\x09\x00\x00\x00\x01\x00\x00\x00\x00\
    \x23\xf4\xe3\xdc\x99\x8a\x7f\x48\x92\x03\x6d\x56\xa8\x37\x18\x88";

fn header(kind: Kind) -> Header {
    Header {
        kind,
        sequence: 5,
        session: 0x1122_3344_5566_7788,
        address: Ip::v4([192, 168, 1, 25]),
        port: 6080,
        period_millis: 2000,
        round_trip_micros: 1500,
        cookie: COOKIE,
    }
}

fn entry() -> Entry {
    Entry { tunnel: 9, generation: 1, status: Status::Up, mac: MAC }
}

#[test]
fn a_hello_has_its_golden_bytes() {
    let mut out = [0; MAX_LEN];
    let len = hello::encode(&header(Kind::Hello), &[entry()], &mut out).unwrap();
    assert_eq!(&out[..len], GOLDEN);
    let message = hello::decode(GOLDEN).unwrap();
    assert_eq!(message.header, header(Kind::Hello));
    assert_eq!(message.entries().collect::<Vec<_>>(), [entry()]);
    assert_eq!(message.header_bytes(), &hello::encode_header(&header(Kind::Hello), 1));
}

#[cfg(feature = "keys")]
#[test]
fn the_golden_mac_is_the_one_of_the_golden_keys() {
    use epic_abi::{Lb, keys};
    let master: [u8; 32] = core::array::from_fn(|i| i as u8);
    let uid: [u8; 16] = core::array::from_fn(|i| 0x10 + i as u8);
    let keys = keys::ClientKeys::derive(&master, &keys::Subject { lb: Lb::new(3, 7), uid, generation: 1 });
    let message = hello::decode(GOLDEN).unwrap();
    let entry = message.entries().next().unwrap();
    assert!(keys::verify_entry(&keys.hello, message.header_bytes(), &entry));

    for at in 0..GOLDEN.len() {
        let mut forged = GOLDEN.to_vec();
        forged[at] ^= 1;
        let Ok(message) = hello::decode(&forged) else { continue };
        let entry = message.entries().next().unwrap();
        assert!(!keys::verify_entry(&keys.hello, message.header_bytes(), &entry), "byte {at} is not covered");
    }
}

#[test]
fn no_answer_is_longer_than_its_hello() {
    let mut out = [0; MAX_LEN];
    let hello = hello::encode(&header(Kind::Hello), &[entry()], &mut out).unwrap();
    let challenge = hello::encode(&header(Kind::Challenge), &[], &mut out).unwrap();
    let answer = hello::encode(&header(Kind::Answer), &[entry()], &mut out).unwrap();
    assert!(challenge < hello && answer == hello);
}

#[test]
fn the_longest_message_needs_no_fragments() {
    assert_eq!(MAX_LEN, HEADER_LEN + MAX_ENTRIES * ENTRY_LEN);
    const { assert!(40 + 8 + 4 + MAX_LEN <= 1280) };
}

#[test]
fn messages_of_another_version_kind_or_shape_are_refused() {
    let with = |at: usize, byte: u8| {
        let mut bytes = GOLDEN.to_vec();
        bytes[at] = byte;
        hello::decode(&bytes).map(|m| m.header)
    };
    assert_eq!(with(0, 2), Err(Error::Version(2)));
    assert_eq!(with(1, 0), Err(Error::Kind(0)));
    assert_eq!(with(1, 2), Err(Error::Entries(1)), "a challenge has no entries");
    assert_eq!(with(2, 0), Err(Error::Entries(0)));
    assert_eq!(with(2, 2), Err(Error::Length));
    assert_eq!(with(2, 41), Err(Error::Entries(41)));
    assert_eq!(with(3, 1), Err(Error::Reserved));
    assert_eq!(with(HEADER_LEN + 9, 1), Err(Error::Reserved));
    for len in 0..GOLDEN.len() {
        assert!(hello::decode(&GOLDEN[..len]).is_err(), "{len} bytes");
    }
    let mut longer = GOLDEN.to_vec();
    longer.push(0);
    assert_eq!(hello::decode(&longer).map(|m| m.header), Err(Error::Length));
}

#[test]
fn more_entries_than_fit_are_refused_when_encoding() {
    let mut out = [0; MAX_LEN + ENTRY_LEN];
    let entries = [entry(); MAX_ENTRIES + 1];
    assert_eq!(hello::encode(&header(Kind::Hello), &entries, &mut out), Err(Error::Entries(41)));
    assert_eq!(hello::encode(&header(Kind::Hello), &[], &mut out), Err(Error::Entries(0)));
    assert_eq!(hello::encode(&header(Kind::Hello), &[entry()], &mut out[..10]), Err(Error::Length));
    assert_eq!(hello::encode(&header(Kind::Hello), &entries[1..], &mut out), Ok(MAX_LEN));
}

proptest! {
    #[test]
    fn what_is_decoded_is_what_was_encoded(
        sequence: u32, session: u64, address: [u8; 16], port: u16, period_millis: u16, round_trip_micros: u32,
        cookie: [u8; 16], answer: bool,
        entries in prop::collection::vec((any::<u32>(), any::<u32>(), 0u8..6, any::<[u8; 16]>()), 1..=MAX_ENTRIES),
    ) {
        let kind = if answer { Kind::Answer } else { Kind::Hello };
        let address = Ip::v6(address);
        let header =
            Header { kind, sequence, session, address, port, period_millis, round_trip_micros, cookie };
        let entries: Vec<Entry> = entries
            .into_iter()
            .map(|(tunnel, generation, status, mac)| {
                Entry { tunnel, generation, status: Status::from_byte(status), mac }
            })
            .collect();
        let mut out = [0; MAX_LEN];
        let len = hello::encode(&header, &entries, &mut out).unwrap();
        let message = hello::decode(&out[..len]).unwrap();
        prop_assert_eq!(message.header, header);
        prop_assert_eq!(message.entries().collect::<Vec<_>>(), entries);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>) {
        if let Ok(message) = hello::decode(&bytes) {
            prop_assert!(message.entries().len() <= MAX_ENTRIES);
        }
    }
}
