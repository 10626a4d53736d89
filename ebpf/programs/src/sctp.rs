//! SCTP's checksum is a CRC32c over ports and all that follows (RFC 9260 section 6.8). A CRC is linear: when the ports
//! change, it changes by the CRC of the difference, which is the difference shifted by what follows it.

use crate::parse::Packet;
use crate::{Ends, World};

/// The Castagnoli polynomial, its bits in the order of the wire.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Bits of a packet's length.
const LENGTH_BITS: usize = 16;
/// Offset of the checksum.
const CHECKSUM: u32 = 8;

/// What a shift by 1, 2, 4, ... bytes multiplies with.
const SHIFTS: [u32; LENGTH_BITS] = {
    let mut shifts = [0; LENGTH_BITS];
    let (mut bit, mut factor) = (0, 1 << 23);
    while bit < LENGTH_BITS {
        shifts[bit] = factor;
        factor = product(factor, factor);
        bit += 1;
    }
    shifts
};

/// Gives the packet the ports of `to`; false when it cannot be: the first piece of a datagram does not know how much
/// follows, and SCTP does not send pieces.
#[inline(always)]
pub fn ports<W: World>(world: &W, packet: &Packet, to: &Ends) -> bool {
    let difference = word(packet.src_port.0, packet.dst_port.0) ^ word(to.src_port.0, to.dst_port.0);
    if difference == 0 {
        return true;
    }
    let mut checksum = [0u8; 4];
    if packet.is(Packet::FRAGMENT) || !world.load(packet.l4 + CHECKSUM, &mut checksum) {
        return false;
    }
    // Zero: the network card, or the stack in its place, computes it when the packet leaves (CHECKSUM_PARTIAL).
    if checksum != [0; 4] {
        let mended = u32::from_le_bytes(checksum) ^ fairlead_sctp_shift(difference, packet.l4_len);
        if !world.store(packet.l4 + CHECKSUM, &mended.to_le_bytes()) {
            return false;
        }
    }
    world.store(packet.l4, &[to.src_port, to.dst_port])
}

/// Four bytes of the wire as the lowest powers first.
#[inline(always)]
const fn word(src: u16, dst: u16) -> u32 {
    let (a, b) = (src.to_ne_bytes(), dst.to_ne_bytes());
    u32::from_le_bytes([a[0], a[1], b[0], b[1]])
}

/// The CRC, begun with zero, of a word and zeros up to `len` bytes.
///
/// A global function of the object: the kernel checks such a one once, by itself, and not again at every call (Linux
/// 5.6). With its loops inside the programs they would be five times as long to check.
#[cfg_attr(target_arch = "bpf", unsafe(no_mangle))]
#[inline(never)]
extern "C" fn fairlead_sctp_shift(word: u32, len: u32) -> u32 {
    let mut crc = word;
    for (bit, factor) in SHIFTS.into_iter().enumerate() {
        if len & (1 << bit) != 0 {
            crc = product(crc, factor);
        }
    }
    crc
}

/// The product of two polynomials modulo [`POLYNOMIAL`].
#[inline(always)]
const fn product(a: u32, mut b: u32) -> u32 {
    let (mut sum, mut bit) = (0, 32);
    while bit > 0 {
        bit -= 1;
        sum ^= b & 0u32.wrapping_sub(a >> bit & 1);
        b = (b >> 1) ^ (POLYNOMIAL & 0u32.wrapping_sub(b & 1));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::{POLYNOMIAL, fairlead_sctp_shift};

    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8)
                .fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (POLYNOMIAL & 0u32.wrapping_sub(crc & 1)))
        })
    }

    #[test]
    fn a_changed_word_changes_the_crc_by_its_shift() {
        // RFC 3720 appendix B.4.
        assert_eq!(crc(&[0; 32]), 0x8a91_36aa);
        for len in [4, 12, 13, 100, 1500, 9000, 65535] {
            let mut bytes: Vec<u8> = (0..len).map(|n: u32| (n * 7 + n / 256) as u8).collect();
            let before = crc(&bytes);
            let difference = 0xdead_beef_u32;
            for (byte, change) in bytes.iter_mut().zip(difference.to_le_bytes()) {
                *byte ^= change;
            }
            assert_eq!(crc(&bytes), before ^ fairlead_sctp_shift(difference, len), "{len} bytes");
        }
    }
}
