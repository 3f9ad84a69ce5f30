//! Load-balancing tables, their Writer, selection, and the reconciler that turns them into maps.
