//! Tests of tables, transactions, watches, change iterators and initializers together.

#[cfg(test)]
mod changes;
#[cfg(test)]
mod initializers;
#[cfg(test)]
mod leaks;
#[cfg(test)]
mod listings;
#[cfg(test)]
mod model;
#[cfg(test)]
mod queries;
#[cfg(test)]
mod races;
#[cfg(test)]
mod support;
#[cfg(test)]
mod transactions;
#[cfg(test)]
mod watches;
