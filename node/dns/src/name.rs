//! Names and labels in wire form, lower case: the form in which questions come and the index is kept.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most octets of a name, its length octets and the root included (RFC 1035, 3.1).
pub const MAX_NAME: usize = 255;
/// Most octets of a label (RFC 1035, 3.1).
pub const MAX_LABEL: usize = 63;
/// Most labels of a name: each takes at least two octets.
const MAX_LABELS: usize = 127;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A label is empty or longer than 63 octets.
    #[error("{0:?} is no label: labels have 1 to 63 octets")]
    Label(String),
    /// The whole is longer than 255 octets.
    #[error("{0:?} is longer than 255 octets")]
    Long(String),
}

/// One label with its length octet, lower case: `\x03web`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Box<[u8]>);

impl Label {
    /// # Errors
    /// [`NameError::Label`] when the text is empty or too long.
    pub fn new(text: &str) -> Result<Label, NameError> {
        let length = u8::try_from(text.len()).ok().filter(|n| (1..=MAX_LABEL).contains(&usize::from(*n)));
        let Some(length) = length else { return Err(NameError::Label(text.to_owned())) };
        let mut wire = Vec::with_capacity(text.len() + 1);
        wire.push(length);
        wire.extend(text.bytes().map(|byte| byte.to_ascii_lowercase()));
        Ok(Label(wire.into()))
    }

    /// The label an endpoint without a hostname is found by: its address with dashes.
    #[must_use]
    pub fn of_address(address: IpAddr) -> Label {
        let text = match address {
            IpAddr::V4(v4) => v4.to_string().replace('.', "-"),
            IpAddr::V6(v6) => v6.to_string().replace(':', "-"),
        };
        let mut wire = Vec::with_capacity(text.len() + 1);
        // At most 45 octets, for an IPv6 address that carries an IPv4 one.
        wire.push(text.len().min(MAX_LABEL) as u8);
        wire.extend(text.bytes().take(MAX_LABEL));
        Label(wire.into())
    }

    /// Length octet and text.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.0.get(1..).unwrap_or_default()))
    }
}

/// A whole name, lower case, with the octet of the root at its end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Reads `a.b.c` or `a.b.c.`; the empty text and `.` are the root.
    ///
    /// # Errors
    /// [`NameError`] says which part is wrong.
    pub fn parse(text: &str) -> Result<Name, NameError> {
        let mut wire = Vec::with_capacity(text.len() + 2);
        let bare = text.strip_suffix('.').unwrap_or(text);
        if !bare.is_empty() {
            for label in bare.split('.') {
                wire.extend_from_slice(Label::new(label)?.wire());
            }
        }
        wire.push(0);
        if wire.len() > MAX_NAME {
            return Err(NameError::Long(text.to_owned()));
        }
        Ok(Name(wire.into()))
    }

    /// Labels and the root's octet.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest: &[u8] = &self.0;
        while let Some((length, after)) = rest.split_first().filter(|(length, _)| **length > 0) {
            let (label, next) = after.split_at(usize::from(*length).min(after.len()));
            write!(f, "{}.", String::from_utf8_lossy(label))?;
            rest = next;
        }
        if self.0.len() <= 1 { f.write_str(".") } else { Ok(()) }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name of a question, lower-cased in place on the stack, with where its labels start.
#[derive(Clone)]
pub struct Asked {
    bytes: [u8; MAX_NAME],
    length: u8,
    starts: [u8; MAX_LABELS],
    labels: u8,
}

impl Asked {
    /// Reads an uncompressed name at the start of `bytes`; None when there is none, or when it is compressed, as a
    /// name in a question has nothing to point at.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Asked> {
        let mut asked = Asked { bytes: [0; MAX_NAME], length: 0, starts: [0; MAX_LABELS], labels: 0 };
        let mut at = 0_usize;
        loop {
            let length = usize::from(*bytes.get(at)?);
            let end = at + 1 + length;
            if length > MAX_LABEL || end > MAX_NAME {
                return None;
            }
            *asked.bytes.get_mut(at)? = length as u8;
            if length == 0 {
                asked.length = u8::try_from(end).ok()?;
                return Some(asked);
            }
            let label = bytes.get(at + 1..end)?;
            for (to, from) in asked.bytes.get_mut(at + 1..end)?.iter_mut().zip(label) {
                *to = from.to_ascii_lowercase();
            }
            *asked.starts.get_mut(usize::from(asked.labels))? = at as u8;
            asked.labels += 1;
            at = end;
        }
    }

    /// The name with the root's octet, lower case.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// How many labels it has, the root not counted.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::from(self.labels)
    }

    /// Octet at which the label with this number starts; the root's octet for the number after the last.
    #[must_use]
    pub fn start(&self, label: usize) -> usize {
        if label >= self.count() {
            return usize::from(self.length).saturating_sub(1);
        }
        self.starts.get(label).copied().map_or(0, usize::from)
    }

    /// Labels `from..to` with their length octets.
    #[must_use]
    pub fn labels(&self, from: usize, to: usize) -> &[u8] {
        self.bytes.get(self.start(from)..self.start(to)).unwrap_or_default()
    }

    /// How many labels stand before `suffix`; None when the name does not end in it.
    #[must_use]
    pub fn before(&self, suffix: &Name) -> Option<usize> {
        let at = self.wire().len().checked_sub(suffix.wire().len())?;
        if self.wire().get(at..) != Some(suffix.wire()) {
            return None;
        }
        // The suffix must start at a label, not within one.
        (0..=self.count()).find(|label| self.start(*label) == at)
    }
}

/// The address that a name below in-addr.arpa or ip6.arpa stands for; None for any other name.
#[must_use]
pub fn reverse(asked: &Asked) -> Option<IpAddr> {
    const V4: &[u8] = b"\x07in-addr\x04arpa\x00";
    const V6: &[u8] = b"\x03ip6\x04arpa\x00";
    let wire = asked.wire();
    if asked.count() == 6 && wire.ends_with(V4) {
        let mut octets = [0; 4];
        for (i, octet) in octets.iter_mut().enumerate() {
            let label = asked.labels(3 - i, 4 - i).get(1..)?;
            // Numbers as they are written: no sign, no zero before them.
            let plain =
                label.iter().all(u8::is_ascii_digit) && (label.len() == 1 || label.first() != Some(&b'0'));
            if !plain || label.len() > 3 {
                return None;
            }
            *octet = std::str::from_utf8(label).ok()?.parse().ok()?;
        }
        return Some(Ipv4Addr::from(octets).into());
    }
    if asked.count() == 34 && wire.ends_with(V6) {
        let mut bits = 0_u128;
        for label in (0..32).rev() {
            let &[1, digit] = asked.labels(label, label + 1) else { return None };
            bits = bits << 4 | u128::from(char::from(digit).to_digit(16)?);
        }
        return Some(Ipv6Addr::from(bits).into());
    }
    None
}

/// The address that a pod's label stands for: `10-244-0-7`, `fd00--7`.
#[must_use]
pub fn pod_address(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label.get(1..)?).ok()?;
    if let Ok(v4) = text.replace('-', ".").parse::<Ipv4Addr>() {
        return Some(v4.into());
    }
    text.contains('-').then(|| text.replace('-', ":").parse::<Ipv6Addr>().ok()).flatten().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Asked {
        let mut wire = Vec::new();
        for label in text.split('.').filter(|label| !label.is_empty()) {
            wire.push(label.len() as u8);
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        Asked::read(&wire).unwrap_or_else(|| panic!("{text} is a name"))
    }

    #[test]
    fn names_are_read_and_shown() {
        for (text, shown) in [("", "."), (".", "."), ("A.b", "a.b."), ("cluster.local.", "cluster.local.")] {
            assert_eq!(Name::parse(text).expect(text).to_string(), shown);
        }
        let long = "a".repeat(64);
        assert_eq!(Name::parse(&long), Err(NameError::Label(long.clone())));
        assert!(matches!(Name::parse("a..b"), Err(NameError::Label(_))));
        // 127 labels of one octet and the root are 255 octets; one more label is too many.
        assert!(Name::parse(&["a"; 127].join(".")).is_ok());
        assert!(matches!(Name::parse(&["a"; 128].join(".")), Err(NameError::Long(_))));
    }

    #[test]
    fn questions_are_read_up_to_255_octets_and_never_beyond_their_end() {
        let longest = Name::parse(&["a"; 127].join(".")).expect("255 octets");
        assert_eq!(Asked::read(longest.wire()).map(|a| (a.count(), a.wire().len())), Some((127, 255)));
        for length in 0..longest.wire().len() {
            assert!(Asked::read(&longest.wire()[..length]).is_none(), "{length}");
        }
        let mut long = vec![1, b'a'];
        long.extend_from_slice(longest.wire());
        assert!(Asked::read(&long).is_none(), "257 octets");
        let mut label = vec![63];
        label.extend([b'x'; 63]);
        label.push(0);
        assert_eq!(Asked::read(&label).map(|a| a.count()), Some(1));
        label[0] = 64;
        assert!(Asked::read(&label).is_none(), "labels of 64 octets are reserved");
        assert!(Asked::read(&[0xc0, 0]).is_none(), "a pointer");
        assert_eq!(Asked::read(&[0, 9, 9]).map(|a| a.wire().len()), Some(1), "the root");
    }

    #[test]
    fn suffixes_end_at_labels() {
        let domain = Name::parse("cluster.local").expect("a name");
        for (name, before) in [
            ("cluster.local", Some(0)),
            ("Web.Demo.svc.CLUSTER.local", Some(3)),
            ("xcluster.local", None),
            ("local", None),
            ("", None),
        ] {
            assert_eq!(asked(name).before(&domain), before, "{name}");
        }
        assert_eq!(asked("a.b").before(&Name::parse("").expect("the root")), Some(2));
    }

    #[test]
    fn addresses_of_names() {
        for (name, address) in [
            ("1.0.96.10.in-addr.arpa", Some("10.96.0.1")),
            ("01.0.96.10.in-addr.arpa", None),
            ("256.0.96.10.in-addr.arpa", None),
            ("+1.0.96.10.in-addr.arpa", None),
            ("0.96.10.in-addr.arpa", None),
            ("x.1.0.96.10.in-addr.arpa", None),
            ("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", Some("fd00::1")),
            ("g.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", None),
        ] {
            assert_eq!(reverse(&asked(name)), address.map(|a| a.parse().expect(a)), "{name}");
        }
        for (label, address) in [
            ("10-244-0-7", Some("10.244.0.7")),
            ("fd00--7", Some("fd00::7")),
            ("10-244-0-256", None),
            ("10-244-0", None),
            ("web", None),
            ("web-0", None),
        ] {
            let wire = Label::new(label).expect(label);
            assert_eq!(pod_address(wire.wire()), address.map(|a| a.parse().expect(a)), "{label}");
        }
        for (address, label) in [("10.0.0.1", "10-0-0-1"), ("fd00::1", "fd00--1")] {
            assert_eq!(format!("{:?}", Label::of_address(address.parse().expect(address))), label);
        }
    }
}
