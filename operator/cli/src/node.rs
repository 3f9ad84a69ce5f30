//! `epicctl node shell`: how to look into the tables and maps of a node.
//!
//! An agent answers on a Unix socket in its pod, for root alone, so whoever looks in must be able to `exec` there. That is
//! kubectl's trade: this prints the command that does it, rather than carry a WebSocket client.

use clap::Args;
use epic_crds::well_known::EPIC_NAMESPACE;

use crate::api::Connection;

/// Pods of node agents, as the chart labels them.
const AGENTS: &str = "app.kubernetes.io/name=epic-agent";

/// Which node, and what to do there.
#[derive(Clone, Debug, Args)]
pub struct ShellArguments {
    /// Name of the Node.
    pub node: String,
    /// What to do, for example `selection 192.0.2.7:443 -o json`. Absent: a prompt.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// The command, as a POSIX shell reads it.
pub fn shell(wanted: &ShellArguments, connection: &Connection) -> String {
    let mut kubectl = "kubectl".to_owned();
    if let Some(path) = &connection.kubeconfig {
        kubectl += &format!(" --kubeconfig {}", quoted(&path.display().to_string()));
    }
    if let Some(context) = &connection.context {
        kubectl += &format!(" --context {}", quoted(context));
    }
    let node = quoted(&format!("spec.nodeName={}", wanted.node));
    let pod = format!("{kubectl} get pods -n {EPIC_NAMESPACE} -l {AGENTS} --field-selector {node} -o name");
    let terminal = if wanted.command.is_empty() { "-it " } else { "" };
    let words: String = wanted.command.iter().map(|word| format!(" {}", quoted(word))).collect();
    format!("{kubectl} exec {terminal}-n {EPIC_NAMESPACE} \"$({pod})\" -- epic-agent shell{words}\n")
}

/// A word that a shell takes as it is.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(node: &str, command: &[&str]) -> ShellArguments {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        ShellArguments { node: node.to_owned(), command }
    }

    #[test]
    fn a_command_is_run_in_the_agents_pod_of_that_node() {
        let connection = Connection { kubeconfig: None, context: Some("edge".to_owned()) };
        assert_eq!(
            shell(&wanted("node-1", &["selection", "[2001:db8::7]:443", "-o", "json"]), &connection),
            "kubectl --context edge exec -n epic \"$(kubectl --context edge get pods -n epic -l \
             app.kubernetes.io/name=epic-agent --field-selector spec.nodeName=node-1 -o \
             name)\" -- epic-agent shell selection '[2001:db8::7]:443' -o json\n"
        );
        assert!(
            shell(&wanted("node-1", &[]), &Connection::default()).starts_with("kubectl exec -it -n epic ")
        );
    }

    #[test]
    fn no_word_ends_the_command() {
        assert_eq!(quoted("a; rm -rf /"), "'a; rm -rf /'");
        assert_eq!(quoted("it's $(this)"), "'it'\\''s $(this)'");
        assert_eq!(quoted(""), "''");
    }
}
