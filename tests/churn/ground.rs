//! What a run stands on: a control plane, nodes whose dataplanes are processes of their own, and a host outside, each
//! in a network namespace on one segment.

use std::{
    fs::{self, OpenOptions},
    net::{IpAddr, Ipv4Addr},
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use fairlead_abi::{ABI_VERSION, Reason};
use fairlead_cni::{
    netns,
    protocol::{self, Answer, Request},
};
use fairlead_dataplane::{
    inspect,
    link::remove_pins,
    maps::{Observed, carry},
};
use ipnet::IpNet;

use crate::api::Api;
use crate::space::{OUTSIDE, OUTSIDE_V6, Space, on_segment, private_mounts};

/// How long a part may take to be there again: the kernel checks every program anew, which a busy machine feels.
pub const DEADLINE: Duration = Duration::from_secs(90);

pub const CLUSTER: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/56"];
pub const SERVICES: [&str; 2] = ["10.96.0.0/16", "fd00:96::/112"];

/// Where the control plane lives.
const PLANE: u8 = 250;
const PORT: u16 = 6443;

/// Where the built programs are.
#[derive(Clone)]
pub struct Programs {
    pub server: PathBuf,
    pub node: PathBuf,
    pub cni: PathBuf,
    pub object: PathBuf,
}

/// A machine of the cluster.
pub struct Node {
    pub name: String,
    pub addresses: [IpAddr; 2],
    pub cidrs: [IpNet; 2],
    pub space: Space,
    directory: PathBuf,
    agent: Option<Child>,
}

/// The addresses on the segment that end with this number.
pub fn on_both(last: u8) -> [IpAddr; 2] {
    [Ipv4Addr::new(192, 0, 2, last).into(), on_segment(u16::from(last)).into()]
}

/// The blocks of pod addresses with this number.
pub fn blocks(number: u8) -> [IpNet; 2] {
    [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number:x}::/64")]
        .map(|text| text.parse().expect("a block"))
}

impl Node {
    pub fn socket(&self) -> PathBuf {
        self.directory.join("run").join(protocol::SOCKET)
    }

    /// Whether the dataplane says that the network stands.
    pub fn is_ready(&self) -> bool {
        matches!(protocol::call(&self.socket(), &Request::Status), Ok(Answer::Done))
    }

    /// Packets dropped so far, by reason; nothing while there are no maps.
    pub fn drops(&self) -> Vec<(String, u64)> {
        let directory = carry::directory(&self.directory.join("bpf/fairlead"), ABI_VERSION);
        let Ok(maps) = Observed::open(&directory) else { return Vec::new() };
        let count = |reason: &Reason| {
            let counters = maps.drops.get(&(*reason as u32)).unwrap_or_default();
            counters.iter().map(|counter| counter.packets).sum()
        };
        Reason::ALL.iter().map(|reason| (format!("{} {}", self.name, reason.name()), count(reason))).collect()
    }

    /// What the maps hold, and what the agent wants in them.
    pub fn entries(&self) -> anyhow::Result<(Vec<inspect::Entry>, Vec<inspect::Entry>)> {
        let pins = self.directory.join("bpf/fairlead");
        let found = inspect::read(&carry::directory(&pins, ABI_VERSION))?.entries;
        Ok((found, inspect::wanted(&self.directory.join("run"))?))
    }

    /// Removes what the dataplane left in the kernel, as the end of a machine does.
    fn forget(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ended = agent.kill();
            let _ended = agent.wait();
        }
        let _gone = remove_pins(&self.directory.join("bpf/fairlead"));
        let _gone = rustix::mount::unmount(self.directory.join("bpf"), rustix::mount::UnmountFlags::DETACH);
    }
}

pub struct Ground {
    pub outside: Space,
    pub nodes: Vec<Node>,
    pub api: Api,
    switch: Space,
    plane: Space,
    server: Option<Child>,
    programs: Programs,
    directory: PathBuf,
    /// Machines made so far; each has a port of its own on the switch.
    machines: usize,
}

impl Ground {
    /// A control plane without nodes. The calling thread moves to the control plane's namespace for good.
    pub fn new(programs: Programs, directory: PathBuf) -> anyhow::Result<Ground> {
        private_mounts();
        fs::create_dir_all(&directory)?;
        let (switch, plane, outside) = (Space::switch(), Space::new(), Space::new());
        plane.plug_into(&switch, "plane", &on_both(PLANE));
        outside.plug_into(&switch, "outside", &[OUTSIDE, OUTSIDE_V6]);
        netns::enter(plane.as_fd()).context("entering the control plane's namespace")?;
        let api = Api::new(directory.join("server"), PORT)?;
        let nodes = Vec::new();
        let server = None;
        let mut ground =
            Ground { outside, nodes, api, switch, plane, server, programs, directory, machines: 0 };
        ground.start_server()?;
        Ok(ground)
    }

    /// A process in a namespace; it ends with this thread.
    fn spawn(&self, space: &Space, log: &str, command: &mut Command) -> anyhow::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(self.directory.join(log))?;
        let namespace = space.as_fd().as_raw_fd();
        let shown = format!("{command:?}");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // SAFETY: between fork and exec only two system calls are made, which take numbers alone; the namespace is open
        // until spawn() has returned.
        unsafe {
            command.pre_exec(move || {
                if libc::setns(namespace, libc::CLONE_NEWNET) != 0
                    || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0
                {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        command.spawn().with_context(|| format!("starting {shown}"))
    }

    fn start_server(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.programs.server);
        let [address, _] = on_both(PLANE);
        command.arg("--data-dir").arg(self.directory.join("server"));
        command.args(["--bind-address", "0.0.0.0", "--secure-port", &PORT.to_string()]);
        command.args(["--advertise-address", &address.to_string(), "--tls-san", "127.0.0.1"]);
        command.args(["--cluster-cidr", &CLUSTER.join(",")]);
        command.args(["--service-cluster-ip-range", &SERVICES.join(",")]);
        command.args(["--controllers=none", "--scheduler=false"]);
        self.server = Some(self.spawn(&self.plane, "server.log", &mut command)?);
        self.api.ready(DEADLINE)?;
        // The administrator's credentials with the address that nodes reach the server at.
        let file = fs::read_to_string(self.directory.join("server/admin.kubeconfig"))?;
        let mut config: serde_json::Value = serde_json::from_str(&file)?;
        config["clusters"][0]["cluster"]["server"] = format!("https://{address}:{PORT}").into();
        fs::write(self.kubeconfig(), config.to_string())?;
        Ok(())
    }

    fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// `kill -9` of the control plane, and a new start.
    pub fn kill_server(&mut self) -> anyhow::Result<()> {
        if let Some(mut server) = self.server.take() {
            server.kill()?;
            server.wait()?;
        }
        self.start_server()
    }

    /// Adds a machine with a running dataplane, which waits for its Node object.
    pub fn add_machine(&mut self, name: &str, last: u8, block: u8) -> anyhow::Result<()> {
        self.machines += 1;
        let (addresses, cidrs, space) = (on_both(last), blocks(block), Space::new());
        space.plug_into(&self.switch, &format!("m{}", self.machines), &addresses);
        let directory = self.directory.join(format!("{name}-{}", self.machines));
        let bpffs = directory.join("bpf");
        fs::create_dir_all(&bpffs)?;
        rustix::mount::mount("bpf", &bpffs, "bpf", rustix::mount::MountFlags::empty(), None)?;
        self.nodes.push(Node { name: name.to_owned(), addresses, cidrs, space, directory, agent: None });
        self.start_agent(self.nodes.len() - 1)
    }

    /// Takes a machine away as its end does.
    pub fn remove_machine(&mut self, index: usize) {
        self.nodes.remove(index).forget();
    }

    fn start_agent(&mut self, index: usize) -> anyhow::Result<()> {
        let node = &self.nodes[index];
        let mut command = Command::new(&self.programs.node);
        command.args(["dataplane", "--node-name", &node.name]);
        command.arg("--bpf-object").arg(&self.programs.object);
        command.arg("--cni-plugin").arg(&self.programs.cni);
        command.arg("--kubeconfig").arg(self.kubeconfig());
        for (flag, folder) in
            [("--bpffs", "bpf"), ("--run-dir", "run"), ("--cni-conf-dir", "net.d"), ("--cni-bin-dir", "bin")]
        {
            command.arg(flag).arg(node.directory.join(folder));
        }
        command.args([
            "--cluster-cidr",
            &CLUSTER.join(","),
            "--service-cluster-ip-range",
            &SERVICES.join(","),
        ]);
        let child = self.spawn(&node.space, &format!("{}.log", node.name), &mut command)?;
        self.nodes[index].agent = Some(child);
        Ok(())
    }

    /// `kill -9` of a dataplane, and a new start at once; it is not waited for.
    pub fn kill_agent(&mut self, index: usize) -> anyhow::Result<()> {
        let Some(mut agent) = self.nodes[index].agent.take() else { bail!("there is no dataplane to kill") };
        agent.kill()?;
        agent.wait()?;
        self.start_agent(index)
    }

    /// Fails when a process has ended by itself.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        let agents = self.nodes.iter_mut().map(|node| (node.name.as_str(), &mut node.agent));
        for (name, child) in agents.chain([("server", &mut self.server)]) {
            let Some(child) = child else { bail!("{name} is not there") };
            if let Some(status) = child.try_wait()? {
                bail!("{name} ended by itself: {status}; see {name}.log");
            }
        }
        Ok(())
    }

    /// Waits until every dataplane says that its network stands.
    pub fn wait_for_agents(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while let Some(node) = self.nodes.iter().find(|node| !node.is_ready()) {
            ensure!(began.elapsed() < DEADLINE, "{} is not ready", node.name);
            self.check_alive()?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// `fairlead-node dataplane status` on a node, as its administrator runs it.
    pub fn status(&self, node: &Node) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.programs.node);
        command.arg("dataplane").arg("--bpffs").arg(node.directory.join("bpf"));
        Ok(command.arg("--run-dir").arg(node.directory.join("run")).arg("status").output()?)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.nodes.iter_mut().for_each(Node::forget);
        if let Some(mut server) = self.server.take() {
            let _ended = server.kill();
            let _ended = server.wait();
        }
    }
}

/// Packets that the kernel dropped because nobody came to take them from its queues (/proc/net/softnet_stat).
pub fn backlog_drops() -> u64 {
    let text = fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    let second = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    text.lines().filter_map(second).sum()
}
