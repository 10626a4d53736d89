//! Sockets that are spliced: what `sock_ops` and `sk_msg` see of them, and the maps that hold them.

use super::{Run, SPARSE};
use aya_ebpf::bindings::{
    BPF_ANY, BPF_F_INGRESS, BPF_SOCK_OPS_STATE_CB_FLAG, bpf_sock_ops, sk_action, sk_msg_md,
};
use aya_ebpf::helpers::generated as helper;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, PerCpuArray, SockHash};
use aya_ebpf::programs::SkMsgContext;
use core::ptr;
use fairlead_abi::{Addr, Be16, Counter, Stream, StreamKey};
use fairlead_programs::{Maps, splice};

#[map]
static SPLICES: SockHash<StreamKey> = SockHash::with_max_entries(1, 0);
#[map]
static STREAMS: HashMap<StreamKey, Stream> = HashMap::with_max_entries(1, SPARSE);
#[map]
static SPLICED: PerCpuArray<Counter> = PerCpuArray::with_max_entries(1, 0);

/// Where the kernel that runs has these fields, in bytes from the beginning of a socket. Userspace reads it from the
/// kernel's own types when it loads the object.
#[repr(C)]
#[derive(Clone, Copy)]
struct Fields {
    /// `tcp_sock.write_seq`: sequence number of the next byte that is given to TCP.
    write_seq: u32,
    /// `tcp_sock.copied_seq`: that of the next byte that the reader gets from TCP.
    copied_seq: u32,
    /// `sock.sk_backlog.rmem_alloc`: bytes that wait to be read, spliced ones included (since 6.13).
    rmem_alloc: u32,
    /// `sock.sk_rcvbuf`
    rcvbuf: u32,
}

#[unsafe(no_mangle)]
static SOCK_FIELDS: Fields = Fields { write_seq: 0, copied_seq: 0, rmem_alloc: 0, rcvbuf: 0 };

const AF_INET: u32 = 2;

/// Four words of a context, each read by itself, as the verifier wants it.
macro_rules! words {
    ($field:expr) => {{
        let words = $field.cast::<u32>();
        Addr([
            ptr::read_volatile(words),
            ptr::read_volatile(words.add(1)),
            ptr::read_volatile(words.add(2)),
            ptr::read_volatile(words.add(3)),
        ])
    }};
}

/// Reads the ends out of a context: both kinds have the same fields, at other offsets.
macro_rules! stream_key {
    ($ctx:expr) => {{
        let ctx = $ctx;
        // SAFETY: the context is valid while the program runs. All of it is read, because the verifier refuses an
        // address in it that depends on the family.
        unsafe {
            let local = ptr::read_volatile(&raw const (*ctx).local_ip4);
            let remote = ptr::read_volatile(&raw const (*ctx).remote_ip4);
            let v6 = [words!(&raw const (*ctx).local_ip6), words!(&raw const (*ctx).remote_ip6)];
            // The local port is in the machine's order, the remote one in network order in the upper half.
            let local_port = Be16::new(ptr::read_volatile(&raw const (*ctx).local_port) as u16);
            let remote_port = u32::from_be(ptr::read_volatile(&raw const (*ctx).remote_port));
            let v4 = ptr::read_volatile(&raw const (*ctx).family) == AF_INET;
            let [local, remote] =
                if v4 { [Addr::from_v4_word(local), Addr::from_v4_word(remote)] } else { v6 };
            StreamKey { local, remote, local_port, remote_port: Be16::new(remote_port as u16) }
        }
    }};
}

/// A run for a socket whose state has changed.
pub type Changed = Run<*mut bpf_sock_ops>;

impl Changed {
    /// The socket has just been connected, by either end.
    #[inline(always)]
    pub fn enter(ops: *mut bpf_sock_ops) {
        let world = Self { ctx: ops };
        let key = stream_key!(ops);
        // SAFETY: the context is valid while the program runs.
        let netns = unsafe { helper::bpf_get_netns_cookie(ops.cast()) };
        if !splice::enters(&world, &key, netns) {
            return;
        }
        // SAFETY: as above.
        let (flags, sock) = unsafe {
            (
                ptr::read_volatile(&raw const (*ops).bpf_sock_ops_cb_flags),
                ptr::read_volatile(&raw const (*ops).__bindgen_anon_2.sk),
            )
        };
        if sock.is_null() {
            return;
        }
        raise(ops, SO_RCVBUF, splice::RECEIVE_BUFFER);
        raise(ops, SO_SNDBUF, splice::SEND_BUFFER);
        let flags = (flags | BPF_SOCK_OPS_STATE_CB_FLAG) as i32;
        let mut key = key;
        // SAFETY: the helpers take the context, and a key that is as long as the map's.
        let entered = unsafe {
            helper::bpf_sock_ops_cb_flags_set(ops, flags) == 0
                && helper::bpf_sock_hash_update(
                    ops,
                    (&raw const SPLICES).cast_mut().cast(),
                    ptr::from_mut(&mut key).cast(),
                    u64::from(BPF_ANY),
                ) == 0
        };
        if entered {
            // Without room for it, the socket sends packets.
            let _ = STREAMS.insert(&key, &Stream { sock: sock as u64, ..Stream::default() }, 0);
        }
    }

    /// The socket is closed. It leaves `SPLICES` by itself.
    #[inline(always)]
    pub fn leave(ops: *mut bpf_sock_ops) {
        let key = stream_key!(ops);
        // SAFETY: the context is valid while the program runs; values of the map are valid for any bytes.
        let own = unsafe {
            let sock = ptr::read_volatile(&raw const (*ops).__bindgen_anon_2.sk) as u64;
            STREAMS.get(&key).is_some_and(|stream| stream.sock == sock)
        };
        if own {
            let _ = STREAMS.remove(&key);
        }
    }
}

const SO_SNDBUF: i32 = 7;
const SO_RCVBUF: i32 = 8;

/// Makes a buffer at least that large; one that the program has made larger stays.
#[inline(always)]
fn raise(ops: *mut bpf_sock_ops, option: i32, wanted: i32) {
    const SOL_SOCKET: i32 = 1;
    const LEN: i32 = size_of::<i32>() as i32;
    let (mut present, mut wanted) = (0i32, wanted);
    // SAFETY: the helpers read and write one integer. A buffer that stays small makes the stream slower, nothing else.
    unsafe {
        let value = ptr::from_mut(&mut present).cast();
        if helper::bpf_getsockopt(ops.cast(), SOL_SOCKET, option, value, LEN) == 0 && present < 2 * wanted {
            let value = ptr::from_mut(&mut wanted).cast();
            helper::bpf_setsockopt(ops.cast(), SOL_SOCKET, option, value, LEN);
        }
    }
}

/// A run for bytes that a socket is about to send.
pub type Message = Run<*mut sk_msg_md>;

impl Message {
    /// Hands the bytes to the peer's socket if they may go that way.
    #[inline(always)]
    pub fn send(msg: *mut sk_msg_md) {
        let world = Self { ctx: msg };
        let key = stream_key!(msg);
        let peer = key.mirrored();
        // SAFETY: the context is valid while the program runs.
        let bytes = unsafe { (*msg).size };
        // What the run for the first part of a message has said would hold for the rest, and for messages that follow.
        // SAFETY: the helper takes the context alone.
        unsafe { helper::bpf_msg_apply_bytes(msg, 0) };
        let Some(room) = room(&world, &key, &peer) else { return };
        if !splice::allows(&world, &key, bytes) {
            return;
        }
        let mut bytes = bytes;
        if bytes > room {
            bytes = room;
            // SAFETY: the helper takes the context alone. The program runs again for the rest of the message.
            unsafe { helper::bpf_msg_apply_bytes(msg, bytes) };
        }
        // A socket that is being closed is not there any more; its stack answers the packet then.
        let sent = SPLICES.redirect_msg(SkMsgContext::new(msg), peer, u64::from(BPF_F_INGRESS));
        if sent == i64::from(sk_action::SK_PASS)
            && let Some(counter) = SPLICED.get_ptr_mut(0)
        {
            // SAFETY: the entry is this CPU's own. Two senders of one CPU may count as one.
            let counter = unsafe { &mut *counter };
            counter.packets += 1;
            counter.bytes += u64::from(bytes);
        }
    }
}

/// How many bytes may go from socket to socket now; None when they must become packets.
#[inline(always)]
fn room(world: &Message, key: &StreamKey, peer: &StreamKey) -> Option<u32> {
    let own = STREAMS.get_ptr_mut(key)?;
    // SAFETY: values are valid for any bytes; entries are freed after a grace period. Only this socket's senders write.
    let (own, peer) = unsafe { (&mut *own, STREAMS.get(peer)?) };
    // SAFETY: userspace has written it before the program was loaded.
    let fields = unsafe { ptr::read_volatile(&raw const SOCK_FIELDS) };
    let next = read(own.sock, fields.write_seq)?;
    let buffer = read(peer.sock, fields.rcvbuf)?;
    let now = (world.nanoseconds() / 1_000_000) as u32;
    // A number from long ago, when the clock's lower bits were others, is no rest.
    let rests = own.rests_until.wrapping_sub(now).wrapping_sub(1) < splice::REST_MILLISECONDS;
    let rounds = if rests { 1 } else { PATIENCE };
    let mut room = 0;
    if has_read(peer.sock, fields.copied_seq, next, rounds) {
        room = settle(peer.sock, fields.rmem_alloc, buffer, rounds);
    }
    if room == 0 && !rests {
        own.rests_until = now.wrapping_add(splice::REST_MILLISECONDS);
    }
    (room != 0).then_some(room)
}

/// How often a word of the peer is looked at before the sender stops waiting for it: some 30 microseconds, in which a
/// reader that runs on another CPU reads more than may wait for it. Sleeping is not to be had here.
const PATIENCE: u32 = 1000;

/// Waits until the reader has all bytes that went as packets.
#[inline(never)]
fn has_read(sock: u64, copied_seq: u32, next: u32, rounds: u32) -> bool {
    for round in 0..PATIENCE {
        if read(sock, copied_seq) == Some(next) {
            return true;
        }
        if round + 1 >= rounds {
            break;
        }
    }
    false
}

/// Waits until little enough is left to be read; how many more bytes there is room for, or 0.
#[inline(never)]
fn settle(sock: u64, rmem_alloc: u32, buffer: u32, rounds: u32) -> u32 {
    for round in 0..PATIENCE {
        if let Some(waiting) = read(sock, rmem_alloc)
            && let Some(room) = splice::room(buffer, waiting)
        {
            return room;
        }
        if round + 1 >= rounds {
            break;
        }
    }
    0
}

/// A word of a socket. One that was closed meanwhile gives any number, which does no harm: it is not in `SPLICES`.
#[inline(always)]
fn read(sock: u64, offset: u32) -> Option<u32> {
    let mut word = 0u32;
    // SAFETY: the helper writes four bytes, and fails for an address that is not mapped.
    let failed = unsafe {
        helper::bpf_probe_read_kernel(
            ptr::from_mut(&mut word).cast(),
            size_of::<u32>() as u32,
            (sock + u64::from(offset)) as *const _,
        )
    };
    (failed == 0).then_some(word)
}
