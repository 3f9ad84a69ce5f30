//! Which address hello messages leave with, on a host with several.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use epic_abi::gue::{CONTROL_TYPE_HELLO, encode_control};
use epic_agent::hello::Outgoing;
use epic_agent::hello::socket::Socket;
use epic_testnet::{Netns, veth};

const DEADLINE: Duration = Duration::from_secs(10);

#[test]
fn a_node_answers_with_the_address_that_it_was_called_at() {
    let (node, client) = (Netns::new("node"), Netns::new("client"));
    veth(&node, "nic0", &client, "nic0");
    client.ip("addr add 192.168.77.20/24 dev nic0");
    // The kernel's choice is the first one of a subnet.
    node.ip("addr add 192.168.77.11/24 dev nic0");
    node.ip("addr add 192.168.77.12/24 dev nic0");
    let gue: SocketAddr = "192.168.77.12:6080".parse().unwrap();
    let caller = client.run(|| UdpSocket::bind("192.168.77.20:6080").unwrap());
    caller.set_read_timeout(Some(DEADLINE)).unwrap();
    let answered = caller.try_clone().unwrap();
    node.run_async(DEADLINE, || async move {
        let socket = Socket::bind(gue).await.unwrap();
        let mut hello = encode_control(CONTROL_TYPE_HELLO).to_vec();
        hello.push(1);
        caller.send_to(&hello, gue).unwrap();
        let (from, bytes) = socket.receive().await.unwrap();
        socket.send(&Outgoing { to: from, bytes }).await;
    });
    let (_, from) = answered.recv_from(&mut [0; 64]).unwrap();
    assert_eq!(from, gue);
}
