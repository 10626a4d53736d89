//! The long steps of a packet's way, which several programs take in several places.
//!
//! The kernel checks a global function once, by itself (Linux 5.6), and all else again at every call, in every state
//! that leads there. So in the kernel each of these is a global function, and a program is checked in a tenth of the
//! time; elsewhere it is its body.

use crate::conntrack::{self, Parties, Seen};
use crate::world::{Maps, Skb};
use crate::{Scratch, announce, deliver, icmp, masquerade, parse, reject, rewrite, service};
use fairlead_abi::{Config, Reason, Service};

/// What a step came to, as a number: global functions return no more.
pub type Code = u32;

/// The number of what a step came to.
#[inline(always)]
pub fn code(done: Result<(), Reason>) -> Code {
    match done {
        Ok(()) => 0,
        Err(reason) => reason as u32 + 1,
    }
}

/// What a number stands for.
///
/// # Errors
/// The reason.
#[inline(always)]
pub fn outcome(code: Code) -> Result<(), Reason> {
    let number = match code {
        0 => return Ok(()),
        // The verifier must see the comparison with the table's length next to the look-up.
        _ => core::hint::black_box(code - 1),
    };
    // A number that is no reason's would be a bug of the programs.
    Err(Reason::from_u32(number).unwrap_or(Reason::Malformed))
}

/// The steps. Every method has its body's documentation.
pub trait Steps: Maps + Skb + Sized {
    /// [`parse::ip`].
    #[inline(always)]
    fn parse(&self, scratch: &mut Scratch, config: &Config) -> Code {
        code(parse::read(self, scratch, config))
    }

    /// [`service::translate_for`].
    #[inline(always)]
    fn translate(
        &self,
        scratch: &mut Scratch,
        config: &Config,
        service: &Service,
        origin: service::Origin,
    ) -> Code {
        code(service::choose_ends(self, scratch, config, service, origin))
    }

    /// [`conntrack::admit`].
    #[inline(always)]
    fn admit(&self, scratch: &mut Scratch, parties: &Parties<'_>) -> u64 {
        match conntrack::judge(self, scratch, parties) {
            Ok(seen) => seen.pack(),
            Err(reason) => Seen::refused(reason),
        }
    }

    /// [`rewrite::apply`].
    #[inline(always)]
    fn rewrite(&self, scratch: &mut Scratch) -> Code {
        code(rewrite::write(self, scratch))
    }

    /// [`deliver::hop`].
    #[inline(always)]
    fn hop(&self, scratch: &mut Scratch) -> Code {
        code(deliver::take_hop(self, scratch))
    }

    /// [`masquerade::leave`].
    #[inline(always)]
    fn masquerade(&self, scratch: &mut Scratch, config: &Config) -> Code {
        code(masquerade::hide(self, scratch, config))
    }

    /// Whatever is done about an ICMP error.
    #[inline(always)]
    fn icmp(&self, scratch: &mut Scratch, step: icmp::Step) -> Code {
        code(icmp::take(self, scratch, step))
    }

    /// [`announce::answer`]; whether there is one.
    #[inline(always)]
    fn announce(&self, scratch: &mut Scratch, config: &Config) -> bool {
        announce::reply(self, scratch, config)
    }

    /// [`reject::answer`]; whether there is one.
    #[inline(always)]
    fn reject(&self, scratch: &mut Scratch) -> bool {
        reject::turn(self, scratch)
    }
}
