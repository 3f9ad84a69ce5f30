//! The BPF object, embedded at the alignment that parsing it in place needs.

/// Bytes at the alignment of the largest integer.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("EPIC_BPF_OBJECT")));

/// The object as it is checked in: built by `make bpf`, described by its manifest.
pub fn bytes() -> &'static [u8] {
    &ALIGNED.0
}
