//! What a proxy says that it is: Envoy tells its version and what it was built with in the first request of a stream.
//!
//! Nothing is decided by it. It is kept so that an administrator sees during an upgrade which proxies are still of
//! the version before, and whether one lacks an extension that a rejection is about.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;

/// Longest text that is kept of a name or version, in characters.
const MAX_TEXT: usize = 128;
/// Most extensions that are kept; Envoy has some 400.
const MAX_EXTENSIONS: usize = 1_024;

/// Program, version and extensions of a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Software {
    /// Name of the program, `envoy`; empty when the proxy does not say.
    pub name: Arc<str>,
    /// Its version, `1.40.0`; empty when the proxy does not say.
    pub version: Arc<str>,
    /// Names of the extensions that it has and that are not disabled.
    pub extensions: BTreeSet<Arc<str>>,
}

impl Software {
    /// What the node of a first request says.
    pub(crate) fn of(node: &Node) -> Self {
        let version = match &node.user_agent_version_type {
            Some(UserAgentVersionType::UserAgentVersion(text)) => printable(text),
            Some(UserAgentVersionType::UserAgentBuildVersion(build)) => match &build.version {
                Some(v) => format!("{}.{}.{}", v.major_number, v.minor_number, v.patch).into(),
                None => Arc::default(),
            },
            None => Arc::default(),
        };
        let enabled = node.extensions.iter().filter(|extension| !extension.disabled);
        let extensions = enabled.map(|extension| printable(&extension.name)).take(MAX_EXTENSIONS).collect();
        Self { name: printable(&node.user_agent_name), version, extensions }
    }

    /// Memory that it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        let names: usize = self.extensions.iter().map(|name| name.len() + 2 * size_of::<Arc<str>>()).sum();
        names + self.name.len() + self.version.len()
    }
}

/// The text without what a terminal or a log would take for something else.
fn printable(text: &str) -> Arc<str> {
    let plain = text.chars().filter(|c| c.is_ascii_graphic());
    plain.take(MAX_TEXT).collect::<String>().into()
}

impl fmt::Display for Software {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&*self.name, &*self.version) {
            ("", "") => f.write_str("unknown"),
            ("", version) => f.write_str(version),
            (name, "") => f.write_str(name),
            (name, version) => write!(f, "{name} {version}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoy_types::pb::envoy::config::core::v3::{BuildVersion, Extension};
    use envoy_types::pb::envoy::r#type::v3::SemanticVersion;

    #[test]
    fn a_node_says_program_version_and_extensions_and_nothing_that_does_not_print() {
        let version = SemanticVersion { major_number: 1, minor_number: 40, patch: 2 };
        let build = BuildVersion { version: Some(version), metadata: None };
        let extension =
            |name: &str, disabled| Extension { name: name.into(), disabled, ..Extension::default() };
        let node = Node {
            user_agent_name: "envoy\u{1b}[31m\n".into(),
            user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(build)),
            extensions: vec![extension("a", false), extension("b", true), extension("a", false)],
            ..Node::default()
        };
        let said = Software::of(&node);
        assert_eq!(said.to_string(), "envoy[31m 1.40.2");
        assert_eq!(said.extensions, BTreeSet::from(["a".into()]));
        assert_eq!(Software::of(&Node::default()), Software::default());
        assert_eq!(Software::default().to_string(), "unknown");
    }

    #[test]
    fn what_a_proxy_says_is_cut() {
        let long = "x".repeat(10_000);
        let extensions = (0..5_000).map(|n| Extension { name: format!("{n}{long}"), ..Extension::default() });
        let node =
            Node { user_agent_name: long.clone(), extensions: extensions.collect(), ..Node::default() };
        assert!(Software::of(&node).bytes() < 256 << 10);
    }
}
