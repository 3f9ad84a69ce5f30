//! The numbers that name things on the wire and in the maps, one type each.
//!
//! Two of them stand side by side in most map keys, so they must not be interchangeable. Zero is never granted.

use std::fmt;

/// A number does not fit the ID it is meant for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value} is out of range")]
pub struct OutOfRange {
    what: &'static str,
    value: i128,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty), $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($int);

        impl $name {
            /// An ID of this value.
            ///
            /// # Errors
            /// [`OutOfRange`] for zero, negative values and values wider than the ID.
            pub fn new(value: impl Into<i128>) -> Result<Self, OutOfRange> {
                let value = value.into();
                match <$int>::try_from(value) {
                    Ok(v) if v > 0 => Ok(Self(v)),
                    _ => Err(OutOfRange { what: $what, value }),
                }
            }

            /// The number.
            pub const fn get(self) -> $int {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// Group of an account; on the wire in every GUE packet.
    GroupId(u16), "group id"
}
id! {
    /// LoadBalancer within its group; on the wire in every GUE packet.
    ServiceId(u16), "service id"
}
id! {
    /// One tunnel: (LoadBalancer, client node, EPIC node).
    TunnelId(u32), "tunnel id"
}
id! {
    /// One proxy pod; `proxy-addresses` base + this is its address.
    ProxyId(u32), "proxy id"
}
id! {
    /// Endpoint within its account; `alias-addresses` base + this is its alias.
    EndpointId(u16), "endpoint id"
}
