//! SCTP: associations are flows with ports like others, but for their checksum.

use crate::harness::*;
use crate::packet::*;
use fairlead_abi::*;

const DATA: u8 = 0;
const INIT: u8 = 1;

#[test]
fn a_service_translates_ports_and_mends_the_checksum() {
    for net in NETS {
        let (client, asked, backend) = ((net.a.ip, 40000), (net.cluster_ip, 36412), (net.b.ip, 3868));
        for len in [0, 1, 2, 3, 17, 1000, 1400] {
            let mut node = Bench::new();
            node.service(asked.0, asked.1, SCTP, 3, &[backend]);
            let data = vec![0xa5; len];
            node.expect(
                "from_pod",
                &sctp(client, asked, INIT, &data).frame(),
                REDIRECT,
                &sctp(client, backend, INIT, &data).to_pod(&net.b),
            );
            node.expect(
                "from_pod",
                &sctp(backend, client, DATA, &data).frame(),
                REDIRECT,
                &sctp(asked, client, DATA, &data).to_pod(&net.a),
            );
        }
    }
}

#[test]
fn associations_leave_with_the_nodes_address_and_answers_come_back() {
    for net in NETS {
        let (client, server) = ((net.a.ip, 40000), (net.outside, 3868));
        let mut node = Bench::new();
        node.run("from_pod", &sctp(client, server, INIT, b"x").frame());
        let out = node.run("to_uplink", &sctp(client, server, INIT, b"x").frame());
        assert_sums(&out.bytes);
        let src = ends(&out.bytes).0;
        assert_eq!((out.verdict, src.0), (NEXT, net.node));
        node.expect(
            "from_uplink",
            &sctp(server, src, DATA, b"y").frame(),
            REDIRECT,
            &sctp(server, client, DATA, b"y").to_pod(&net.a),
        );
        let router = error(net.router, net.node, 3, 4, &out.bytes).frame();
        let back = node.run("from_uplink", &router);
        assert_eq!(back.verdict, REDIRECT);
        assert_sums(&back.bytes);
        let quoted = &headers(&back.bytes).body[8..];
        let sent = sctp(client, server, INIT, b"x").frame();
        assert_eq!(quoted[..l4_at(&sent) - 14 + 4], sent[14..l4_at(&sent) + 4]);
    }
}

#[test]
fn a_node_port_with_a_backend_elsewhere() {
    for net in NETS {
        let (client, asked, backend) = ((net.outside, 50000), (net.node, 30080), (net.remote, 3868));
        let mut node = Bench::new();
        node.service(net.any(), asked.1, SCTP, 3, &[backend]);
        let out = node.run("from_uplink", &sctp(client, asked, INIT, b"x").frame());
        let (src, dst) = ends(&out.bytes);
        assert_eq!((out.verdict, src.0, dst), (REDIRECT, net.gateway, backend));
        assert_sums(&out.bytes);
    }
}

#[test]
fn a_checksum_that_is_left_to_hardware_stays_so() {
    for net in NETS {
        let mut node = Bench::new();
        node.service(net.cluster_ip, 80, SCTP, 3, &[(net.b.ip, 3868)]);
        let mut packet = sctp((net.a.ip, 40000), (net.cluster_ip, 80), INIT, b"x");
        packet.body[8..12].fill(0);
        let out = node.run("from_pod", &packet.frame());
        assert_eq!(ends(&out.bytes).1, (net.b.ip, 3868));
        assert_eq!(headers(&out.bytes).body[8..12], [0; 4]);
    }
}

#[test]
fn a_piece_keeps_its_ports_or_is_dropped() {
    for net in NETS {
        let mut node = Bench::new();
        node.service(net.cluster_ip, 80, SCTP, 3, &[(net.b.ip, 3868)]);
        node.service(net.cluster_ip, 81, SCTP, 4, &[(net.b.ip, 81)]);
        let mut piece = sctp((net.a.ip, 40000), (net.cluster_ip, 80), INIT, &[0; 20]);
        piece.fragment = 0x2000;
        node.expect_drop("from_pod", &piece.frame(), Reason::Malformed);
        let mut piece = sctp((net.a.ip, 40000), (net.cluster_ip, 81), INIT, &[0; 20]);
        piece.fragment = 0x2000;
        let out = node.run("from_pod", &piece.frame());
        assert_eq!((out.verdict, ends(&out.bytes).1), (REDIRECT, (net.b.ip, 81)));
    }
}

#[test]
fn an_association_stays_and_a_new_one_goes_to_a_backend_that_is_there() {
    for net in NETS {
        let (client, asked) = ((net.a.ip, 40000), (net.cluster_ip, 80));
        let (stays, leaves) = ((net.remote, 3868), (net.b.ip, 3868));
        let mut node = Bench::new();
        node.service(asked.0, asked.1, SCTP, 3, &[leaves, stays]);
        let to = |node: &mut Bench, chunk| {
            ends(&node.run("from_pod", &sctp(client, asked, chunk, b"x").frame()).bytes).1
        };
        assert_eq!(to(&mut node, INIT), leaves);
        node.service(asked.0, asked.1, SCTP, 3, &[stays]);
        assert_eq!(to(&mut node, DATA), leaves);
        assert_eq!(to(&mut node, INIT), stays);
    }
}
