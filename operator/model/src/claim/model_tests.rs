//! The protocol for claims, explored.
