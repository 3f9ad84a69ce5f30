//! Tests of tables, Writer, reconciler and maps together.

#[cfg(test)]
mod churn;
#[cfg(test)]
mod client;
#[cfg(test)]
mod direct;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod scripts;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tenants;
#[cfg(test)]
mod writer;
