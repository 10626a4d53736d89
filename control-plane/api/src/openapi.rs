//! The OpenAPI documents, and the descriptions that they (and printed columns) carry.

use std::{
    collections::HashMap,
    io::Read as _,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use crate::schema;

static COMPRESSED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/prose.z"));

/// The descriptions, decompressed. Kept only as long as somebody uses them.
#[derive(Default)]
pub struct Prose {
    text: String,
    /// Where each line starts.
    starts: Vec<usize>,
    /// Type -> number of its first line.
    types: HashMap<&'static str, (usize, &'static str)>,
}

static CURRENT: Mutex<Weak<Prose>> = Mutex::new(Weak::new());

/// The descriptions of all built-in types.
pub fn prose() -> Arc<Prose> {
    let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(prose) = current.upgrade() {
        return prose;
    }
    let prose = Arc::new(Prose::load());
    *current = Arc::downgrade(&prose);
    prose
}

impl Prose {
    fn load() -> Self {
        let mut text = String::new();
        // The table is part of the program: it always decompresses.
        if flate2::read::ZlibDecoder::new(COMPRESSED).read_to_string(&mut text).is_err() {
            return Prose::default();
        }
        let mut starts = vec![0];
        starts.extend(text.match_indices('\n').map(|(i, _)| i + 1));
        let types = schema::lines().map(|(name, line, fields)| (name, (line, fields))).collect();
        Prose { text, starts, types }
    }

    fn line(&self, number: usize) -> Option<String> {
        let (start, end) = (*self.starts.get(number)?, *self.starts.get(number + 1)?);
        let line = self.text.get(start..end.checked_sub(1)?)?;
        (!line.is_empty()).then(|| line.replace('\u{1}', "\n"))
    }

    /// The words of a type.
    pub fn of_type(&self, name: &str) -> Option<String> {
        self.line(self.types.get(name)?.0)
    }

    /// The words of a type's field.
    pub fn field(&self, name: &str, field: &str) -> Option<String> {
        let (line, fields) = self.types.get(name)?;
        let index = fields.lines().position(|l| l.split('\t').next() == Some(field))?;
        self.line(line + 1 + index)
    }
}

/// The v2 document as protobuf.
pub mod binary;
mod document;
mod paths;
mod types;

pub use document::{index, v2, v3};
