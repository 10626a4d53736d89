//! What the uplink's driver takes from tc does what tc would have done, and everything else is left as it is.

use crate::harness::*;
use crate::packet::*;
use fairlead_abi::*;
use fairlead_cni::{netlink, sysctl};

const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
const XDP_TX: i32 = 3;

const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 7, 7];

/// Runs in a network namespace whose loopback, the device of test runs, leads to clients and the other node. A thread's
/// namespace ends with it.
fn routed<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let inside = move || {
        // SAFETY: unshare() takes a flag and touches no memory; it changes only this short-lived thread.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "a network namespace (run as root): {}", std::io::Error::last_os_error());
        let mut socket = netlink::Socket::open().expect("netlink");
        let up = netlink::LinkChange { up: Some(true), ..netlink::LinkChange::default() };
        socket.change_link(LO, up).expect("lo up");
        sysctl::set("ipv4/ip_forward", "1").expect("forwarding");
        sysctl::set("ipv6/conf/all/forwarding", "1").expect("forwarding");
        for net in NETS {
            for destination in [net.outside, net.other_node] {
                let route = netlink::Route {
                    destination,
                    prefix: net.bits as u8,
                    index: LO,
                    gateway: None,
                    source: None,
                    onlink: false,
                    protocol: 4,
                };
                socket.replace_route(route).expect("a route");
                socket.replace_neighbour(LO, destination, NEXT_HOP).expect("a neighbour");
            }
        }
        work()
    };
    std::thread::spawn(inside).join().expect("the work inside")
}

/// A node whose uplink has the address that the tests' frames are sent to.
fn at_uplink() -> Bench {
    let mut node = Bench::new();
    node.configure(Config { uplink_mac: [0; 6], ..config() });
    node
}

/// A node with a port that leads to the other node's own network, which is where XDP can send by itself.
fn node(net: &Net, backends: &[End]) -> Bench {
    let mut node = at_uplink();
    for (proto, id) in [(TCP, 8), (UDP, 9)] {
        node.service(net.any(), 30080, proto, id, backends);
    }
    node
}

/// Expects that the driver's program leaves a packet alone.
#[track_caller]
fn passes(node: &mut Bench, frame: &[u8], what: &str) {
    let before = node.all_drops();
    let out = node.run_early(frame);
    assert_eq!((out.verdict, &out.bytes[..]), (XDP_PASS, frame), "{what}");
    assert_eq!(node.all_drops(), before, "{what}");
}

/// Expects that it sends the packet on as tc does, but for the next hop, which tc leaves to the kernel.
#[track_caller]
fn is_taken(node: &mut Bench, frame: &[u8], what: &str) {
    let early = node.run_early(frame);
    assert_eq!(early.verdict, XDP_TX, "{what}; drops {:?}", node.all_drops());
    let late = node.run("from_uplink", frame);
    assert_eq!(late.verdict, REDIRECT, "{what}");
    assert_eq!(early.bytes[12..], late.bytes[12..], "{what}");
    assert_eq!(early.bytes[..6], NEXT_HOP, "{what}");
    assert_sums(&early.bytes);
}

fn flows(node: &Bench) -> Vec<(CtKey, CtEntry)> {
    node.all("CONNTRACK")
}

#[test]
fn packets_of_an_open_flow_leave_as_tc_would_send_them_in_both_directions() {
    routed(|| {
        for net in NETS {
            let (client, asked): (End, End) = ((net.outside, 50000), (net.node, 30080));
            let backend = (net.other_node, 8080);
            let mut node = node(&net, &[backend]);
            for (name, opening, packet) in [
                ("TCP", tcp(client, asked, SYN), tcp(client, asked, ACK)),
                ("UDP", udp(client, asked, b"?"), udp(client, asked, b"once more")),
            ] {
                passes(&mut node, &opening.frame(), "what opens a flow is tc's");
                let out = node.run("from_uplink", &opening.frame());
                let (src, _) = ends(&out.bytes);
                is_taken(&mut node, &packet.frame(), name);
                let answer = match name {
                    "TCP" => tcp(backend, src, ACK),
                    _ => udp(backend, src, b"an answer"),
                };
                is_taken(&mut node, &answer.frame(), name);
            }
            assert_eq!(node.all_drops(), []);
            assert_eq!(node.metric(Metric::FlowOpened), 2, "XDP opens none");
            assert_eq!(node.metric(Metric::ToClient), 4, "answers, by both programs");
        }
    });
}

#[test]
fn the_end_of_a_connection_is_seen() {
    routed(|| {
        for net in NETS {
            let (client, asked): (End, End) = ((net.outside, 50000), (net.node, 30080));
            let mut node = node(&net, &[(net.other_node, 8080)]);
            let out = node.run("from_uplink", &tcp(client, asked, SYN).frame());
            let (src, backend) = ends(&out.bytes);
            let state = |node: &Bench| flows(node)[0].1.state;
            for (packet, expected) in [
                (tcp(backend, src, SYN | ACK), CtEntry::ESTABLISHED),
                (tcp(client, asked, FIN | ACK), CtEntry::ESTABLISHED),
                (tcp(backend, src, FIN | ACK), CtEntry::CLOSED),
            ] {
                assert_eq!(node.run_early(&packet.frame()).verdict, XDP_TX);
                assert_eq!(state(&node), expected);
            }
            // Another connection on the same ends begins with tc.
            passes(&mut node, &tcp(client, asked, SYN).frame(), "SYN");
        }
    });
}

#[test]
fn what_the_driver_cannot_decide_is_left_to_tc_as_it_came() {
    routed(|| {
        for net in NETS {
            let (client, asked): (End, End) = ((net.outside, 50000), (net.node, 30080));
            for (what, backend) in [
                ("a pod of this node", (net.b.ip, 8080)),
                ("a pod behind the overlay", (net.remote, 8080)),
                ("this node itself", (net.node, 8080)),
            ] {
                let mut node = node(&net, &[backend]);
                node.run("from_uplink", &tcp(client, asked, SYN).frame());
                passes(&mut node, &tcp(client, asked, ACK).frame(), what);
            }
            let mut node = node(&net, &[(net.other_node, 8080)]);
            let open = tcp(client, asked, ACK);
            passes(&mut node, &open.frame(), "no flow");
            let out = node.run("from_uplink", &tcp(client, asked, SYN).frame());
            let (src, backend) = ends(&out.bytes);
            let mut flooded = open.frame();
            flooded[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x77]);
            for (what, frame) in [
                ("for another machine", flooded),
                ("its last hop", Packet { hops: 1, ..open.clone() }.frame()),
                ("no service", tcp(client, (net.node, 30081), ACK).frame()),
                ("to a pod", tcp(client, (net.a.ip, 80), ACK).frame()),
                ("not from the backend", tcp((net.outside, 1), src, ACK).frame()),
                ("another port of the range", tcp(backend, (net.node, 16384), ACK).frame()),
            ] {
                passes(&mut node, &frame, what);
            }
            let whole = open.frame();
            for length in 14..whole.len() {
                passes(&mut node, &whole[..length], "cut short");
            }
            let config = Config { abi_version: 0, ..config() };
            node.configure(config);
            passes(&mut node, &whole, "no configuration");
        }
    });
}

#[test]
fn without_a_next_hop_on_the_uplink_tc_looks_for_one() {
    for net in NETS {
        let (client, asked): (End, End) = ((net.outside, 50000), (net.node, 30080));
        let mut node = node(&net, &[(net.other_node, 8080)]);
        node.run("from_uplink", &tcp(client, asked, SYN).frame());
        let before = flows(&node);
        passes(&mut node, &tcp(client, asked, FIN | ACK).frame(), "no route");
        assert_eq!(flows(&node), before, "what tc sees first is not counted twice");
    }
}

#[test]
fn a_datagram_does_not_follow_a_backend_that_has_left() {
    routed(|| {
        for net in NETS {
            let (client, asked): (End, End) = ((net.outside, 50000), (net.node, 30080));
            let mut node = node(&net, &[(net.other_node, 8080)]);
            let frame = udp(client, asked, b"?").frame();
            node.run("from_uplink", &frame);
            assert_eq!(node.run_early(&frame).verdict, XDP_TX);
            let key = BackendKey { service: 9, slot: 0 };
            let other = Backend { addr: net.remote.into(), port: Be16::new(8080), flags: 0 };
            node.put("BACKENDS", key, other);
            passes(&mut node, &frame, "tc chooses anew");
        }
    });
}

#[test]
fn who_may_not_ask_a_service_ends_at_the_driver() {
    for net in NETS {
        let mut node = at_uplink();
        let external = (net.external_ip, 443);
        let service = Service { id: 8, backends: 1, flags: Service::RANGES, ..Service::default() };
        node.service_with(external.0, external.1, TCP, service, &[(net.other_node, 8443)]);
        let frame = tcp((net.outside, 50000), external, SYN).frame();
        assert_eq!(node.run_early(&frame).verdict, XDP_DROP);
        assert_eq!(node.drops(Reason::SourceRange), Counter { packets: 1, bytes: frame.len() as u64 });
        assert_eq!(node.records().len(), 1);
        let key = RangeKey { service: Be32::new(8), addr: net.outside.into() };
        node.put_lpm("RANGES", 32 + 128 - 8, key, 1u32);
        passes(&mut node, &frame, "a client of the range");
    }
}
