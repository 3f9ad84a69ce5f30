//! Tests of sources: what they read in, tables out.

#[cfg(test)]
mod cluster;
#[cfg(test)]
mod etcd;
#[cfg(test)]
mod file;
#[cfg(test)]
mod health;
#[cfg(test)]
mod host_ports;
#[cfg(test)]
mod kubernetes;
#[cfg(test)]
mod socket;
#[cfg(test)]
mod started;
#[cfg(test)]
mod support;
