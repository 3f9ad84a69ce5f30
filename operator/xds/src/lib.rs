//! Envoy resources from the tables, and the protocol engine that serves them.
