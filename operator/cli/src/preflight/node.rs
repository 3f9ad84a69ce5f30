//! What only a node itself knows, judged: `epicctl preflight --node` runs there, as any user.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;

use super::{Check, OLDEST_KERNEL, version};

/// Type of Ethernet devices in `/sys/class/net/*/type` (ARPHRD_ETHER).
const ETHERNET: &str = "1";

/// What was read of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `/proc/sys/kernel/osrelease`.
    pub kernel: String,
    /// `/proc/mounts`.
    pub mounts: String,
    /// `/proc/net/route`.
    pub routes: String,
    /// Whether `/sys/kernel/btf/vmlinux` is there.
    pub has_btf: bool,
    /// Name, type and operational state of each interface.
    pub interfaces: Vec<(String, String, String)>,
    /// Why the GUE port cannot be bound; nothing where it can.
    pub port_taken: Option<String>,
    /// The port that was tried.
    pub port: u16,
}

/// Reads this machine. What cannot be read is left empty, and judged so.
pub fn gather(port: u16) -> Facts {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut interfaces: Vec<(String, String, String)> = entries
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, read(&entry.path().join("type")), read(&entry.path().join("operstate")))
        })
        .collect();
    interfaces.sort();
    Facts {
        kernel: read(Path::new("/proc/sys/kernel/osrelease")),
        mounts: read(Path::new("/proc/mounts")),
        routes: read(Path::new("/proc/net/route")),
        has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        interfaces,
        port_taken: UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).err().map(|error| error.to_string()),
        port,
    }
}

/// All checks of a node.
pub fn judge(facts: &Facts) -> Vec<Check> {
    vec![kernel(facts), bpffs(facts), btf(facts), uplink(facts), port(facts)]
}

fn kernel(facts: &Facts) -> Check {
    const NAME: &str = "kernel";
    let (major, minor) = OLDEST_KERNEL;
    match version(&facts.kernel) {
        None => Check::unknown(NAME, format!("its release {:?} cannot be read", facts.kernel)),
        Some(found) if found >= OLDEST_KERNEL => Check::ok(NAME, facts.kernel.clone()),
        Some(_) => {
            Check::fail(NAME, format!("{} is older than {major}.{minor}", facts.kernel), "upgrade the kernel")
        }
    }
}

fn bpffs(facts: &Facts) -> Check {
    const NAME: &str = "bpffs";
    let is_mounted = facts.mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some("/sys/fs/bpf") && fields.next() == Some("bpf")
    });
    match is_mounted {
        true => Check::ok(NAME, "mounted at /sys/fs/bpf"),
        false => Check::fail(
            NAME,
            "no BPF file system at /sys/fs/bpf, where maps and links outlive the agent",
            "mount -t bpf bpf /sys/fs/bpf, and the same in /etc/fstab",
        ),
    }
}

fn btf(facts: &Facts) -> Check {
    match facts.has_btf {
        true => Check::ok("BTF", "the kernel describes its types"),
        false => Check::warn(
            "BTF",
            "no /sys/kernel/btf/vmlinux: dumps of maps and programs are harder to read",
            "a kernel with CONFIG_DEBUG_INFO_BTF",
        ),
    }
}

/// The interface that most things leave by.
fn uplink(facts: &Facts) -> Check {
    const NAME: &str = "uplink";
    // Interface, destination and mask are columns 1, 2 and 8; the default route has neither destination nor mask.
    let default = facts.routes.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_default = fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000");
        fields.first().filter(|_| is_default).map(|name| (*name).to_owned())
    });
    let Some(name) = default else {
        return Check::warn(
            NAME,
            "no default route",
            "name the interfaces in the EPIC object: spec.gue.interfaces.public and underlay",
        );
    };
    let Some((_, kind, state)) = facts.interfaces.iter().find(|(known, ..)| *known == name) else {
        return Check::unknown(NAME, format!("{name} cannot be read"));
    };
    if kind != ETHERNET {
        return Check::fail(
            NAME,
            format!("{name} carries no Ethernet frames, so EPIC cannot use it"),
            "name an Ethernet interface in the EPIC object: spec.gue.interfaces.public and underlay",
        );
    }
    match state.as_str() {
        "down" | "lowerlayerdown" => {
            Check::fail(NAME, format!("{name} is {state}"), "bring it up, or name another")
        }
        _ => Check::ok(NAME, format!("{name}, Ethernet, {state}")),
    }
}

fn port(facts: &Facts) -> Check {
    const NAME: &str = "GUE port";
    match &facts.port_taken {
        None => Check::ok(NAME, format!("UDP {} is free", facts.port)),
        Some(error) => Check::warn(
            NAME,
            format!("UDP {} cannot be bound: {error}", facts.port),
            "fine where an EPIC agent runs already; else end what has it (ss -lunp), or set spec.gue.port of EPIC",
        ),
    }
}
