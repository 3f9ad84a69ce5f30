//! Tests of the program: it is run, and what it says is read.

#[cfg(test)]
mod etcd;
#[cfg(test)]
mod health;
#[cfg(test)]
mod kubernetes;
#[cfg(test)]
mod running;
#[cfg(test)]
mod socket;
#[cfg(test)]
mod state;
