//! Tests of the engine with a toy load balancer.

#[cfg(test)]
mod basics;
#[cfg(test)]
mod findings;
#[cfg(test)]
mod history;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod running;
#[cfg(test)]
mod support;
#[cfg(test)]
mod toy;
#[cfg(test)]
mod upkeep;
