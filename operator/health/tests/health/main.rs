//! Tests of the checker in virtual time, and of probes and node ports on sockets of the loopback.

#[cfg(test)]
mod checker;
#[cfg(test)]
mod grpc;
#[cfg(test)]
mod http1;
#[cfg(test)]
mod node_port;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tcp;
