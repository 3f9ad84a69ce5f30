//! Types for numbers and names, so that two of them cannot be swapped.
//!
//! Numbers are parsed at the border (zero and values out of range do not exist inside) and are never checked again.
//! Names that the API server has checked already (uids, versions, object names) are opaque here; only names that
//! EPIC itself restricts are parsed: [`AccountName`] and [`TenantNamespace`].
//!
//! Widths: design §4 (group, service and endpoint 16 bit, tunnel 32 bit, proxy as wide as `proxy-addresses`, all
//! from 1).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number does not fit the ID it is meant for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value} is out of range; it must lie between 1 and {max}")]
pub struct OutOfRange {
    /// The kind of ID, in words.
    pub what: &'static str,
    /// The value that was given.
    pub value: i128,
    /// The largest value that fits.
    pub max: u32,
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "i64", into = "i64")]
        pub struct $name($inner);

        impl $name {
            /// The largest value.
            pub const MAX: $name = $name(<$inner>::MAX);

            /// An ID of this value. Zero means "none" on the wire and in status, so it is refused.
            ///
            /// # Errors
            /// [`OutOfRange`] for zero, negative values and values wider than the ID.
            pub fn new(value: impl Into<i128>) -> Result<Self, OutOfRange> {
                let value = value.into();
                match <$inner>::try_from(value) {
                    Ok(inner) if inner > 0 => Ok($name(inner)),
                    _ => Err(OutOfRange { what: $what, value, max: u32::from(<$inner>::MAX) }),
                }
            }

            /// The number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl TryFrom<i64> for $name {
            type Error = OutOfRange;
            fn try_from(value: i64) -> Result<Self, OutOfRange> {
                Self::new(value)
            }
        }

        impl TryFrom<u32> for $name {
            type Error = OutOfRange;
            fn try_from(value: u32) -> Result<Self, OutOfRange> {
                Self::new(value)
            }
        }

        impl From<$name> for i64 {
            fn from(id: $name) -> i64 {
                i64::from(id.0)
            }
        }

        impl From<$name> for u32 {
            fn from(id: $name) -> u32 {
                u32::from(id.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// The group ID of an account: the upper half of the GUE identification, unique in the system.
    GroupId(u16), "group id"
);
number!(
    /// The service ID of a LoadBalancer: the lower half of the GUE identification, unique within its account.
    ServiceId(u16), "service id"
);
number!(
    /// The ID of one tunnel (LoadBalancer, client node, EPIC node), unique in the system.
    TunnelId(u32), "tunnel id"
);
number!(
    /// The ID of one proxy pod, unique in the system. The proxy's address is the base of `proxy-addresses` plus this.
    ProxyId(u32), "proxy id"
);
number!(
    /// The ID of an Endpoint, unique within its account. Its alias is the base of `alias-addresses` plus this.
    EndpointId(u16), "endpoint id"
);

macro_rules! text {
    ($(#[$doc:meta])* $name:ident $(, $derive:ident)*) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize $(, $derive)*)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes the text as the API server gave it.
            pub fn new(text: impl Into<String>) -> Self {
                $name(text.into())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                $name(text.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                $name(text)
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> String {
                text.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

text!(
    /// The uid of an object: what tells an object from a namesake that was made after it was deleted.
    Uid, PartialOrd, Ord
);
text!(
    /// The resourceVersion of an object, as an opaque token. There is no order on purpose: the allocation protocols
    /// compare versions for equality only. What needs an order is a [`crate::revision::Revision`].
    ResourceVersion
);
text!(
    /// The name of an object.
    ObjectName, PartialOrd, Ord
);
text!(
    /// The namespace of an object.
    Namespace, PartialOrd, Ord
);
text!(
    /// The name of a Node of the EPIC cluster, and of its EPICNode.
    NodeName, PartialOrd, Ord
);
text!(
    /// The name of an AddressPool.
    PoolName, PartialOrd, Ord
);

impl Uid {
    /// The 16 bytes of a uid in the usual form `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`; `None` for any other text.
    /// Keys are derived from them.
    pub fn bytes(&self) -> Option<[u8; 16]> {
        let digits: Vec<u8> = self.0.bytes().filter(|byte| *byte != b'-').collect();
        if digits.len() != 32 || self.0.len() != 36 {
            return None;
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *byte = u8::try_from(high * 16 + low).ok()?;
        }
        Some(bytes)
    }
}

/// Seconds since the Unix epoch, as an input: a creation time or "now". This crate never reads a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seconds(pub i64);

impl Seconds {
    /// Seconds from `earlier` to this; zero if `earlier` is later.
    pub fn since(self, earlier: Seconds) -> i64 {
        self.0.saturating_sub(earlier.0).max(0)
    }
}

/// The kinds that own IDs or addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// An Account.
    Account,
    /// A LoadBalancer.
    LoadBalancer,
    /// An Endpoint.
    Endpoint,
}

impl Kind {
    /// Its name, as API objects have it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Account => "Account",
            Kind::LoadBalancer => "LoadBalancer",
            Kind::Endpoint => "Endpoint",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;
    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        match text {
            "Account" => Ok(Kind::Account),
            "LoadBalancer" => Ok(Kind::LoadBalancer),
            "Endpoint" => Ok(Kind::Endpoint),
            _ => Err(UnknownKind(text.to_owned())),
        }
    }
}

/// A kind that owns neither IDs nor addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kind {0:?} owns neither IDs nor addresses; expected Account, LoadBalancer or Endpoint")]
pub struct UnknownKind(pub String);

/// One object at one version: who a reservation or a claim belongs to, and the only version it is good for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ObjectVersion {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: ObjectName,
    /// Its uid.
    pub uid: Uid,
    /// The version that was read.
    pub resource_version: ResourceVersion,
}

impl ObjectVersion {
    /// Same object at the same version: what a live reservation needs.
    pub fn is_same_version(&self, other: &ObjectVersion) -> bool {
        self.uid == other.uid && self.resource_version == other.resource_version
    }
}

impl fmt::Display for ObjectVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// Why a text is no account name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountNameError {
    /// Longer than the tenant namespace leaves room for.
    #[error("account name {0:?} is longer than 58 characters; choose a shorter one")]
    TooLong(String),
    /// Not a DNS label.
    #[error(
        "account name {0:?} is no DNS label; use lower-case letters, digits and '-', starting and ending with a letter or digit"
    )]
    NotALabel(String),
    /// Not the namespace of a tenant.
    #[error("namespace {0:?} is no tenant namespace; those are named epic-<account>")]
    NotATenantNamespace(String),
}

/// The name of an account: a DNS label of at most 58 characters, so that `epic-<name>` is a namespace name (api.md).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccountName(String);

impl AccountName {
    /// The longest account name.
    pub const MAX_LEN: usize = 58;

    /// Parses an account name.
    ///
    /// # Errors
    /// [`AccountNameError`] if it is no DNS label of at most 58 characters.
    pub fn parse(text: &str) -> Result<Self, AccountNameError> {
        if text.len() > Self::MAX_LEN {
            return Err(AccountNameError::TooLong(text.to_owned()));
        }
        let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let whole = bytes.iter().all(|byte| inner(byte) || *byte == b'-');
        let ends = bytes.first().is_some_and(inner) && bytes.last().is_some_and(inner);
        if whole && ends {
            Ok(AccountName(text.to_owned()))
        } else {
            Err(AccountNameError::NotALabel(text.to_owned()))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespace of this account's tenant.
    pub fn namespace(&self) -> TenantNamespace {
        TenantNamespace { account: self.clone(), namespace: Namespace::new(format!("epic-{}", self.0)) }
    }
}

impl TryFrom<String> for AccountName {
    type Error = AccountNameError;
    fn try_from(text: String) -> Result<Self, AccountNameError> {
        Self::parse(&text)
    }
}

impl FromStr for AccountName {
    type Err = AccountNameError;
    fn from_str(text: &str) -> Result<Self, AccountNameError> {
        Self::parse(text)
    }
}

impl From<AccountName> for String {
    fn from(name: AccountName) -> String {
        name.0
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The namespace of a tenant, `epic-<account>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantNamespace {
    account: AccountName,
    namespace: Namespace,
}

impl TenantNamespace {
    /// Parses `epic-<account>`.
    ///
    /// # Errors
    /// [`AccountNameError`] for the namespace `epic` itself, a missing prefix, or what is no account name after it.
    pub fn parse(text: &str) -> Result<Self, AccountNameError> {
        let account = text
            .strip_prefix("epic-")
            .ok_or_else(|| AccountNameError::NotATenantNamespace(text.to_owned()))?;
        Ok(AccountName::parse(account)?.namespace())
    }

    /// The account it belongs to.
    pub fn account(&self) -> &AccountName {
        &self.account
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        self.namespace.as_str()
    }

    /// The name as any namespace's.
    pub fn as_namespace(&self) -> &Namespace {
        &self.namespace
    }
}

impl TryFrom<String> for TenantNamespace {
    type Error = AccountNameError;
    fn try_from(text: String) -> Result<Self, AccountNameError> {
        Self::parse(&text)
    }
}

impl From<TenantNamespace> for String {
    fn from(namespace: TenantNamespace) -> String {
        namespace.namespace.into()
    }
}

impl fmt::Display for TenantNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.namespace.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_and_too_wide_values_are_no_ids() {
        assert!(GroupId::new(0).is_err());
        assert!(GroupId::new(65_536).is_err());
        assert!(ServiceId::new(-1).is_err());
        assert_eq!(GroupId::new(65_535).unwrap(), GroupId::MAX);
        assert_eq!(TunnelId::new(u32::MAX).unwrap().get(), u32::MAX);
        assert_eq!(
            GroupId::new(0).unwrap_err().to_string(),
            "group id 0 is out of range; it must lie between 1 and 65535"
        );
    }

    #[test]
    fn an_account_name_leaves_room_for_the_namespace_prefix() {
        assert!(AccountName::parse(&"a".repeat(58)).is_ok());
        assert!(matches!(AccountName::parse(&"a".repeat(59)), Err(AccountNameError::TooLong(_))));
        for wrong in ["", "-a", "a-", "A", "a.b", "ä"] {
            assert!(matches!(AccountName::parse(wrong), Err(AccountNameError::NotALabel(_))), "{wrong}");
        }
    }

    #[test]
    fn a_tenant_namespace_names_its_account() {
        let namespace = TenantNamespace::parse("epic-acme-widgets").unwrap();
        assert_eq!(namespace.account().as_str(), "acme-widgets");
        assert_eq!(namespace, AccountName::parse("acme-widgets").unwrap().namespace());
        assert!(TenantNamespace::parse("epic").is_err());
        assert!(TenantNamespace::parse("epic-").is_err());
        assert!(TenantNamespace::parse("default").is_err());
    }

    #[test]
    fn a_uid_has_sixteen_bytes() {
        let uid = Uid::new("1a8522b9-70a4-4a9c-bdd7-ba912a61170a");
        assert_eq!(uid.bytes().unwrap()[..4], [0x1a, 0x85, 0x22, 0xb9]);
        assert_eq!(Uid::new("short").bytes(), None);
        assert_eq!(Uid::new("zz8522b9-70a4-4a9c-bdd7-ba912a61170a").bytes(), None);
    }
}
