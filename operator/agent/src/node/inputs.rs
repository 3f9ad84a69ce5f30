//! What a decision takes from the kernel: the node's interfaces, and the veths of its pods.
//!
//! The kernel is asked when it said that something changed, when there is a new pod to find, and at every full pass;
//! a change of the API costs no request. One wrong answer moves nothing: a pod's veth that a lookup does not show, though
//! its interface is still there, is kept until a second lookup does not show it either, and what cannot be looked up stays
//! as it was known. Whether something has lasted long enough to be said is told beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use epic_crds::EPIC;
use epic_lb::Veth;
use k8s_openapi::api::core::v1::Node;

use super::interfaces::{self, Interfaces, choose};
use crate::desired::node::internal_addresses;
use crate::netlink::link::Link;
use crate::netlink::watch::Changed;
use crate::netlink::{Error, Netlink, veth};

/// Between two lookups of what is doubtful.
const AGAIN: Duration = Duration::from_secs(1);
/// What fails for less time than this moves nothing: an address that DHCP renews, a request that is refused once.
pub const LASTING: Duration = Duration::from_secs(5);

/// What is asked of the kernel.
pub trait Kernel {
    /// Interfaces.
    fn links(&self) -> impl Future<Output = Result<Vec<Link>, Error>> + Send;
    /// Addresses, each with the index of its interface.
    fn addresses(&self) -> impl Future<Output = Result<Vec<(u32, IpAddr)>, Error>> + Send;
    /// Veths behind which pods with these addresses are.
    fn pod_veths(
        &self,
        wanted: &BTreeSet<IpAddr>,
    ) -> impl Future<Output = Result<BTreeMap<IpAddr, Vec<veth::Veth>>, Error>> + Send;
}

impl Kernel for Netlink {
    async fn links(&self) -> Result<Vec<Link>, Error> {
        Netlink::links(self).await
    }

    async fn addresses(&self) -> Result<Vec<(u32, IpAddr)>, Error> {
        Netlink::addresses(self).await
    }

    async fn pod_veths(&self, wanted: &BTreeSet<IpAddr>) -> Result<BTreeMap<IpAddr, Vec<veth::Veth>>, Error> {
        Netlink::pod_veths(self, wanted).await
    }
}

/// The interfaces are not known now.
#[derive(Debug)]
pub struct Unknown {
    /// Why.
    pub error: interfaces::Error,
    /// Whether that is so for [`LASTING`], or they were never known.
    pub lasting: bool,
}

/// What is known, and what is to be looked up again.
#[derive(Debug, Default)]
pub struct Inputs {
    interfaces: Option<Known>,
    unknown_since: Option<Instant>,
    veths: Veths,
    again: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    epic: Arc<EPIC>,
    internal: Vec<IpAddr>,
    interfaces: Interfaces,
    stale: bool,
}

#[derive(Debug, Default)]
struct Veths {
    /// By pod address.
    found: BTreeMap<IpAddr, Vec<Veth>>,
    /// Addresses that were looked for.
    looked: BTreeSet<IpAddr>,
    /// Those that nothing was found for.
    missing: BTreeSet<IpAddr>,
    /// Those that the last lookup did not show, though their interfaces are there.
    doubtful: BTreeSet<IpAddr>,
    known: bool,
    stale: bool,
}

impl Inputs {
    /// The kernel said so.
    pub fn note(&mut self, changed: Changed) {
        self.veths.stale |= changed.links;
        if let Some(known) = &mut self.interfaces {
            known.stale |= changed.links || changed.addresses;
        }
    }

    /// Everything is to be looked up again.
    pub fn expire(&mut self) {
        self.note(Changed { links: true, addresses: true, routes: false });
    }

    /// When to look again without being told, if so.
    pub fn again(&self) -> Option<Instant> {
        self.again
    }

    /// The time of [`Inputs::again`] has come.
    pub fn look_again(&mut self) {
        self.again = None;
        self.expire();
    }

    fn ask_again(&mut self, now: Instant) {
        let at = now + AGAIN;
        self.again = Some(self.again.map_or(at, |before| before.min(at)));
    }

    /// The interfaces of this node.
    ///
    /// # Errors
    /// [`Unknown`]; nothing is guessed.
    pub async fn interfaces<K: Kernel>(
        &mut self,
        kernel: &K,
        epic: &Arc<EPIC>,
        node: &Node,
        now: Instant,
    ) -> Result<Interfaces, Unknown> {
        let internal = internal_addresses(node);
        if let Some(known) = &self.interfaces
            && !known.stale
            && Arc::ptr_eq(&known.epic, epic)
            && known.internal == internal
        {
            return Ok(known.interfaces.clone());
        }
        match look(kernel, epic, &internal).await {
            Ok(interfaces) => {
                self.unknown_since = None;
                let epic = Arc::clone(epic);
                self.interfaces =
                    Some(Known { epic, internal, interfaces: interfaces.clone(), stale: false });
                Ok(interfaces)
            }
            Err(error) => {
                if let Some(known) = &mut self.interfaces {
                    known.stale = true;
                }
                let since = *self.unknown_since.get_or_insert(now);
                let lasting = self.interfaces.is_none() || now >= since + LASTING;
                self.ask_again(now);
                Err(Unknown { error, lasting })
            }
        }
    }

    /// The veths of pods with these addresses.
    ///
    /// # Errors
    /// The kernel refused, and they were never known.
    pub async fn veths<K: Kernel>(
        &mut self,
        kernel: &K,
        wanted: &BTreeSet<IpAddr>,
        now: Instant,
    ) -> Result<BTreeMap<IpAddr, Vec<Veth>>, Error> {
        let veths = &mut self.veths;
        veths.found.retain(|address, _| wanted.contains(address));
        let is_new = !wanted.is_subset(&veths.looked);
        if veths.known && !veths.stale && !is_new {
            return Ok(veths.found.clone());
        }
        match find(kernel, wanted).await {
            Ok((found, links)) => {
                if veths.take(found, &links, wanted) {
                    self.ask_again(now);
                }
            }
            Err(error) if veths.known => {
                tracing::warn!(%error, "pods are where they were as far as is known; asking again");
                veths.stale = true;
                self.ask_again(now);
            }
            Err(error) => {
                self.ask_again(now);
                return Err(error);
            }
        }
        Ok(self.veths.found.clone())
    }
}

impl Veths {
    /// Takes what a lookup showed. Says whether to look again.
    fn take(
        &mut self,
        mut found: BTreeMap<IpAddr, Vec<Veth>>,
        links: &[Link],
        wanted: &BTreeSet<IpAddr>,
    ) -> bool {
        let is_there = |veth: &&Veth| {
            let same = |link: &&Link| link.name == *veth.ifname && link.mac == veth.host_mac;
            links.iter().filter(|link| link.ifindex == veth.ifindex).any(|link| same(&link))
        };
        let mut doubtful = BTreeSet::new();
        for (address, before) in &self.found {
            if found.contains_key(address) || self.doubtful.contains(address) {
                continue;
            }
            let there: Vec<Veth> = before.iter().filter(is_there).cloned().collect();
            if !there.is_empty() {
                tracing::info!(%address, "a pod's veth was not shown, though it is there; asking again");
                doubtful.insert(*address);
                found.insert(*address, there);
            }
        }
        let missing: BTreeSet<IpAddr> =
            wanted.iter().filter(|address| !found.contains_key(*address)).copied().collect();
        // What is new and missing may be on its way; what was missing before waits for an event or a full pass.
        let again = !doubtful.is_empty() || !missing.is_subset(&self.missing);
        let looked = wanted.clone();
        *self = Self { found, looked, missing, doubtful, known: true, stale: false };
        again
    }
}

async fn look<K: Kernel>(
    kernel: &K,
    epic: &EPIC,
    internal: &[IpAddr],
) -> Result<Interfaces, interfaces::Error> {
    let (links, addresses) = (kernel.links().await?, kernel.addresses().await?);
    choose(&links, &addresses, epic, internal)
}

async fn find<K: Kernel>(
    kernel: &K,
    wanted: &BTreeSet<IpAddr>,
) -> Result<(BTreeMap<IpAddr, Vec<Veth>>, Vec<Link>), Error> {
    if wanted.is_empty() {
        return Ok(Default::default());
    }
    let found = kernel.pod_veths(wanted).await?;
    let links = kernel.links().await?;
    let macs: BTreeMap<u32, [u8; 6]> = links.iter().map(|link| (link.ifindex, link.mac)).collect();
    let rows = found.into_iter().map(|(address, veths)| {
        let row = |veth: veth::Veth| Veth {
            ifindex: veth.ifindex,
            ifname: veth.name.into(),
            pod_mac: veth.peer_mac,
            host_mac: macs.get(&veth.ifindex).copied().unwrap_or_default(),
            pod_ip: address,
        };
        (address, veths.into_iter().map(row).collect())
    });
    Ok((rows.collect(), links))
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use serde_json::json;

    use super::*;

    /// A kernel that counts what it is asked. Links by index and name, pods by address.
    #[derive(Default)]
    struct Fake {
        links: Mutex<BTreeMap<u32, &'static str>>,
        pods: Mutex<BTreeMap<IpAddr, u32>>,
        refuses: Mutex<bool>,
        requests: Mutex<usize>,
    }

    impl Fake {
        fn ask<T>(&self, answer: impl FnOnce() -> T) -> Result<T, Error> {
            *self.requests.lock() += 1;
            if *self.refuses.lock() { Err(Error::answer("ask", "not now")) } else { Ok(answer()) }
        }

        /// Requests since the last call.
        fn requests(&self) -> usize {
            std::mem::take(&mut *self.requests.lock())
        }
    }

    impl Kernel for Fake {
        async fn links(&self) -> Result<Vec<Link>, Error> {
            self.ask(|| {
                let link = |(ifindex, name): (&u32, &&str)| Link {
                    ifindex: *ifindex,
                    name: (*name).to_owned(),
                    ethernet: true,
                    up: true,
                    carrier: true,
                    ..Link::default()
                };
                self.links.lock().iter().map(link).collect()
            })
        }

        async fn addresses(&self) -> Result<Vec<(u32, IpAddr)>, Error> {
            self.ask(|| vec![(2, ip("198.51.100.1"))])
        }

        async fn pod_veths(
            &self,
            wanted: &BTreeSet<IpAddr>,
        ) -> Result<BTreeMap<IpAddr, Vec<veth::Veth>>, Error> {
            self.ask(|| {
                let (links, pods) = (self.links.lock(), self.pods.lock());
                let shown = pods.iter().filter(|(address, _)| wanted.contains(address));
                let row = |(address, ifindex): (&IpAddr, &u32)| {
                    let name = links.get(ifindex)?.to_string();
                    let (mtu, peer_ifindex, peer_mac, netnsid) = (1500, 2, [2; 6], 0);
                    let veth = veth::Veth { ifindex: *ifindex, name, mtu, peer_ifindex, peer_mac, netnsid };
                    Some((*address, vec![veth]))
                };
                shown.filter_map(row).collect()
            })
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Two pods behind veths, and an interface of the node.
    fn kernel() -> Fake {
        let fake = Fake::default();
        fake.links.lock().extend([(2, "eth0"), (5, "veth5"), (6, "veth6")]);
        fake.pods.lock().extend([(ip("10.244.1.5"), 5), (ip("10.244.1.6"), 6)]);
        fake
    }

    fn both() -> BTreeSet<IpAddr> {
        [ip("10.244.1.5"), ip("10.244.1.6")].into()
    }

    const LINKS: Changed = Changed { links: true, addresses: false, routes: false };

    #[tokio::test]
    async fn a_change_of_the_api_asks_the_kernel_nothing() {
        let (kernel, mut inputs, now) = (kernel(), Inputs::default(), Instant::now());
        let epic: Arc<EPIC> = Arc::new(serde_json::from_value(json!({"metadata": {}, "spec": {}})).unwrap());
        let node = json!({"status": {"addresses": [{"type": "InternalIP", "address": "198.51.100.1"}]}});
        let node: Node = serde_json::from_value(node).unwrap();
        let mut pods = BTreeSet::from([ip("10.244.1.5")]);
        for (pass, expected) in [("first", 4), ("second", 0), ("third", 0)] {
            inputs.interfaces(&kernel, &epic, &node, now).await.unwrap();
            assert_eq!(inputs.veths(&kernel, &pods, now).await.unwrap().len(), 1);
            assert_eq!(kernel.requests(), expected, "{pass} pass");
        }
        pods.insert(ip("10.244.1.6"));
        assert_eq!(inputs.veths(&kernel, &pods, now).await.unwrap().len(), 2);
        assert_eq!(kernel.requests(), 2, "a pod that came is looked for");
        assert_eq!(inputs.veths(&kernel, &both(), now).await.unwrap().len(), 2);
        inputs.note(Changed { links: false, addresses: true, routes: true });
        inputs.veths(&kernel, &pods, now).await.unwrap();
        assert_eq!(kernel.requests(), 0, "pods hang on no address of the node");
        inputs.interfaces(&kernel, &epic, &node, now).await.unwrap();
        inputs.note(LINKS);
        inputs.veths(&kernel, &pods, now).await.unwrap();
        assert_eq!(kernel.requests(), 4);
        assert_eq!(inputs.again(), None, "nothing is doubtful");
    }

    #[tokio::test]
    async fn a_veth_that_one_lookup_omits_stays_and_goes_with_the_second_or_its_interface() {
        let (kernel, mut inputs, now) = (kernel(), Inputs::default(), Instant::now());
        assert_eq!(inputs.veths(&kernel, &both(), now).await.unwrap().len(), 2);
        kernel.pods.lock().remove(&ip("10.244.1.5"));
        inputs.note(LINKS);
        assert_eq!(inputs.veths(&kernel, &both(), now).await.unwrap().len(), 2, "its interface is there");
        assert_eq!(inputs.again(), Some(now + AGAIN));
        kernel.pods.lock().insert(ip("10.244.1.5"), 5);
        inputs.look_again();
        assert_eq!(inputs.veths(&kernel, &both(), now).await.unwrap().len(), 2);
        assert_eq!(inputs.again(), None, "it was shown again");

        kernel.pods.lock().remove(&ip("10.244.1.5"));
        for left in [2, 1] {
            inputs.look_again();
            assert_eq!(inputs.veths(&kernel, &both(), now).await.unwrap().len(), left);
        }
        kernel.links.lock().remove(&6);
        inputs.note(LINKS);
        assert!(inputs.veths(&kernel, &both(), now).await.unwrap().is_empty(), "its interface went");
    }

    #[tokio::test]
    async fn an_interface_that_took_the_index_of_another_is_not_that_one() {
        let (kernel, mut inputs, now) = (kernel(), Inputs::default(), Instant::now());
        inputs.veths(&kernel, &both(), now).await.unwrap();
        kernel.pods.lock().remove(&ip("10.244.1.5"));
        kernel.links.lock().insert(5, "other5");
        inputs.note(LINKS);
        assert_eq!(inputs.veths(&kernel, &both(), now).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn what_is_refused_leaves_what_was_known_and_is_told_once_it_lasts() {
        let (kernel, mut inputs, now) = (kernel(), Inputs::default(), Instant::now());
        let epic: Arc<EPIC> = Arc::new(serde_json::from_value(json!({"metadata": {}, "spec": {}})).unwrap());
        let node = json!({"status": {"addresses": [{"type": "InternalIP", "address": "198.51.100.1"}]}});
        let node: Node = serde_json::from_value(node).unwrap();
        *kernel.refuses.lock() = true;
        inputs.veths(&kernel, &both(), now).await.unwrap_err();
        let unknown = inputs.interfaces(&kernel, &epic, &node, now).await.unwrap_err();
        assert!(unknown.lasting, "it was never known");
        *kernel.refuses.lock() = false;
        let known = inputs.interfaces(&kernel, &epic, &node, now).await.unwrap();
        assert_eq!(inputs.veths(&kernel, &both(), now).await.unwrap().len(), 2);
        *kernel.refuses.lock() = true;
        inputs.look_again();
        for (after, lasting) in [(0, false), (4, false), (5, true)] {
            let now = now + Duration::from_secs(after);
            let unknown = inputs.interfaces(&kernel, &epic, &node, now).await.unwrap_err();
            assert_eq!(unknown.lasting, lasting, "after {after} s");
            assert_eq!(inputs.veths(&kernel, &both(), now).await.unwrap().len(), 2, "they stay");
            assert!(inputs.again().is_some());
        }
        *kernel.refuses.lock() = false;
        assert_eq!(inputs.interfaces(&kernel, &epic, &node, now).await.unwrap(), known);
        *kernel.refuses.lock() = true;
        inputs.look_again();
        let unknown = inputs.interfaces(&kernel, &epic, &node, now).await.unwrap_err();
        assert!(!unknown.lasting, "it was known meanwhile");
    }
}
