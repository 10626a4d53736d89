//! What the plugin says to the dataplane: one JSON request and one JSON answer per connection, each preceded by
//! its length as four big-endian bytes.

use std::{
    io::{Read, Write},
    net::IpAddr,
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::spec::{Attachment, PortMapping};

/// Longest message in bytes, either way.
pub const MAX_MESSAGE: u32 = 1 << 20;

/// How long the plugin waits for an answer. A dataplane that is busy answers well before; the kubelet tries again.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// Name of the socket below the dataplane's run directory.
pub const SOCKET: &str = "cni.sock";

/// A request of the plugin.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Request {
    /// First half of ADD: gives the pod an address. Repeating it gives the same one.
    Allocate {
        /// Which interface of which sandbox.
        attachment: Attachment,
        /// The pod behind it.
        pod: PodRef,
        /// SO_NETNS_COOKIE of the sandbox's network namespace.
        netns_cookie: u64,
        /// hostPorts of the pod.
        ports: Vec<PortMapping>,
    },
    /// Second half of ADD: the veth stands; answered when programs and verdict entries are in place.
    Attach {
        /// Which interface of which sandbox.
        attachment: Attachment,
        /// Index of the host side in the node's network namespace.
        host_ifindex: u32,
        /// Hardware address of the host side.
        host_mac: [u8; 6],
        /// Hardware address of the pod's side.
        pod_mac: [u8; 6],
    },
    /// Gives everything of an attachment back. Succeeds when there is nothing.
    Delete {
        /// Which interface of which sandbox.
        attachment: Attachment,
    },
    /// Asks what ADD made.
    Check {
        /// Which interface of which sandbox.
        attachment: Attachment,
    },
    /// Asks whether ADD would be served.
    Status,
    /// Deletes every attachment that is not listed.
    Gc {
        /// Attachments that stay.
        valid: Vec<Attachment>,
    },
}

/// Which pod an attachment belongs to, as CNI_ARGS say.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodRef {
    /// K8S_POD_NAMESPACE
    pub namespace: String,
    /// K8S_POD_NAME
    pub name: String,
    /// K8S_POD_UID; empty when the runtime does not say.
    #[serde(default)]
    pub uid: String,
}

/// The dataplane's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Answer {
    /// Answer to Allocate and Check.
    Network(Network),
    /// Answer to everything else that went well.
    Done,
    /// The request was not carried out.
    Refused {
        /// Whether the same request may go well later.
        retry: bool,
        /// Why, in one sentence.
        message: String,
    },
}

/// What the pod's interface gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Address of the pod, used as /32 (/128).
    pub address: IpAddr,
    /// Its address of the other family, in a dual-stack cluster. Apart from the first, so that a plugin and a dataplane
    /// of different versions understand each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secondary: Option<IpAddr>,
    /// MTU of both sides of the veth.
    pub mtu: u32,
    /// Name of the host side.
    pub host_interface: String,
    /// Whether the second half of ADD was done.
    pub attached: bool,
}

impl Network {
    /// Every address of the pod, the primary first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [Some(self.address), self.secondary].into_iter().flatten()
    }
}

/// Why a message could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The socket failed.
    #[error("dataplane socket: {0}")]
    Io(#[from] std::io::Error),
    /// A message is longer than [`MAX_MESSAGE`].
    #[error("message of {0} bytes is over the limit of {MAX_MESSAGE}")]
    TooLong(u64),
    /// A message is not what was expected.
    #[error("message does not decode: {0}")]
    Decode(#[from] serde_json::Error),
}

/// Frames a message: length, then JSON.
///
/// # Errors
/// [`ProtocolError::TooLong`] over [`MAX_MESSAGE`] bytes.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, ProtocolError> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|length| *length <= MAX_MESSAGE)
        .ok_or(ProtocolError::TooLong(body.len() as u64))?;
    let mut framed = Vec::with_capacity(body.len() + 4);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&body);
    Ok(framed)
}

/// Checks a length prefix.
///
/// # Errors
/// [`ProtocolError::TooLong`] over [`MAX_MESSAGE`] bytes.
pub fn body_length(prefix: [u8; 4]) -> Result<usize, ProtocolError> {
    let length = u32::from_be_bytes(prefix);
    if length > MAX_MESSAGE {
        return Err(ProtocolError::TooLong(u64::from(length)));
    }
    Ok(length as usize)
}

fn read_message<T: DeserializeOwned>(stream: &mut impl Read) -> Result<T, ProtocolError> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix)?;
    let mut body = vec![0; body_length(prefix)?];
    stream.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

/// Sends one request over a new connection and waits for its answer.
///
/// # Errors
/// When the socket cannot be reached or the dataplane does not answer within [`ANSWER_DEADLINE`].
pub fn call(socket: &Path, request: &Request) -> Result<Answer, ProtocolError> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
    stream.set_write_timeout(Some(ANSWER_DEADLINE))?;
    stream.write_all(&encode(request)?)?;
    read_message(&mut stream)
}
