//! Closed lists of reasons.
//!
//! Each kind has one enum, and its conditions, its Events and its metrics all use that enum: what an
//! administrator sees in `kubectl describe` is what an alert says. An enum is made by [`reasons!`], which also
//! keeps the doc text of each reason for the generated reference.

/// One of a kind's closed list of reasons.
pub trait Reason: Copy + Eq + std::hash::Hash + 'static {
    /// Every reason with what it means, in the order of declaration.
    const ALL: &'static [(Self, &'static str)];

    /// The text in conditions, Events and metric labels (CamelCase).
    fn as_str(self) -> &'static str;

    /// The reason with this text, if there is one.
    fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().map(|(reason, _)| *reason).find(|reason| reason.as_str() == text)
    }
}

/// Declares the reason enum of a kind.
macro_rules! reasons {
    ($(#[$enum_doc:meta])* $name:ident { $( #[doc = $doc:literal] $variant:ident, )+ }) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $( #[doc = $doc] $variant, )+
        }

        impl $crate::reason::Reason for $name {
            const ALL: &'static [(Self, &'static str)] = &[$( ($name::$variant, $doc), )+];

            fn as_str(self) -> &'static str {
                match self { $( $name::$variant => stringify!($variant), )+ }
            }
        }

        impl $name {
            /// The text in conditions, Events and metric labels (CamelCase).
            pub fn as_str(self) -> &'static str {
                $crate::reason::Reason::as_str(self)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use reasons;
