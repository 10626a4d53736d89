//! Where the running kernel has a field of one of its structs, by its own description (BTF).
//!
//! Programs that read a socket need that: what is compiled for one kernel does not hold for the next.

use std::{fs, io, path::Path};

/// The kernel's description of its types.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// Types of a kernel.
pub struct Types {
    bytes: Vec<u8>,
    /// Where each type begins, by its number less one.
    offsets: Vec<usize>,
    strings: usize,
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's types do not parse")
}

impl Types {
    /// Those of the kernel that runs.
    ///
    /// # Errors
    /// When it was built without them (CONFIG_DEBUG_INFO_BTF), or they do not parse.
    pub fn of_kernel() -> io::Result<Self> {
        Self::parse(fs::read(Path::new(VMLINUX))?)
    }

    /// Reads struct btf_header and finds where each type begins (Documentation/bpf/btf.rst).
    fn parse(bytes: Vec<u8>) -> io::Result<Self> {
        let mut types = Types { bytes, offsets: Vec::new(), strings: 0 };
        let magic = types.word(0)? as u16;
        let (header, from, length) = (types.word(4)?, types.word(8)?, types.word(12)?);
        if magic != MAGIC {
            return Err(malformed());
        }
        types.strings = (header + types.word(16)?) as usize;
        let (mut at, end) = ((header + from) as usize, (header + from + length) as usize);
        while at < end {
            types.offsets.push(at);
            let count = (types.word(at + 4)? & 0xffff) as usize;
            at += 12
                + match types.kind(at)? {
                    // INT, VAR, DECL_TAG: one word more. ARRAY: three.
                    1 | 14 | 17 => 4,
                    3 => 12,
                    // STRUCT, UNION, DATASEC, ENUM64: three words each. ENUM, FUNC_PROTO: two.
                    STRUCT | UNION | 15 | 19 => 12 * count,
                    6 | 13 => 8 * count,
                    _ => 0,
                };
        }
        Ok(types)
    }

    fn word(&self, at: usize) -> io::Result<u32> {
        let word = self.bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        word.map(u32::from_ne_bytes).ok_or_else(malformed)
    }

    fn kind(&self, at: usize) -> io::Result<u32> {
        Ok(self.word(at + 4)? >> 24 & 0x1f)
    }

    fn is_named(&self, at: usize, name: &str) -> io::Result<bool> {
        let from = self.strings + self.word(at)? as usize;
        let text = self.bytes.get(from..from + name.len() + 1).unwrap_or_default();
        Ok(text.strip_suffix(b"\0") == Some(name.as_bytes()))
    }

    /// Bytes from the beginning of struct `name` to what `path` leads to: a field, a field of that, and so on.
    ///
    /// # Errors
    /// When there is no such field, or it is of some bits only.
    pub fn offset(&self, name: &str, path: &[&str]) -> io::Result<u32> {
        for at in &self.offsets {
            if self.kind(*at)? == STRUCT && self.is_named(*at, name)? && self.word(at + 4)? & 0xffff != 0 {
                return self.within(*at, path, 0)?.ok_or_else(|| {
                    io::Error::new(io::ErrorKind::NotFound, format!("{name} has no field {}", path.join(".")))
                });
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, format!("this kernel has no struct {name}")))
    }

    /// The field in the struct or union that begins at `at`, whose members without a name count as its own.
    fn within(&self, at: usize, path: &[&str], depth: u32) -> io::Result<Option<u32>> {
        /// Deeper than any struct of the kernel.
        const DEPTH: u32 = 8;
        let Some((first, rest)) = path.split_first() else { return Ok(Some(0)) };
        if !matches!(self.kind(at)?, STRUCT | UNION) || depth > DEPTH {
            return Ok(None);
        }
        let info = self.word(at + 4)?;
        let has_bits = info >> 31 == 1;
        for number in 0..(info & 0xffff) as usize {
            let member = at + 12 + 12 * number;
            let bits = self.word(member + 8)?;
            let offset = if has_bits { bits & 0x00ff_ffff } else { bits } / 8;
            let kind = self.word(member + 4)?.checked_sub(1).ok_or_else(malformed)? as usize;
            let inner = *self.offsets.get(kind).ok_or_else(malformed)?;
            let found = if self.is_named(member, first)? {
                self.within(inner, rest, depth + 1)?
            } else if self.is_named(member, "")? {
                self.within(inner, path, depth + 1)?
            } else {
                continue;
            };
            if let Some(more) = found {
                return Ok(Some(offset + more));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { u32 a; struct { u32 b; struct inner { u32 x; u32 c; } in; }; }`
    fn sample() -> Vec<u8> {
        let strings = b"\0u32\0outer\0a\0b\0in\0inner\0x\0c\0";
        let name = |text: &str| {
            let wanted = [b"\0", text.as_bytes(), b"\0"].concat();
            strings.windows(wanted.len()).position(|window| window == wanted).map_or(0, |at| at as u32 + 1)
        };
        let kind = |kind: u32, members: u32| kind << 24 | members;
        let types: Vec<u32> = [
            vec![name("u32"), kind(1, 0), 4, 32],
            vec![name("inner"), kind(STRUCT, 2), 8, name("x"), 1, 0, name("c"), 1, 32],
            vec![0, kind(STRUCT, 2), 12, name("b"), 1, 0, name("in"), 2, 32],
            vec![name("outer"), kind(STRUCT, 2), 16, name("a"), 1, 0, 0, 3, 32],
        ]
        .concat();
        let length = 4 * types.len() as u32;
        let header = [u32::from(MAGIC) | 1 << 16, 24, 0, length, length, strings.len() as u32];
        let words = header.iter().chain(&types).flat_map(|word| word.to_ne_bytes());
        words.chain(strings.iter().copied()).collect()
    }

    #[test]
    fn a_field_is_found_through_structs_with_and_without_a_name() {
        let types = Types::parse(sample()).expect("types");
        assert_eq!(types.offset("outer", &["a"]).expect("a"), 0);
        assert_eq!(types.offset("outer", &["b"]).expect("b"), 4);
        assert_eq!(types.offset("outer", &["in", "c"]).expect("c"), 12);
        types.offset("outer", &["c"]).expect_err("it is another's");
        types.offset("other", &["a"]).expect_err("there is none");
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        let whole = sample();
        for length in 0..whole.len() - 40 {
            let part = whole.get(..length).unwrap_or_default().to_vec();
            assert!(
                Types::parse(part).and_then(|types| types.offset("outer", &["in", "c"])).is_err(),
                "{length}"
            );
        }
    }
}
