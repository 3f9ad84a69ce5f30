//! The protocol for IDs, explored.
