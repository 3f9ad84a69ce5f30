//! One coherent snapshot of many Kubernetes kinds, with read-your-writes.
