//! Command line for administrators: also kubectl-epic.
fn main() {}
