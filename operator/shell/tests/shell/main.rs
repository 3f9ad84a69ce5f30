//! Every command, on tables and maps in memory.

#[cfg(test)]
mod direct;
#[cfg(test)]
mod parsing;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod transcripts;
