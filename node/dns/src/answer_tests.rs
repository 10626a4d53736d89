//! A zone and a question in, an answer out, read by an independent decoder.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::Record;

use super::*;
use crate::message::{IN, PLAIN_PAYLOAD, TCP_PAYLOAD, query_octets};
use crate::name::Label;
use crate::zone::{Endpoint, Port, Protocol, Service, ServiceKey, Slice, Target};

fn key(text: &str) -> ServiceKey {
    let (name, namespace) = text.split_once('.').expect("NAME.NAMESPACE");
    ServiceKey::new(namespace, name).expect(text)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

fn port(name: &str, protocol: Protocol, number: u16) -> Port {
    let name = (!name.is_empty()).then(|| Label::new(&format!("_{name}")).expect(name));
    Port { name, protocol, number }
}

fn service(target: Target, ports: &[Port]) -> Service {
    Service { target, ports: ports.to_vec(), publish_not_ready: false }
}

fn endpoint(addresses: &[&str], hostname: &str, ready: bool) -> Endpoint {
    let hostname = (!hostname.is_empty()).then(|| Label::new(hostname).expect(hostname));
    Endpoint { addresses: addresses.iter().map(|a| ip(a)).collect(), hostname, ready }
}

fn zone() -> Zone {
    let mut zone = Zone::new(Name::parse("cluster.local").expect("a name"));
    for namespace in ["demo", "kube-system"] {
        zone.namespace(Label::new(namespace).expect("a label"));
    }
    let (http, dns) = (port("http", Protocol::Tcp, 80), port("dns", Protocol::Udp, 53));
    let unnamed = port("", Protocol::Tcp, 81);
    zone.service(
        &key("web.demo"),
        service(Target::Cluster(vec![ip("10.96.0.5"), ip("fd00::5")]), &[http.clone(), unnamed]),
    );
    zone.service(&key("kube-dns.kube-system"), service(Target::Cluster(vec![ip("10.96.0.10")]), &[dns]));
    zone.service(&key("db.demo"), service(Target::Headless, &[]));
    zone.service(&key("empty.demo"), service(Target::Headless, &[]));
    zone.service(
        &key("ext.demo"),
        service(Target::External(Name::parse("www.example.com").expect("a name")), &[]),
    );
    let db = port("sql", Protocol::Tcp, 5432);
    let slice =
        |endpoints: Vec<Endpoint>| Slice { service: key("db.demo"), endpoints, ports: vec![db.clone()] };
    zone.slice(
        "demo/db-1",
        slice(vec![
            endpoint(&["10.244.0.2"], "db-0", true),
            endpoint(&["10.244.0.3"], "", true),
            endpoint(&["10.244.0.4"], "db-2", false),
        ]),
    );
    zone.slice(
        "demo/db-2",
        slice(vec![endpoint(&["fd00:1::2"], "db-0", true), endpoint(&["10.244.0.2"], "db-0", true)]),
    );
    zone.slice(
        "demo/empty-1",
        Slice {
            service: key("empty.demo"),
            endpoints: vec![endpoint(&["10.244.0.9"], "", false)],
            ports: vec![],
        },
    );
    zone.slice(
        "demo/web-1",
        Slice {
            service: key("web.demo"),
            endpoints: vec![endpoint(&["10.244.0.7"], "w0", true)],
            ports: vec![http],
        },
    );
    zone.set_synced();
    zone
}

fn number(kind: &str) -> u16 {
    match kind {
        "A" => kind::A,
        "AAAA" => kind::AAAA,
        "SRV" => kind::SRV,
        "PTR" => kind::PTR,
        "CNAME" => kind::CNAME,
        "TXT" => kind::TXT,
        "NS" => kind::NS,
        "SOA" => kind::SOA,
        "MX" => kind::MX,
        "ANY" => kind::ANY,
        other => panic!("{other}"),
    }
}

/// A query with the name as it is spelled, without EDNS.
fn octets(name: &str, kind: u16) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    let mut octets = query_octets(7, &wire, kind, false, false);
    octets.truncate(octets.len() - 11);
    octets[11] = 0;
    octets
}

fn ask_limited(zone: &Zone, octets: &[u8], limit: usize, stream: bool) -> (Outcome, Vec<u8>) {
    let query = Query::read(octets).unwrap_or_else(|e| panic!("{e:?}"));
    let mut out = Vec::new();
    let outcome = answer(zone, &query, limit, stream, &mut Dice::default(), &mut out);
    (outcome, out)
}

fn shown(records: &[Record]) -> BTreeSet<String> {
    records.iter().map(|r| format!("{} {} {}", r.name, r.record_type(), r.data)).collect()
}

#[track_caller]
fn check(zone: &Zone, question: &str, rcode: ResponseCode, answers: &[&str], additionals: &[&str]) {
    let (name, kind) = question.split_once(' ').expect("NAME TYPE");
    let asked = octets(name, number(kind));
    let (outcome, out) = ask_limited(zone, &asked, TCP_PAYLOAD, false);
    assert!(matches!(outcome, Outcome::Answered(..)), "{question}: {outcome:?}");
    let message = Message::from_vec(&out).unwrap_or_else(|e| panic!("{question}: {e}"));
    assert_eq!(message.metadata.response_code, rcode, "{question}");
    assert!(message.metadata.authoritative && message.metadata.recursion_available, "{question}");
    assert_eq!(message.metadata.id, 7);
    let wanted = |list: &[&str]| list.iter().map(|line| (*line).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(shown(&message.answers), wanted(answers), "{question}");
    assert_eq!(shown(&message.additionals), wanted(additionals), "{question}");
    assert!(message.answers.iter().all(|record| record.ttl == TTL), "{question}");
    // The question comes back as it was spelled.
    assert_eq!(&out[12..asked.len()], &asked[12..], "{question}");
    if answers.is_empty() {
        let authority = shown(&message.authorities);
        assert_eq!(authority.len(), 1, "{question}: {authority:?}");
        assert!(authority.iter().all(|line| line.contains(" SOA ")), "{question}: {authority:?}");
        assert!(
            authority.iter().all(|line| line.ends_with(" 7200 1800 86400 5")),
            "{question}: {authority:?}"
        );
    } else {
        assert!(message.authorities.is_empty(), "{question}");
    }
}

#[test]
fn table_of_records() {
    use ResponseCode::NoError;
    let zone = zone();
    for (question, answers, additionals) in [
        ("web.demo.svc.cluster.local A", &["web.demo.svc.cluster.local. A 10.96.0.5"][..], &[][..]),
        ("web.demo.svc.cluster.local AAAA", &["web.demo.svc.cluster.local. AAAA fd00::5"], &[]),
        ("WEB.Demo.Svc.Cluster.LOCAL A", &["WEB.Demo.Svc.Cluster.LOCAL. A 10.96.0.5"], &[]),
        (
            "web.demo.svc.cluster.local ANY",
            &["web.demo.svc.cluster.local. A 10.96.0.5", "web.demo.svc.cluster.local. AAAA fd00::5"],
            &[],
        ),
        (
            "_http._tcp.web.demo.svc.cluster.local SRV",
            &["_http._tcp.web.demo.svc.cluster.local. SRV 0 100 80 web.demo.svc.cluster.local."],
            &["web.demo.svc.cluster.local. A 10.96.0.5", "web.demo.svc.cluster.local. AAAA fd00::5"],
        ),
        (
            "web.demo.svc.cluster.local SRV",
            &[
                "web.demo.svc.cluster.local. SRV 0 100 80 web.demo.svc.cluster.local.",
                "web.demo.svc.cluster.local. SRV 0 100 81 web.demo.svc.cluster.local.",
            ],
            &["web.demo.svc.cluster.local. A 10.96.0.5", "web.demo.svc.cluster.local. AAAA fd00::5"],
        ),
        ("w0.web.demo.svc.cluster.local A", &["w0.web.demo.svc.cluster.local. A 10.244.0.7"], &[]),
        (
            "db.demo.svc.cluster.local A",
            &["db.demo.svc.cluster.local. A 10.244.0.2", "db.demo.svc.cluster.local. A 10.244.0.3"],
            &[],
        ),
        ("db.demo.svc.cluster.local AAAA", &["db.demo.svc.cluster.local. AAAA fd00:1::2"], &[]),
        ("db-0.db.demo.svc.cluster.local A", &["db-0.db.demo.svc.cluster.local. A 10.244.0.2"], &[]),
        ("db-0.db.demo.svc.cluster.local AAAA", &["db-0.db.demo.svc.cluster.local. AAAA fd00:1::2"], &[]),
        (
            "10-244-0-3.db.demo.svc.cluster.local A",
            &["10-244-0-3.db.demo.svc.cluster.local. A 10.244.0.3"],
            &[],
        ),
        (
            "_sql._tcp.db.demo.svc.cluster.local SRV",
            &[
                "_sql._tcp.db.demo.svc.cluster.local. SRV 0 50 5432 db-0.db.demo.svc.cluster.local.",
                "_sql._tcp.db.demo.svc.cluster.local. SRV 0 50 5432 10-244-0-3.db.demo.svc.cluster.local.",
            ],
            &[
                "db-0.db.demo.svc.cluster.local. A 10.244.0.2",
                "db-0.db.demo.svc.cluster.local. AAAA fd00:1::2",
                "10-244-0-3.db.demo.svc.cluster.local. A 10.244.0.3",
            ],
        ),
        ("ext.demo.svc.cluster.local CNAME", &["ext.demo.svc.cluster.local. CNAME www.example.com."], &[]),
        ("10-244-0-9.demo.pod.cluster.local A", &["10-244-0-9.demo.pod.cluster.local. A 10.244.0.9"], &[]),
        ("fd00--9.demo.pod.cluster.local AAAA", &["fd00--9.demo.pod.cluster.local. AAAA fd00::9"], &[]),
        ("dns-version.cluster.local TXT", &["dns-version.cluster.local. TXT 1.1.0"], &[]),
        (
            "cluster.local SOA",
            &["cluster.local. SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"],
            &[],
        ),
        (
            "cluster.local NS",
            &["cluster.local. NS ns.dns.cluster.local."],
            &["ns.dns.cluster.local. A 10.96.0.10"],
        ),
        ("ns.dns.cluster.local A", &["ns.dns.cluster.local. A 10.96.0.10"], &[]),
        ("5.0.96.10.in-addr.arpa PTR", &["5.0.96.10.in-addr.arpa. PTR web.demo.svc.cluster.local."], &[]),
        (
            "2.0.244.10.in-addr.arpa PTR",
            &["2.0.244.10.in-addr.arpa. PTR db-0.db.demo.svc.cluster.local."],
            &[],
        ),
        (
            "3.0.244.10.in-addr.arpa PTR",
            &["3.0.244.10.in-addr.arpa. PTR 10-244-0-3.db.demo.svc.cluster.local."],
            &[],
        ),
        (
            "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR",
            &[
                "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. PTR web.demo.svc.cluster.local.",
            ],
            &[],
        ),
    ] {
        check(&zone, question, NoError, answers, additionals);
    }
}

#[test]
fn table_of_negative_answers() {
    let zone = zone();
    for (question, rcode) in [
        // Names that are there, without data of the type.
        ("web.demo.svc.cluster.local MX", ResponseCode::NoError),
        ("kube-dns.kube-system.svc.cluster.local AAAA", ResponseCode::NoError),
        ("_http._tcp.web.demo.svc.cluster.local A", ResponseCode::NoError),
        ("10-244-0-9.demo.pod.cluster.local AAAA", ResponseCode::NoError),
        ("5.0.96.10.in-addr.arpa A", ResponseCode::NoError),
        // Names with nothing but other names below them.
        ("cluster.local A", ResponseCode::NoError),
        ("svc.cluster.local A", ResponseCode::NoError),
        ("demo.svc.cluster.local A", ResponseCode::NoError),
        ("pod.cluster.local A", ResponseCode::NoError),
        ("demo.pod.cluster.local A", ResponseCode::NoError),
        ("dns.cluster.local A", ResponseCode::NoError),
        ("_tcp.web.demo.svc.cluster.local SRV", ResponseCode::NoError),
        ("_tcp.db.demo.svc.cluster.local SRV", ResponseCode::NoError),
        // Names that are not there.
        ("x.cluster.local A", ResponseCode::NXDomain),
        ("web.cluster.local A", ResponseCode::NXDomain),
        ("nobody.svc.cluster.local A", ResponseCode::NXDomain),
        ("nobody.pod.cluster.local A", ResponseCode::NXDomain),
        ("nobody.demo.svc.cluster.local A", ResponseCode::NXDomain),
        ("web.nobody.svc.cluster.local A", ResponseCode::NXDomain),
        ("w1.web.demo.svc.cluster.local A", ResponseCode::NXDomain),
        ("a.w0.web.demo.svc.cluster.local A", ResponseCode::NXDomain),
        ("a.b.c.web.demo.svc.cluster.local A", ResponseCode::NXDomain),
        ("a.ext.demo.svc.cluster.local A", ResponseCode::NXDomain),
        ("_udp.web.demo.svc.cluster.local SRV", ResponseCode::NXDomain),
        ("_https._tcp.web.demo.svc.cluster.local SRV", ResponseCode::NXDomain),
        ("_http._udp.web.demo.svc.cluster.local SRV", ResponseCode::NXDomain),
        ("db-2.db.demo.svc.cluster.local A", ResponseCode::NXDomain),
        ("empty.demo.svc.cluster.local A", ResponseCode::NXDomain),
        ("10-244-0.demo.pod.cluster.local A", ResponseCode::NXDomain),
        ("10-244-0-9.nobody.pod.cluster.local A", ResponseCode::NXDomain),
        ("a.10-244-0-9.demo.pod.cluster.local A", ResponseCode::NXDomain),
        ("a.dns-version.cluster.local TXT", ResponseCode::NXDomain),
        ("x.dns.cluster.local A", ResponseCode::NXDomain),
    ] {
        check(&zone, question, rcode, &[], &[]);
    }
}

#[test]
fn what_is_elsewhere_is_asked_elsewhere() {
    let zone = zone();
    let outcome = |name: &str, kind| ask_limited(&zone, &octets(name, kind), 512, false).0;
    for name in ["example.com", "local", "", "xcluster.local", "9.9.9.9.in-addr.arpa", "in-addr.arpa"] {
        assert_eq!(outcome(name, kind::A), Outcome::Forward, "{name}");
    }
    let target = Name::parse("www.example.com").expect("a name");
    for kind in [kind::A, kind::AAAA, kind::TXT, kind::ANY] {
        assert_eq!(outcome("ext.demo.svc.cluster.local", kind), Outcome::Chase(target.clone()));
    }
}

#[test]
fn questions_that_are_not_answered_say_why() {
    let zone = zone();
    let refused = |octets: &[u8]| {
        let (_, out) = ask_limited(&zone, octets, 512, false);
        Message::from_vec(&out).unwrap_or_else(|e| panic!("{e}")).metadata.response_code
    };
    let mut chaos = octets("version.bind", kind::TXT);
    let class = chaos.len() - 1;
    assert_eq!(chaos[class], IN as u8);
    chaos[class] = 3;
    assert_eq!(refused(&chaos), ResponseCode::Refused);
    assert_eq!(refused(&octets("cluster.local", kind::AXFR)), ResponseCode::NotImp);
    let mut version = query_octets(7, b"\x01a\x00", kind::A, false, false);
    let at = version.len() - 11 + 6;
    version[at] = 1;
    // 16, which the decoder knows by another of its names.
    assert_eq!(u16::from(refused(&version)), Rcode::BadVers as u16);
}

#[test]
fn before_the_lists_are_in_nothing_is_denied() {
    let mut zone = Zone::new(Name::parse("cluster.local").expect("a name"));
    let asked = octets("web.demo.svc.cluster.local", kind::A);
    assert_eq!(ask_limited(&zone, &asked, 512, false).0, Outcome::Answered(Area::Cluster, Rcode::ServFail));
    zone.set_synced();
    assert_eq!(ask_limited(&zone, &asked, 512, false).0, Outcome::Answered(Area::Cluster, Rcode::NxDomain));
}

fn many(count: u16) -> Zone {
    let mut zone = zone();
    let one = |i: u16| {
        let [high, low] = i.to_be_bytes();
        endpoint(&[&format!("10.1.{high}.{low}")], "", true)
    };
    let slice = Slice {
        service: key("many.demo"),
        endpoints: (0..count).map(one).collect(),
        ports: vec![port("http", Protocol::Tcp, 80)],
    };
    zone.service(&key("many.demo"), service(Target::Headless, &[]));
    zone.slice("demo/many-1", slice);
    zone
}

#[test]
fn answers_keep_to_the_limit_and_say_that_they_are_cut() {
    let zone = many(5000);
    for question in
        [("many.demo.svc.cluster.local", kind::A), ("_http._tcp.many.demo.svc.cluster.local", kind::SRV)]
    {
        let asked = octets(question.0, question.1);
        for limit in [0, 40, PLAIN_PAYLOAD, 700, 1232] {
            let (_, out) = ask_limited(&zone, &asked, limit, false);
            assert!(out.len() <= limit.max(asked.len()), "{limit}: {}", out.len());
            let message = Message::from_vec(&out).unwrap_or_else(|e| panic!("{limit}: {e}"));
            assert!(message.metadata.truncation, "{limit}");
        }
        let (_, out) = ask_limited(&zone, &asked, TCP_PAYLOAD, true);
        let message = Message::from_vec(&out).unwrap_or_else(|e| panic!("{e}"));
        assert!(out.len() <= TCP_PAYLOAD && !message.metadata.truncation && message.answers.len() > 700);
    }
    let (_, out) = ask_limited(&zone, &octets("many.demo.svc.cluster.local", kind::A), TCP_PAYLOAD, true);
    assert_eq!(Message::from_vec(&out).map(|m| m.answers.len()).expect("a message"), (65_535 - 45) / 16);
}

#[test]
fn every_address_comes_once_and_comes_first_now_and_then() {
    let zone = many(7);
    let asked = octets("many.demo.svc.cluster.local", kind::A);
    let mut first = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..7000 {
        let (_, out) = ask_limited(&zone, &asked, 512, false);
        let message = Message::from_vec(&out).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(shown(&message.answers).len(), 7);
        *first.entry(message.answers[0].data.to_string()).or_default() += 1;
    }
    // 1,000 expected each, with a standard deviation of 29.
    assert!(first.len() == 7 && first.values().all(|n| (800..1200).contains(n)), "{first:?}");
    for count in 0..200 {
        let mut seen: Vec<_> = Dice::default().order(count).collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..count), "{count}");
    }
}

#[test]
fn changes_take_names_away_again() {
    let mut zone = zone();
    let exists = |zone: &Zone, name: &str, kind| {
        ask_limited(zone, &octets(name, kind), 512, false).0
            == Outcome::Answered(Area::Cluster, Rcode::NoError)
    };
    let forward = |zone: &Zone, name: &str| {
        ask_limited(zone, &octets(name, kind::PTR), 512, false).0 == Outcome::Forward
    };
    // An endpoint that becomes ready, and a Service that no longer asks for readiness.
    assert!(!exists(&zone, "db-2.db.demo.svc.cluster.local", kind::A));
    let mut eager = service(Target::Headless, &[]);
    eager.publish_not_ready = true;
    zone.service(&key("db.demo"), eager);
    assert!(exists(&zone, "db-2.db.demo.svc.cluster.local", kind::A));
    assert!(!forward(&zone, "4.0.244.10.in-addr.arpa"));
    zone.service(&key("db.demo"), service(Target::Headless, &[]));
    assert!(forward(&zone, "4.0.244.10.in-addr.arpa"));
    // One of two slices goes.
    zone.slice_gone("demo/db-1");
    assert!(!exists(&zone, "10-244-0-3.db.demo.svc.cluster.local", kind::A));
    assert!(exists(&zone, "db-0.db.demo.svc.cluster.local", kind::A));
    // A Service with other addresses.
    zone.service(&key("web.demo"), service(Target::Cluster(vec![ip("10.96.0.6")]), &[]));
    assert!(forward(&zone, "5.0.96.10.in-addr.arpa") && !forward(&zone, "6.0.96.10.in-addr.arpa"));
    // A slice that moves to another Service.
    let moved = Slice {
        service: key("empty.demo"),
        endpoints: vec![endpoint(&["10.244.0.8"], "", true)],
        ports: vec![],
    };
    zone.slice("demo/db-2", moved);
    assert!(!exists(&zone, "db.demo.svc.cluster.local", kind::A));
    assert!(exists(&zone, "empty.demo.svc.cluster.local", kind::A));
    // New lists without them.
    let none = Default::default();
    zone.keep_slices(&none);
    zone.keep_services(&Default::default());
    zone.keep_namespaces(&Default::default());
    assert_eq!(zone.sizes(), (0, 0));
    assert!(forward(&zone, "6.0.96.10.in-addr.arpa") && forward(&zone, "8.0.244.10.in-addr.arpa"));
    assert!(!exists(&zone, "demo.svc.cluster.local", kind::A));
}

#[test]
fn slices_may_come_before_their_service() {
    let mut zone = Zone::new(Name::parse("cluster.local").expect("a name"));
    zone.set_synced();
    let slice =
        Slice { service: key("a.b"), endpoints: vec![endpoint(&["10.0.0.1"], "h", true)], ports: vec![] };
    zone.slice("b/a-1", slice);
    let asked = octets("h.a.b.svc.cluster.local", kind::A);
    let rcode = |zone: &Zone| ask_limited(zone, &asked, 512, false).0;
    assert_eq!(rcode(&zone), Outcome::Answered(Area::Cluster, Rcode::NxDomain));
    zone.service(&key("a.b"), service(Target::Headless, &[]));
    assert_eq!(rcode(&zone), Outcome::Answered(Area::Cluster, Rcode::NoError));
}

#[test]
fn no_octets_make_it_panic() {
    use rand::RngCore as _;
    let zone = many(300);
    let mut seeds: Vec<Vec<u8>> =
        ["web.demo.svc.cluster.local", "_http._tcp.many.demo.svc.cluster.local", "5.0.96.10.in-addr.arpa"]
            .iter()
            .flat_map(|name| [kind::A, kind::SRV, kind::PTR, kind::ANY].map(|kind| octets(name, kind)))
            .collect();
    seeds.push(query_octets(
        1,
        Name::parse(&["a"; 127].join(".")).expect("255 octets").wire(),
        kind::A,
        true,
        true,
    ));
    let mut dice = SmallRng::seed_from_u64(1);
    let (mut out, mut order) = (Vec::new(), Dice::default());
    for round in 0..200_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..dice.random_range(0..4) {
            let at = dice.random_range(0..bytes.len());
            bytes[at] = dice.next_u32() as u8;
        }
        bytes.truncate(dice.random_range(0..=bytes.len()));
        if let Ok(query) = Query::read(&bytes) {
            for limit in [512, 1232] {
                let outcome = answer(&zone, &query, limit, false, &mut order, &mut out);
                if matches!(outcome, Outcome::Answered(..)) {
                    assert!(out.len() <= limit);
                    Message::from_vec(&out).unwrap_or_else(|e| panic!("{bytes:02x?}: {e}"));
                }
            }
        }
    }
}
