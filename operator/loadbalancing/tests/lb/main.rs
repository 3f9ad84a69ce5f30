//! Tests of tables, Writer, reconciler and maps together.

mod properties;
mod running;
mod scripts;
mod support;
mod tables;
