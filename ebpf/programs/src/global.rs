//! The steps as global functions of the object, each with what the programs call it by. A pointer may be anything to the
//! kernel that checks them, so each is looked at first; a context is always there.

use crate::kernel::Kernel;
use aya_ebpf::bindings::__sk_buff;
use core::ptr;
use fairlead_abi::{Config, Endpoint, Reason, Service};
use fairlead_programs::conntrack::{self, Parties, Seen};
use fairlead_programs::icmp;
use fairlead_programs::service::{self, Origin};
use fairlead_programs::steps::{Code, code};
use fairlead_programs::{Scratch, Steps, announce, deliver, masquerade, parse, reject, rewrite};

/// What a function returns that was given no pointer.
fn nothing() -> Code {
    code(Err(Reason::NotConfigured))
}

macro_rules! global {
    ($($name:ident($world:ident, $scratch:ident $(, $arg:ident: $pointee:ty)* $(; $number:ident)?) -> $out:ty, $else:expr, $body:expr;)*) => {
        $(
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $name(
                ctx: *mut __sk_buff, $scratch: *mut Scratch $(, $arg: *const $pointee)* $(, $number: u32)?
            ) -> $out {
                // SAFETY: the programs hand over their only reference.
                let Some($scratch) = (unsafe { $scratch.as_mut() }) else { return $else };
                $(
                    // SAFETY: the programs hand over references.
                    let Some($arg) = (unsafe { $arg.as_ref() }) else { return $else };
                )*
                // Where a step does not look at the packet, the compiler would not hand the context over.
                let $world = &Kernel::new(core::hint::black_box(ctx));
                $body
            }
        )*
    };
}

global! {
    fairlead_parse(world, scratch, config: Config) -> Code, nothing(),
        code(parse::read(world, scratch, config));
    fairlead_translate(world, scratch, config: Config, service: Service; origin) -> Code, nothing(), {
        let origin = match origin {
            0 => Origin::Pod,
            1 => Origin::Uplink,
            _ => Origin::Node,
        };
        code(service::choose_ends(world, scratch, config, service, origin))
    };
    fairlead_rewrite(world, scratch) -> Code, nothing(), code(rewrite::write(world, scratch));
    fairlead_hop(world, scratch) -> Code, nothing(), code(deliver::take_hop(world, scratch));
    fairlead_masquerade(world, scratch, config: Config) -> Code, nothing(),
        code(masquerade::hide(world, scratch, config));
    fairlead_icmp(world, scratch; step) -> Code, nothing(), {
        let step = match step {
            0 => icmp::Step::Read,
            1 => icmp::Step::Relate,
            2 => icmp::Step::Defer,
            3 => icmp::Step::Direct,
            4 => icmp::Step::Reveal,
            _ => icmp::Step::Hide,
        };
        code(icmp::take(world, scratch, step))
    };
    fairlead_announce(world, scratch, config: Config) -> u32, 0,
        u32::from(announce::reply(world, scratch, config));
    fairlead_reject(world, scratch) -> u32, 0, u32::from(reject::turn(world, scratch));
}

/// Without a pod at an end its pointer is null.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn fairlead_admit(
    ctx: *mut __sk_buff,
    scratch: *mut Scratch,
    source: *const Endpoint,
    destination: *const Endpoint,
    node: u32,
) -> u64 {
    // SAFETY: the programs hand over references alone.
    let (scratch, source, destination) = unsafe { (scratch.as_mut(), source.as_ref(), destination.as_ref()) };
    let Some(scratch) = scratch else { return Seen::refused(Reason::NotConfigured) };
    match conntrack::judge(&Kernel::new(ctx), scratch, &Parties { source, destination, node: node != 0 }) {
        Ok(seen) => seen.pack(),
        Err(reason) => Seen::refused(reason),
    }
}

impl Steps for Kernel {
    #[inline(always)]
    fn parse(&self, scratch: &mut Scratch, config: &Config) -> Code {
        fairlead_parse(self.context(), scratch, config)
    }

    #[inline(always)]
    fn translate(&self, scratch: &mut Scratch, config: &Config, service: &Service, origin: Origin) -> Code {
        fairlead_translate(self.context(), scratch, config, service, origin as u32)
    }

    #[inline(always)]
    fn admit(&self, scratch: &mut Scratch, parties: &Parties<'_>) -> u64 {
        let end = |endpoint: Option<&Endpoint>| endpoint.map_or(ptr::null(), ptr::from_ref);
        let (source, destination) = (end(parties.source), end(parties.destination));
        fairlead_admit(self.context(), scratch, source, destination, u32::from(parties.node))
    }

    #[inline(always)]
    fn rewrite(&self, scratch: &mut Scratch) -> Code {
        fairlead_rewrite(self.context(), scratch)
    }

    #[inline(always)]
    fn hop(&self, scratch: &mut Scratch) -> Code {
        fairlead_hop(self.context(), scratch)
    }

    #[inline(always)]
    fn masquerade(&self, scratch: &mut Scratch, config: &Config) -> Code {
        fairlead_masquerade(self.context(), scratch, config)
    }

    #[inline(always)]
    fn icmp(&self, scratch: &mut Scratch, step: icmp::Step) -> Code {
        fairlead_icmp(self.context(), scratch, step as u32)
    }

    #[inline(always)]
    fn announce(&self, scratch: &mut Scratch, config: &Config) -> bool {
        fairlead_announce(self.context(), scratch, config) != 0
    }

    #[inline(always)]
    fn reject(&self, scratch: &mut Scratch) -> bool {
        fairlead_reject(self.context(), scratch) != 0
    }
}
