//! Entry points, named after the hooks they are for.

use crate::kernel::splice::{Changed, Message};
use crate::kernel::xdp::Frame;
use crate::kernel::{Closing, Kernel, Socket};
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
    BPF_TCP_CLOSE, sk_action, xdp_action,
};
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, classifier, sk_msg, sock_ops, xdp};
use aya_ebpf::programs::{SkMsgContext, SockAddrContext, SockContext, SockOpsContext, TcContext, XdpContext};
use fairlead_abi::{FlowEvent, Reason};
use fairlead_programs::{DROP, Outcome, Scratch, Skb, World, early, overlay, pod, reject, socket, uplink};

/// Turns a drop into its counter, its record and, for a Service without backends, its answer; `answered` says
/// how that leaves.
#[inline(always)]
fn finish(
    world: &Kernel,
    scratch: &mut Scratch,
    hook: u8,
    outcome: Outcome,
    answered: fn(&Kernel) -> i32,
) -> i32 {
    match outcome {
        Ok(action) => action,
        Err(reason) => {
            record(world, scratch, hook, reason);
            if matches!(reason, Reason::NoBackend) && reject::answer(world, scratch) {
                return answered(world);
            }
            DROP
        }
    }
}

/// A function of its own, like all that few packets need: its stack counts only while it runs.
#[inline(never)]
fn record<W: World>(world: &W, scratch: &Scratch, hook: u8, reason: Reason) {
    world.count_drop(reason, world.length());
    if matches!(reason, Reason::LinkLocalNoise) {
        return;
    }
    world.report(&FlowEvent {
        time: world.nanoseconds(),
        src: scratch.packet.src,
        dst: scratch.to.dst,
        src_port: scratch.packet.src_port,
        dst_port: scratch.to.dst_port,
        proto: scratch.packet.proto,
        hook,
        reason: reason as u16,
        rule: scratch.rule,
        endpoint: scratch.endpoint,
        ifindex: world.ifindex(),
        bytes: world.length(),
    });
}

macro_rules! tc {
    ($($name:ident = $hook:ident, $decide:path, $answer:expr;)*) => {
        $(
            #[classifier]
            pub fn $name(ctx: TcContext) -> i32 {
                let world = Kernel::new(ctx.skb.skb);
                let Some(scratch) = world.scratch() else { return DROP };
                scratch.begin();
                let outcome = $decide(&world, scratch);
                finish(&world, scratch, FlowEvent::$hook, outcome, $answer)
            }
        )*
    };
}

tc! {
    from_pod = FROM_POD, pod::from_pod, |world: &Kernel| world.redirect_peer(world.ifindex());
    to_pod = TO_POD, pod::to_pod, |_: &Kernel| DROP;
    from_overlay = FROM_OVERLAY, overlay::from_overlay, |_: &Kernel| DROP;
    to_overlay = TO_OVERLAY, overlay::to_overlay, |_: &Kernel| DROP;
    from_uplink = FROM_UPLINK, uplink::from_uplink, |world: &Kernel| world.redirect(world.ifindex());
    to_uplink = TO_UPLINK, uplink::to_uplink, |_: &Kernel| DROP;
}

#[xdp(frags)]
pub fn from_wire(ctx: XdpContext) -> u32 {
    let world = Frame::new(ctx.ctx);
    let Some(scratch) = world.scratch() else { return xdp_action::XDP_PASS };
    scratch.begin();
    match early::from_wire(&world, scratch) {
        Ok(false) => xdp_action::XDP_PASS,
        Ok(true) => world.reflect(),
        Err(reason) => {
            record(&world, scratch, FlowEvent::FROM_UPLINK, reason);
            xdp_action::XDP_DROP
        }
    }
}

#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    let sock = Closing::new(ctx.sock);
    let (addr, port) = sock.peer();
    socket::release(&sock, sock.cookie(), sock.proto(), &addr, port);
    1
}

#[sock_ops]
pub fn splice_enter(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB | BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => Changed::enter(ctx.ops),
        // The arguments are the state before and the one that follows.
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => Changed::leave(ctx.ops),
        _ => {}
    }
    1
}

/// Whatever is not spliced is sent: the packet path decides about it.
#[sk_msg]
pub fn splice_send(ctx: SkMsgContext) -> u32 {
    Message::send(ctx.msg);
    sk_action::SK_PASS
}

macro_rules! sock_addr {
    ($($name:ident = $family:literal, $decide:expr;)*) => {
        $(
            #[cgroup_sock_addr($name)]
            pub fn $name(ctx: SockAddrContext) -> i32 {
                let sock = Socket::<$family>::new(ctx.sock_addr);
                let decide: fn(&Socket<$family>) -> bool = $decide;
                i32::from(decide(&sock))
            }
        )*
    };
}

sock_addr! {
    connect4 = 4, |sock| socket::connect(sock, sock);
    connect6 = 6, |sock| socket::connect(sock, sock);
    sendmsg4 = 4, |sock| socket::sendmsg(sock, sock);
    sendmsg6 = 6, |sock| socket::sendmsg(sock, sock);
    recvmsg4 = 4, |sock| { socket::restore(sock, sock); true };
    recvmsg6 = 6, |sock| { socket::restore(sock, sock); true };
    getpeername4 = 4, |sock| { socket::restore(sock, sock); true };
    getpeername6 = 6, |sock| { socket::restore(sock, sock); true };
}
