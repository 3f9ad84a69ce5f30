//! The data plane in plain network namespaces: real programs, real TCP, maps written by hand.
//!
//! Each module is one topic. Everything needs root and says so when it has not got it.

mod adoption;
mod client_host;
mod frames;
mod isolation;
mod layouts;
mod links;
mod mtu;
mod refusals;
mod service_path;
mod support;
mod ways;
mod wire;
mod written_maps;
