//! Loads, pins, attaches, adopts and reads the BPF programs and maps.
