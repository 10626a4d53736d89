//! What a user would try first: a Service over two nodes, a NodePort from outside, a NetworkPolicy, a short load test.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::cluster::{Cluster, OUTSIDE};
use crate::process::{command, output, sh, wait};
use crate::steps::Steps;

const PATIENCE: Duration = Duration::from_secs(90);
/// Requests of each line of the table.
const REQUESTS: u64 = 200;

/// One line of the closing table.
struct Line {
    what: String,
    expected: String,
    seen: String,
    fits: bool,
}

/// A pod that requests are sent from.
struct Client {
    namespace: &'static str,
    node: String,
    container: String,
}

/// Runs the demo and prints the table; a line that differs makes the exit code a failure.
pub fn run(steps: &Steps, cluster: &Cluster) -> anyhow::Result<ExitCode> {
    let mut lines = Vec::new();
    let address = steps.run("demo: applying manifests/examples", || deploy(cluster))?;
    lines.push(placement(cluster)?);
    let clients = clients(cluster)?;
    steps.run("demo: requests through the Service", || {
        for client in &clients {
            lines.push(through_service(client, &address)?);
        }
        Ok(())
    })?;
    steps.run("demo: the Service's name", || {
        for client in &clients {
            lines.push(by_name(client, &address)?);
        }
        Ok(())
    })?;
    steps.run("demo: NodePort from outside", || {
        for i in 0..cluster.nodes {
            lines.push(from_outside(cluster, i)?);
        }
        Ok(())
    })?;
    steps.run("demo: NetworkPolicy that admits one namespace", || {
        policy(cluster, &clients, &address, &mut lines)
    })?;
    steps.run("demo: load test", || load(cluster, &clients, &address, &mut lines))?;
    print(&lines);
    if lines.iter().all(|line| line.fits) {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("error: the demo did not see what it expected (lines marked !!)");
    Ok(ExitCode::FAILURE)
}

fn deploy(cluster: &Cluster) -> anyhow::Result<String> {
    let examples = cluster.workspace.join("manifests/examples");
    let kubectl = |words: &[&str]| output(&mut cluster.kubectl(words));
    for file in ["web.yaml", "clients.yaml"] {
        output(cluster.kubectl(&["apply", "-f"]).arg(examples.join(file)))?;
    }
    // A policy of an earlier run would make the first lines fail.
    output(cluster.kubectl(&["delete", "--ignore-not-found", "-f"]).arg(examples.join("policy.yaml")))?;
    kubectl(&["rollout", "status", "deployment/web", "-n", "demo", "--timeout=90s"])?;
    for namespace in ["friends", "strangers"] {
        kubectl(&["rollout", "status", "daemonset/client", "-n", namespace, "--timeout=90s"])?;
    }
    let address = kubectl(&["get", "service", "web", "-n", "demo", "-o", "jsonpath={.spec.clusterIP}"])?;
    Ok(address.trim().to_owned())
}

fn pods(cluster: &Cluster, namespace: &str, selector: &str) -> anyhow::Result<Vec<Value>> {
    let text = output(&mut cluster.kubectl(&["get", "pods", "-n", namespace, "-l", selector, "-o", "json"]))?;
    let list: Value = serde_json::from_str(&text)?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn placement(cluster: &Cluster) -> anyhow::Result<Line> {
    let pods = pods(cluster, "demo", "app=web")?;
    let mut nodes: Vec<&str> = pods.iter().filter_map(|p| p["spec"]["nodeName"].as_str()).collect();
    let count = nodes.len();
    nodes.sort_unstable();
    nodes.dedup();
    let wanted = cluster.nodes.min(4);
    Ok(Line {
        what: "web: replicas and nodes they run on".into(),
        expected: format!("4 on {wanted}"),
        seen: format!("{count} on {}", nodes.len()),
        fits: count == 4 && nodes.len() == wanted,
    })
}

fn clients(cluster: &Cluster) -> anyhow::Result<Vec<Client>> {
    let mut found = Vec::new();
    for namespace in ["friends", "strangers"] {
        for pod in pods(cluster, namespace, "app=client")? {
            let node = pod["spec"]["nodeName"].as_str().unwrap_or("?").to_owned();
            let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or("");
            let container = id
                .strip_prefix("docker://")
                .with_context(|| format!("the client on {node} has no container"))?;
            found.push(Client { namespace, node, container: container.to_owned() });
        }
    }
    Ok(found)
}

/// Runs the load client in a client pod and reads its report.
fn report(client: &Client, words: &[&str]) -> anyhow::Result<Value> {
    let mut run = command(&["docker", "exec", &client.container, "toolbox", "load"]);
    Ok(serde_json::from_str(&output(run.args(words))?)?)
}

fn count(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or(0)
}

fn backends(report: &Value) -> usize {
    report["backends"].as_object().map_or(0, serde_json::Map::len)
}

fn through_service(client: &Client, address: &str) -> anyhow::Result<Line> {
    let number = REQUESTS.to_string();
    // The first answer may have to wait until the node has heard of the Service.
    wait("the Service to answer", Duration::from_secs(20), || {
        let one = report(client, &[&format!("{address}:80")])?;
        if count(&one, "ok") == 1 { Ok(()) } else { bail!("{}", one["errors"]) }
    })?;
    let http = report(client, &[&format!("{address}:80"), "-n", &number])?;
    let udp = report(client, &[&format!("{address}:7"), "--protocol", "udp", "-n", &number])?;
    Ok(Line {
        what: format!("ClusterIP from {}/client on {}: HTTP, UDP", client.namespace, client.node),
        expected: format!("{REQUESTS} + {REQUESTS} answers by 4 backends"),
        seen: format!(
            "{} + {} answers by {} backends",
            count(&http, "ok"),
            count(&udp, "ok"),
            backends(&http)
        ),
        fits: count(&http, "ok") == REQUESTS && count(&udp, "ok") == REQUESTS && backends(&http) == 4,
    })
}

/// The Service's address as a pod of another namespace finds it.
fn by_name(client: &Client, address: &str) -> anyhow::Result<Line> {
    let seen = wait("DNS to answer", Duration::from_secs(20), || {
        output(&mut command(&["docker", "exec", &client.container, "toolbox", "dig", "--search", "web.demo"]))
    })?;
    let record = seen.lines().find_map(|line| line.strip_prefix("web.demo.svc.cluster.local. 5 A "));
    Ok(Line {
        what: format!("DNS: web.demo from {}/client on {}", client.namespace, client.node),
        expected: format!("A {address}"),
        seen: record.map_or(seen.clone(), |found| format!("A {found}")),
        fits: record == Some(address),
    })
}

/// The load client as the host outside runs it.
fn outside(cluster: &Cluster, words: &[&str]) -> anyhow::Result<Value> {
    let toolbox = crate::host::binaries(&cluster.workspace)?.join("toolbox").display().to_string();
    let net = format!("--net=/run/netns/{}", cluster.namespace(OUTSIDE));
    let mut all = vec!["nsenter", &net, "--", &toolbox, "load"];
    all.extend_from_slice(words);
    Ok(serde_json::from_str(&sh(&all)?)?)
}

fn from_outside(cluster: &Cluster, i: usize) -> anyhow::Result<Line> {
    let target = format!("{}:30080", Cluster::node_address(i));
    let seen = outside(cluster, &[&target, "-n", &REQUESTS.to_string()])?;
    Ok(Line {
        what: format!("NodePort from outside over node{}", i + 1),
        expected: format!("{REQUESTS} answers by 4 backends"),
        seen: format!("{} answers by {} backends", count(&seen, "ok"), backends(&seen)),
        fits: count(&seen, "ok") == REQUESTS && backends(&seen) == 4,
    })
}

fn policy(cluster: &Cluster, clients: &[Client], address: &str, lines: &mut Vec<Line>) -> anyhow::Result<()> {
    let file = cluster.workspace.join("manifests/examples/policy.yaml");
    output(cluster.kubectl(&["apply", "-f"]).arg(file))?;
    let http = format!("{address}:80");
    let quick = ["--timeout", "300"];
    for client in clients.iter().filter(|c| c.namespace == "strangers") {
        wait("the policy to be enforced", PATIENCE, || {
            let one = report(client, &[&http, "-n", "8", "-c", "8", quick[0], quick[1]])?;
            if count(&one, "ok") == 0 { Ok(()) } else { bail!("strangers still get answers") }
        })?;
    }
    for client in clients {
        let friend = client.namespace == "friends";
        let seen = report(client, &[&http, "-n", "20", "-c", "4", quick[0], quick[1]])?;
        let wanted = if friend { 20 } else { 0 };
        lines.push(Line {
            what: format!("with policy: {}/client on {}", client.namespace, client.node),
            expected: format!("{wanted} of 20 answers"),
            seen: format!("{} of 20 answers", count(&seen, "ok")),
            fits: count(&seen, "ok") == wanted,
        });
        if friend {
            let seen = report(
                client,
                &[&format!("{address}:7"), "--protocol", "tcp", "-n", "4", "-c", "4", quick[0], quick[1]],
            )?;
            lines.push(Line {
                what: format!("with policy: the port it does not name, from {}", client.node),
                expected: "0 of 4 answers".into(),
                seen: format!("{} of 4 answers", count(&seen, "ok")),
                fits: count(&seen, "ok") == 0,
            });
        }
    }
    Ok(())
}

fn load(cluster: &Cluster, clients: &[Client], address: &str, lines: &mut Vec<Line>) -> anyhow::Result<()> {
    let client = clients.iter().find(|c| c.namespace == "friends").context("there is no client")?;
    let pods = pods(cluster, "demo", "app=web")?;
    let far =
        pods.iter().find(|p| p["spec"]["nodeName"].as_str() != Some(client.node.as_str())).or(pods.first());
    let direct = far.and_then(|p| p["status"]["podIP"].as_str()).context("no backend has an address")?;
    let targets =
        [("Service", format!("{address}:80")), ("backend on the other node", format!("{direct}:8080"))];
    for (what, target) in &targets {
        for (kind, keep) in [("one connection a request", false), ("kept connections", true)] {
            let mut words = vec![target.as_str(), "-n", "1000000", "--seconds", "2", "-c", "4"];
            if keep {
                words.push("--keep-alive");
            }
            let seen = report(client, &words)?;
            lines.push(Line {
                what: format!("load: {what}, {kind}"),
                expected: "no failure".into(),
                seen: format!(
                    "{} req/s, p50 {} us, p99 {} us, {} failed",
                    seen["rps"],
                    count(&seen, "p50_us"),
                    count(&seen, "p99_us"),
                    count(&seen, "failed")
                ),
                fits: count(&seen, "failed") == 0 && count(&seen, "ok") > 0,
            });
        }
    }
    Ok(())
}

fn print(lines: &[Line]) {
    println!("\n   {:<58} {:<34} seen", "what", "expected");
    for line in lines {
        let mark = if line.fits { "ok" } else { "!!" };
        println!("{mark} {:<58} {:<34} {}", line.what, line.expected, line.seen);
    }
}
