//! The pure domain: allocation plans, names, proxies and tunnels as values.
