//! Pods that have a sandbox on this node: their addresses (IPAM) and what was made for them, recorded on disk so that
//! a restarted agent knows them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use fairlead_cni::{
    protocol::PodRef,
    spec::{Attachment, PortMapping},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    model::{Family, Key},
    overlay,
    policy::identity,
};

/// One sandbox with its interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Which interface of which sandbox.
    pub attachment: Attachment,
    /// The pod.
    pub pod: PodRef,
    /// Its number on this node, never 0.
    pub id: u32,
    /// Its address, the IPv4 one if it has one of each family: an older agent knows this field alone.
    pub address: IpAddr,
    /// Its IPv6 address when `address` is IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secondary: Option<IpAddr>,
    /// SO_NETNS_COOKIE of its network namespace.
    pub netns_cookie: u64,
    /// Name of the veth's side in the node.
    pub host_interface: String,
    /// hostPorts.
    pub ports: Vec<PortMapping>,
    /// Present once the veth stands and is attached.
    pub attached: Option<Attached>,
}

/// The second half of ADD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attached {
    /// Number of the veth's side in the node.
    pub host_ifindex: u32,
    /// Its hardware address.
    pub host_mac: [u8; 6],
    /// Hardware address in the pod.
    pub pod_mac: [u8; 6],
}

impl Record {
    /// Namespace and name of the pod.
    #[must_use]
    pub fn key(&self) -> Key {
        Key::new(&self.pod.namespace, &self.pod.name)
    }

    /// Every address of the pod, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [Some(self.address), self.secondary].into_iter().flatten()
    }
}

/// The last sandbox that was made, as far as it is known: what it had is given again last. Kept beside the records once
/// it is gone; an older agent does not look for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Newest {
    id: u32,
    addresses: Vec<IpAddr>,
}

impl Newest {
    /// Name of its file, beside those of records.
    const FILE: &str = "newest";

    fn of(record: &Record) -> Self {
        Newest { id: record.id, addresses: record.addresses().collect() }
    }

    fn read(directory: &Path) -> Option<Self> {
        let bytes = fs::read(directory.join(Newest::FILE)).ok()?;
        let read = serde_json::from_slice(&bytes);
        read.inspect_err(|error| tracing::warn!(%error, "addresses may be given again without rest")).ok()
    }
}

/// Every record of the node.
#[derive(Debug)]
pub struct Endpoints {
    directory: PathBuf,
    records: BTreeMap<String, Record>,
    /// Where the search for a free address goes on, by family, so that an address rests before it is given again.
    next: HashMap<Family, u128>,
    next_id: u32,
}

/// An address as a number, to count on from.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}

/// Name of a record's file, and of the veth: it follows from the attachment alone.
fn short_name(attachment: &Attachment) -> String {
    let text = format!("{}\n{}", attachment.container_id, attachment.ifname);
    format!("{:08x}{:04x}", identity::hashed(&text), identity::hashed(&format!("{text}\n")) & 0xffff)
}

/// Name of the veth's side in the node: 15 characters, as long as the kernel allows.
#[must_use]
pub fn host_interface(attachment: &Attachment) -> String {
    format!("flp{}", short_name(attachment))
}

/// Writes a file so that it is either the old one or the new one, whatever happens meanwhile.
///
/// # Errors
/// [`Error::File`]
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let write = || -> io::Result<()> {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(file_error(path))
}

impl Endpoints {
    /// Reads what earlier runs recorded. A record that does not decode is an error: going on without it would give its
    /// address away twice.
    ///
    /// # Errors
    /// [`Error::File`]
    pub fn open(directory: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(&directory).map_err(file_error(&directory))?;
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(&directory).map_err(file_error(&directory))? {
            let path = entry.map_err(file_error(&directory))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let bytes = fs::read(&path).map_err(file_error(&path))?;
            let record: Record =
                serde_json::from_slice(&bytes).map_err(|error| file_error(&path)(io::Error::other(error)))?;
            records.insert(short_name(&record.attachment), record);
        }
        let gone = Newest::read(&directory).into_iter();
        let newest = records.values().map(Newest::of).chain(gone).max_by_key(|newest| newest.id);
        let newest = newest.unwrap_or_default();
        let next = newest.addresses.iter().map(|last| (Family::of(*last), number(*last) + 1)).collect();
        Ok(Endpoints { directory, records, next, next_id: newest.id })
    }

    /// Every record.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// The record of an attachment.
    #[must_use]
    pub fn get(&self, attachment: &Attachment) -> Option<&Record> {
        self.records.get(&short_name(attachment)).filter(|record| record.attachment == *attachment)
    }

    /// Records of a pod.
    pub fn of_pod<'a>(&'a self, key: &'a Key) -> impl Iterator<Item = &'a Record> {
        self.iter().filter(|record| *record.pod.namespace == *key.namespace && *record.pod.name == *key.name)
    }

    /// Gives a pod an address of each of `pod_cidrs` (sorted by family), or those it has. None when every address of one
    /// is taken.
    ///
    /// # Errors
    /// [`Error::File`]
    pub fn allocate(
        &mut self,
        attachment: &Attachment,
        pod: PodRef,
        netns_cookie: u64,
        ports: Vec<PortMapping>,
        pod_cidrs: &[IpNet],
    ) -> Result<Option<Record>, Error> {
        if let Some(record) = self.get(attachment) {
            let mut record = record.clone();
            // A sandbox that was made anew under the same name has another namespace, and its veth must come again.
            if record.netns_cookie != netns_cookie || record.pod != pod || record.ports != ports {
                record = Record { netns_cookie, pod, ports, attached: None, ..record };
                self.save(record.clone())?;
            }
            return Ok(Some(record));
        }
        let free: Option<Vec<IpAddr>> = pod_cidrs.iter().map(|cidr| self.free_address(*cidr)).collect();
        let Some(free) = free else { return Ok(None) };
        let [address, rest @ ..] = free.as_slice() else { return Ok(None) };
        let (address, secondary) = (*address, rest.first().copied());
        self.next_id = self.next_id.wrapping_add(1).max(1);
        let record = Record {
            attachment: attachment.clone(),
            pod,
            id: self.next_id,
            address,
            secondary,
            netns_cookie,
            host_interface: host_interface(attachment),
            ports,
            attached: None,
        };
        self.save(record.clone())?;
        Ok(Some(record))
    }

    fn free_address(&mut self, pod_cidr: IpNet) -> Option<IpAddr> {
        // IPv6 has no broadcast address, but its last one may be anybody's, too (RFC 2526).
        let (first, last) = (number(overlay::gateway(pod_cidr)) + 1, number(pod_cidr.broadcast()));
        let count = last.checked_sub(first).filter(|count| *count > 0)?;
        let taken: HashSet<u128> = self.iter().flat_map(Record::addresses).map(number).collect();
        let family = Family::of(pod_cidr.addr());
        let next = self.next.entry(family).or_default();
        let start = if (first..last).contains(next) { *next - first } else { 0 };
        let offset = (0..count)
            .map(|step| (start + step) % count)
            .find(|offset| !taken.contains(&(first + offset)))?;
        *next = first + offset + 1;
        Some(match family {
            Family::V4 => Ipv4Addr::from(u32::try_from(first + offset).ok()?).into(),
            Family::V6 => Ipv6Addr::from(first + offset).into(),
        })
    }

    /// Records what ADD has made.
    ///
    /// # Errors
    /// [`Error::File`]
    pub fn save(&mut self, record: Record) -> Result<(), Error> {
        let name = short_name(&record.attachment);
        let path = self.directory.join(format!("{name}.json"));
        let text =
            serde_json::to_vec_pretty(&record).map_err(|error| file_error(&path)(io::Error::other(error)))?;
        write_atomically(&path, &text, 0o600)?;
        self.records.insert(name, record);
        Ok(())
    }

    /// Forgets an attachment and gives its address back.
    ///
    /// # Errors
    /// [`Error::File`]
    pub fn forget(&mut self, attachment: &Attachment) -> Result<(), Error> {
        let name = short_name(attachment);
        let path = self.directory.join(format!("{name}.json"));
        if let Some(newest) = self.records.get(&name).filter(|record| record.id == self.next_id) {
            let text = serde_json::to_vec(&Newest::of(newest))
                .map_err(|error| file_error(&path)(io::Error::other(error)))?;
            write_atomically(&self.directory.join(Newest::FILE), &text, 0o600)?;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file_error(&path)(error)),
            _ => {}
        }
        self.records.remove(&name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(number: usize) -> Attachment {
        Attachment { container_id: format!("sandbox-{number}"), ifname: "eth0".to_owned() }
    }

    fn pod(number: usize) -> PodRef {
        PodRef { namespace: "ns".to_owned(), name: format!("pod-{number}"), uid: String::new() }
    }

    fn scratch(name: &str) -> PathBuf {
        let directory =
            std::env::temp_dir().join(format!("fairlead-endpoints-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        directory
    }

    #[test]
    fn addresses_are_unique_rest_before_reuse_and_survive_a_restart() {
        let directory = scratch("reuse");
        let cidr: IpNet = "10.244.0.0/29".parse().expect("a CIDR");
        let mut endpoints = Endpoints::open(directory.clone()).expect("a directory");
        let give = |endpoints: &mut Endpoints, number: usize| {
            let record = endpoints
                .allocate(&attachment(number), pod(number), 1, Vec::new(), &[cidr])
                .expect("a record");
            record.and_then(|record| match record.address {
                IpAddr::V4(address) => Some(address.octets()[3]),
                IpAddr::V6(_) => None,
            })
        };
        assert_eq!((give(&mut endpoints, 0), give(&mut endpoints, 1)), (Some(2), Some(3)));
        assert_eq!(give(&mut endpoints, 0), Some(2), "the same attachment keeps its address");
        endpoints.forget(&attachment(0)).expect("forgotten");
        assert_eq!(give(&mut endpoints, 2), Some(4), "an address rests before it is given again");
        let mut again = Endpoints::open(directory.clone()).expect("a directory");
        assert_eq!(again.iter().count(), 2);
        assert_eq!(give(&mut again, 3), Some(5), "nor is one that rested before the restart");
        again.forget(&attachment(3)).expect("forgotten");
        let mut again = Endpoints::open(directory.clone()).expect("a directory");
        assert_eq!(
            [give(&mut again, 3), give(&mut again, 4), give(&mut again, 5)],
            [Some(6), Some(2), Some(5)],
            "nor is the one that was given last"
        );
        assert_eq!(give(&mut again, 6), None, "network, gateway and broadcast are never given");
        fs::remove_dir_all(directory).expect("removed");
    }

    #[test]
    fn a_dual_stack_pod_gets_both_addresses_and_older_records_are_read() {
        let directory = scratch("dual");
        let mut endpoints = Endpoints::open(directory.clone()).expect("a directory");
        let cidrs: Vec<IpNet> =
            ["10.244.0.0/24", "fd00:10::/64"].map(|text| text.parse().expect("a CIDR")).to_vec();
        let give = |endpoints: &mut Endpoints, number: usize| {
            let record = endpoints.allocate(&attachment(number), pod(number), 1, Vec::new(), &cidrs);
            let record = record.expect("a record").expect("an address");
            record.addresses().map(|address| address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(give(&mut endpoints, 0), ["10.244.0.2", "fd00:10::2"]);
        assert_eq!(give(&mut endpoints, 1), ["10.244.0.3", "fd00:10::3"]);
        let old = r#"{"attachment": {"containerID": "sandbox-9", "ifname": "eth0"},
            "pod": {"namespace": "ns", "name": "old", "uid": "u"}, "id": 7, "address": "10.244.0.4",
            "netnsCookie": 5, "hostInterface": "flp0", "ports": [], "attached": null}"#;
        fs::write(directory.join("old.json"), old).expect("a file");
        let mut again = Endpoints::open(directory.clone()).expect("a directory");
        assert_eq!(again.get(&attachment(9)).map(|record| record.addresses().count()), Some(1));
        assert_eq!(give(&mut again, 2), ["10.244.0.5", "fd00:10::4"], "an old record's address is taken");
        fs::remove_dir_all(directory).expect("removed");
    }

    #[test]
    fn a_damaged_record_stops_the_start() {
        let directory = scratch("damage");
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join("x.json"), "{").expect("a file");
        assert!(matches!(Endpoints::open(directory.clone()), Err(Error::File { .. })));
        fs::remove_dir_all(directory).expect("removed");
    }

    #[test]
    fn host_interface_names_are_as_long_as_the_kernel_allows() {
        assert_eq!(host_interface(&attachment(1)).len(), 15);
        assert_ne!(host_interface(&attachment(1)), host_interface(&attachment(2)));
    }
}
