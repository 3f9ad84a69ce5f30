//! Sizes: every total around the limits passes, with and without segmentation offload, to a proxy here and there.
//!
//! With offloads on, most faults of MTU and checksum cannot be seen (packet-path T16), so each case runs three times.
//! Every request is a connection of its own: peers of a failed one go on sending for minutes.

use epic_abi::drop::DropReason;
use epic_testnet::{Capture, Offloads, gue};

use crate::support::lab::NIC;
use crate::support::program::{Epic, GUE_PORT, all_drops, drops};
use crate::support::scene::{Plan, Scene};
use crate::support::traffic::request;

/// Around 1408 − headers, 1500 − 52 − 40, two segments, and large.
const SIZES: [usize; 13] = [100, 1395, 1396, 1397, 1407, 1408, 1409, 1447, 1448, 1449, 2896, 60_000, 100_000];

fn every_size_passes(proxies: &[(u32, usize, u8)]) {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple().with_proxies(proxies));
    for offloads in [Offloads::On, Offloads::NoSegmentation, Offloads::Off] {
        scene.offloads(&epic, offloads);
        for size in SIZES {
            for (upload, total) in [(1, size), (size, 100)] {
                let answer = request(&epic.site.internet, scene.tenant.public(), upload, total);
                let answer = answer.unwrap_or_else(|error| {
                    panic!(
                        "{upload} up, {total} down with {offloads:?}: {error}; node {:?}, client {:?}",
                        all_drops(&epic.nodes[0]),
                        all_drops(&epic.clients[0])
                    )
                });
                assert_eq!(answer.name, "1e1");
            }
        }
    }
}

#[test]
fn every_size_passes_both_ways_through_a_local_proxy() {
    every_size_passes(&[(1, 0, 7)]);
}

#[test]
fn every_size_passes_both_ways_through_a_proxy_on_another_node() {
    every_size_passes(&[(3, 1, 9)]);
}

#[test]
fn the_mss_is_clamped_in_all_three_places() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    let at_client = Capture::start(&epic.site.clients[0].netns, NIC);
    let at_internet = Capture::start(&epic.site.internet, NIC);
    request(&epic.site.internet, scene.tenant.public(), 1, 500).unwrap();

    let mut inside = Vec::new();
    for frame in at_client.finish() {
        let Some(packet) = frame.ipv4() else { continue };
        let Some(tunnelled) = gue::decode(packet, GUE_PORT).unwrap() else { continue };
        let Some(inner) = tunnelled.inner else { continue };
        inside.extend(gue::Tcp::parse(inner.payload).unwrap().mss.map(|mss| (frame.outgoing, mss)));
    }
    inside.sort_unstable();
    inside.dedup();
    assert_eq!(inside, [(false, 1408), (true, 1408)], "the proxy's SYN and the endpoint's SYN-ACK");

    let to_internet: Vec<_> = at_internet
        .finish()
        .iter()
        .filter(|frame| !frame.outgoing)
        .filter_map(|frame| {
            gue::Ipv4::parse(frame.ipv4()?).ok().map(|ip| gue::Tcp::parse(ip.payload).unwrap().mss)
        })
        .flatten()
        .collect();
    assert_eq!(to_internet, [1408], "the SYN-ACK to the internet, though the proxy is local");
}

#[test]
fn a_proxy_that_sends_too_big_learns_the_size_of_the_tunnel() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    for offloads in [Offloads::On, Offloads::Off] {
        scene.offloads(&epic, offloads);
        // The endpoint's SYN-ACK has told the proxy 1408. With a narrower tunnel that is too much: the clamp of
        // connections that stand cannot help, only a message can.
        let conversation =
            crate::support::traffic::Conversation::open(&epic.site.internet, scene.tenant.public()).unwrap();
        crate::support::eventually("the proxy has dialled", || scene.endpoints[0].accepted() > 0);
        let maps = epic.nodes[0].maps();
        let (id, tunnel) = maps.tunnels.entries().unwrap().into_iter().next().unwrap();
        let mut narrow = tunnel;
        narrow.mtu = 1400;
        maps.tunnels.set(&id, &narrow).unwrap();
        let before = drops(&epic.nodes[0], DropReason::TooBigForTunnel);
        let answer = conversation.finish(100_000, 100);
        assert_eq!(answer.expect("the upload passes after the message").name, "1e1");
        assert!(drops(&epic.nodes[0], DropReason::TooBigForTunnel) > before);
        let learned = scene.proxy_pods[0].netns.ip("route get 100.127.0.1");
        assert!(learned.contains("mtu 1348"), "the pod knows the size for the alias it dialled: {learned}");
        maps.tunnels.set(&id, &tunnel).unwrap();
        scene.proxy_pods[0].netns.ip("route flush cache");
    }
}

#[test]
fn a_tunnel_without_a_far_end_is_refused_at_once() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    let maps = epic.nodes[0].maps();
    let (id, remote) = maps.remotes.entries().unwrap().into_iter().next().unwrap();
    maps.remotes.remove(&id).unwrap();
    let alias = scene.tenant.endpoints[0].alias();
    // At once: a connection that nothing answers would end with ETIMEDOUT.
    let refused = request(&scene.proxy_pods[0].netns, alias, 1, 100).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EHOSTUNREACH), "{refused}");
    maps.remotes.set(&id, &remote).unwrap();
    crate::support::eventually("the alias answers again", || {
        request(&scene.proxy_pods[0].netns, alias, 1, 100).is_ok()
    });
}
