//! What end-to-end scenarios need: the staged lab, and requests that go on while something happens to it.

pub mod lab;
pub mod stream;
