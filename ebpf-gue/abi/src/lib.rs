//! Wire formats and map layouts shared by the BPF programs, the loader, the agent and the tests.
