//! Three etcd members with TLS: one of them is lost, then the leader, and both come back.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use fairlead_store::{Etcd, EtcdOptions, EtcdTls, Expect, Revision, Store, StoreError, Write};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};

use crate::backend::{DEADLINE, Directory, free_port};
use crate::{events_until, keys, value};

const MEMBERS: usize = 3;
const WRITERS: usize = 8;

struct Members {
    directory: Directory,
    /// Client and peer ports.
    ports: Vec<(u16, u16)>,
    processes: Vec<Option<Child>>,
}

/// Writes a CA, and certificates for the members and for the client.
fn certificates(directory: &Path) {
    let mut params = CertificateParams::new(Vec::new()).expect("params");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("key");
    let ca = CertifiedIssuer::self_signed(params, key).expect("CA");
    std::fs::write(directory.join("ca.crt"), ca.pem()).expect("write");
    let uses = [
        ("member", vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]),
        ("client", vec![ExtendedKeyUsagePurpose::ClientAuth]),
    ];
    for (name, uses) in uses {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("params");
        params.extended_key_usages = uses;
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &ca).expect("certificate");
        std::fs::write(directory.join(format!("{name}.crt")), certificate.pem()).expect("write");
        std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).expect("write");
    }
}

impl Members {
    fn start() -> Self {
        let directory = Directory::new();
        certificates(directory.path());
        let ports = (0..MEMBERS).map(|_| (free_port(), free_port())).collect();
        let mut members = Members { directory, ports, processes: (0..MEMBERS).map(|_| None).collect() };
        (0..MEMBERS).for_each(|number| members.run(number));
        members
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&mut self, number: usize) {
        let (client, peer) = self.ports[number];
        let (client, peer) = (format!("https://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let cluster =
            self.ports.iter().enumerate().map(|(n, (_, peer))| format!("m{n}=http://127.0.0.1:{peer}"));
        let child = Command::new("/usr/bin/etcd")
            .args(["--name", &format!("m{number}"), "--data-dir"])
            .arg(self.file(&format!("m{number}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &cluster.collect::<Vec<_>>().join(",")])
            .args(["--client-cert-auth", "--trusted-ca-file"])
            .arg(self.file("ca.crt"))
            .arg("--cert-file")
            .arg(self.file("member.crt"))
            .arg("--key-file")
            .arg(self.file("member.key"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.processes[number] = Some(child.expect("/usr/bin/etcd must be installed (package etcd-server)"));
    }

    /// SIGKILL.
    fn kill(&mut self, number: usize) {
        if let Some(mut process) = self.processes[number].take() {
            process.kill().expect("kill etcd");
            process.wait().expect("wait for etcd");
        }
    }

    fn url(&self, number: usize) -> String {
        format!("https://127.0.0.1:{}", self.ports[number].0)
    }

    async fn connect(&self) -> Arc<dyn Store> {
        let client = Some((self.file("client.crt"), self.file("client.key")));
        let tls = Some(EtcdTls { ca: Some(self.file("ca.crt")), client });
        let endpoints = (0..MEMBERS).map(|number| self.url(number)).collect();
        let options = EtcdOptions { endpoints, tls, prefix: "/elsewhere/".to_owned(), history: None };
        let begin = Instant::now();
        loop {
            match Etcd::connect(options.clone()).await {
                Ok(store) => return Arc::new(store),
                Err(error) => assert!(begin.elapsed() < DEADLINE, "etcd does not answer: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether this member is up, and whether it leads.
    async fn leads(&self, number: usize) -> Option<bool> {
        let read = |name: &str| std::fs::read(self.file(name)).expect("certificate");
        let tls = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(read("ca.crt")))
            .identity(Identity::from_pem(read("client.crt"), read("client.key")));
        let client =
            Client::connect([self.url(number)], Some(ConnectOptions::new().with_tls(tls))).await.ok()?;
        let status = client.maintenance_client().status().await.ok()?;
        Some(status.leader() != 0 && status.header()?.member_id() == status.leader())
    }

    /// A member that leads, or that does not.
    async fn find(&self, leading: bool) -> usize {
        let begin = Instant::now();
        loop {
            for number in 0..MEMBERS {
                if self.leads(number).await == Some(leading) {
                    return number;
                }
            }
            assert!(begin.elapsed() < DEADLINE, "no such member");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn all_up(&self) {
        let begin = Instant::now();
        for number in 0..MEMBERS {
            while self.leads(number).await.is_none() {
                assert!(begin.elapsed() < DEADLINE, "member {number} is not up");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        (0..MEMBERS).for_each(|number| self.kill(number));
    }
}

/// Creates and updates keys until told to stop. No write may fail: the cluster has a majority all the time.
async fn write(
    store: Arc<dyn Store>,
    writer: usize,
    stop: Arc<AtomicBool>,
) -> HashMap<String, Vec<Revision>> {
    let mut acknowledged = HashMap::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("k/{writer}/{n}");
        let first = store.commit(vec![Write::create(&key, value("1"))]).await;
        let first = first.unwrap_or_else(|error| panic!("creating {key}: {error}"));
        let second = store.commit(vec![Write::update(&key, first, value("2"))]).await;
        let second = second.unwrap_or_else(|error| panic!("updating {key}: {error}"));
        acknowledged.insert(key, vec![first, second]);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    acknowledged
}

/// Everything but plain writes, which others do meanwhile. `seen` is how far their watch is: what it has not seen yet
/// must not be compacted, or it would rightly end.
async fn all_else_works(store: &dyn Store, seen: &AtomicU64, what: &str) {
    let short = Duration::from_secs(1);
    let key = format!("t/{what}");
    let made = store.commit(vec![Write::create(&key, value("1")).lasting(short)]).await.expect("lease");
    assert_eq!(store.get(&key).await.expect("get").entry.expect("there").mod_revision, made);
    store.check().await.expect("healthy");
    let begin = Instant::now();
    while seen.load(Ordering::Relaxed) < made {
        assert!(begin.elapsed() < DEADLINE, "the watch does not reach {made}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    store.compact(made - 1).await.expect("compact");
    let old = store.list("", None, 0, Some(made - 2)).await;
    assert!(matches!(old, Err(StoreError::Compacted { .. })), "{old:?}");
    let begin = Instant::now();
    while keys(store, "t/", None).await != [""; 0] {
        assert!(begin.elapsed() < DEADLINE, "{key} did not end");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_a_member_and_of_the_leader_is_ridden_out() {
    let mut members = Members::start();
    let store = members.connect().await;
    members.all_up().await;
    let start = store.current_revision().await.expect("revision");
    let mut stream = store.watch("k/", start).await.expect("watch");
    let seen = Arc::new(AtomicU64::new(start));
    let reached = seen.clone();
    let reader = tokio::spawn(async move {
        let mut events = Vec::new();
        loop {
            let more = events_until(&mut stream, 0).await;
            reached.fetch_max(more.last().map_or(0, |event| event.revision), Ordering::Relaxed);
            let end = more.iter().any(|event| event.key.as_ref() == "k/end");
            events.extend(more);
            if end {
                return events;
            }
        }
    });
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write(store.clone(), writer, stop.clone()))).collect();
    all_else_works(store.as_ref(), &seen, "whole").await;
    for leading in [false, true] {
        let lost = members.find(leading).await;
        members.kill(lost);
        all_else_works(store.as_ref(), &seen, &format!("without {lost}, which led: {leading}")).await;
        members.run(lost);
        members.all_up().await;
        all_else_works(store.as_ref(), &seen, &format!("with {lost} again")).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = HashMap::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("no write failed"));
    }
    store
        .commit(vec![Write::delete("k/none", Expect::Any), Write::create("k/end", value("1"))])
        .await
        .expect("end");
    let events = tokio::time::timeout(DEADLINE, reader).await.expect("in time").expect("watch");
    assert!(events.windows(2).all(|pair| pair[0].revision < pair[1].revision));
    let mut seen: HashMap<String, Vec<Revision>> = HashMap::new();
    for event in &events {
        seen.entry(event.key.to_string()).or_default().push(event.revision);
    }
    seen.remove("k/end");
    assert_eq!(seen, acknowledged, "the watch shows exactly what was acknowledged");
    let there = store.list("k/", None, 0, None).await.expect("list");
    assert_eq!(there.entries.len(), acknowledged.len() + 1);
}
