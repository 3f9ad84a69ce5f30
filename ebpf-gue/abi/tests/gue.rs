//! The GUE header: golden bytes, and everything else refused.

use epic_abi::{
    Lb,
    gue::{self, Error, Header, Inner, Key, Packet},
};
use proptest::prelude::*;

const KEY: Key = Key(*b"0123456789abcdef");
const GOLDEN_V4: [u8; 24] = *b"\x05\x04\xa0\x00\x00\x03\x00\x070123456789abcdef";
const GOLDEN_V6: [u8; 24] = *b"\x05\x29\xa0\x00\x00\x03\x00\x070123456789abcdef";

fn header(inner: Inner) -> Header {
    Header { inner, lb: Lb::new(3, 7), key: KEY }
}

#[test]
fn headers_have_their_golden_bytes() {
    assert_eq!(gue::encode(&header(Inner::V4)), GOLDEN_V4);
    assert_eq!(gue::encode(&header(Inner::V6)), GOLDEN_V6);
    assert_eq!(gue::decode(&GOLDEN_V4), Ok(Packet::Data(header(Inner::V4))));
    assert_eq!(gue::decode(&GOLDEN_V6), Ok(Packet::Data(header(Inner::V6))));
    assert_eq!(gue::encode_control(gue::CONTROL_TYPE_HELLO), [0x20, 0x48, 0, 0]);
}

#[test]
fn the_length_field_is_true_to_the_bytes_present() {
    let words = usize::from(GOLDEN_V4[0] & 0x1F);
    assert_eq!(4 + words * 4, gue::HEADER_LEN);
    assert_eq!(usize::from(gue::OVERHEAD_V4), 20 + 8 + gue::HEADER_LEN);
    assert_eq!(usize::from(gue::OVERHEAD_V6), 40 + 8 + gue::HEADER_LEN);
}

#[test]
fn another_version_length_flag_or_protocol_is_refused() {
    let with = |at: usize, byte: u8| {
        let mut bytes = GOLDEN_V4;
        bytes[at] = byte;
        gue::decode(&bytes)
    };
    assert_eq!(with(0, 0x45), Err(Error::Version));
    assert_eq!(with(0, 0x04), Err(Error::Length));
    assert_eq!(with(0, 0x06), Err(Error::Length));
    assert_eq!(with(0, 0x21), Err(Error::Length));
    assert_eq!(with(0, 0x20), Err(Error::Flags));
    assert_eq!(with(1, 17), Err(Error::Protocol));
    assert_eq!(with(2, 0xE0), Err(Error::Flags));
    assert_eq!(with(3, 0x01), Err(Error::Flags), "the reserved tag is not accepted yet");
}

#[test]
fn a_truncated_header_is_refused_at_every_length() {
    for len in 0..GOLDEN_V4.len() {
        assert_eq!(gue::decode(&GOLDEN_V4[..len]), Err(Error::Truncated), "{len} bytes");
    }
    assert_eq!(gue::decode(&[0x20, 0x48, 0]), Err(Error::Truncated));
    assert_eq!(gue::decode(&[0x20, 0x48, 0, 0]), Ok(Packet::Control(0x48)));
}

#[test]
fn keys_are_not_printed() {
    assert!(
        !format!("{:?}", header(Inner::V4)).contains("48"),
        "48 is the first byte of the key, as a number"
    );
    assert_eq!(format!("{KEY:?}"), "Key(..)");
}

proptest! {
    #[test]
    fn what_is_decoded_is_what_was_encoded(group: u16, service: u16, key: [u8; 16], v6: bool, tail: Vec<u8>) {
        let inner = if v6 { Inner::V6 } else { Inner::V4 };
        let header = Header { inner, lb: Lb::new(group, service), key: Key(key) };
        let mut bytes = gue::encode(&header).to_vec();
        bytes.extend(tail);
        prop_assert_eq!(gue::decode(&bytes), Ok(Packet::Data(header)));
    }

    #[test]
    fn only_what_would_be_encoded_is_decoded(bytes: [u8; 24]) {
        if let Ok(Packet::Data(header)) = gue::decode(&bytes) {
            prop_assert_eq!(gue::encode(&header), bytes);
        }
    }
}
