//! Mutations that know the schema: fields that the type has, values that mean something to validation.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fairlead_api::{
    decode, kinds,
    schema::{self, Schema, Shape},
};
use libfuzzer_sys::fuzzer_mutate;
use serde_json::{Map, Value, json};

use crate::{
    BETWEEN, kind_of, parts,
    words::{KEYS, NUMBERS, WORDS},
};

/// Splitmix64: all that is asked of it is to be quick and the same every time.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u32) -> Self {
        Random(u64::from(seed))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// Puts `new` into the fuzzer's buffer; one that does not fit leaves it as it is.
fn put(data: &mut [u8], size: usize, max: usize, new: Option<Vec<u8>>) -> usize {
    match new {
        Some(new) if !new.is_empty() && new.len() <= max => {
            data[..new.len()].copy_from_slice(&new);
            new.len()
        }
        _ => fuzzer_mutate(data, size, max),
    }
}

fn read(bytes: &[u8]) -> Option<Value> {
    let decoded = decode::json(bytes).or_else(|_| decode::protobuf(bytes)).or_else(|_| decode::yaml(bytes));
    decoded.ok().map(|decoded| decoded.value).filter(Value::is_object)
}

/// Mutates a body of one object, written in the form of the target. One in three times it is the bytes that change.
pub fn body(
    data: &mut [u8],
    size: usize,
    max: usize,
    seed: u32,
    write: impl Fn(&Value) -> Option<Vec<u8>>,
) -> usize {
    let mut random = Random::new(seed);
    if random.one_in(3) {
        return fuzzer_mutate(data, size, max);
    }
    let mut object = read(&data[..size]).unwrap_or_else(|| fresh(&mut random));
    change(&mut object, &mut random);
    put(data, size, max, write(&object))
}

/// Mutates an object or the patch over it.
pub fn patch(data: &mut [u8], size: usize, max: usize, seed: u32) -> usize {
    let mut random = Random::new(seed);
    if random.one_in(3) {
        return fuzzer_mutate(data, size, max);
    }
    let all: Vec<&[u8]> = parts(&data[..size]).collect();
    let mut object = all.first().and_then(|part| read(part)).unwrap_or_else(|| fresh(&mut random));
    let mut patch = all.get(1).and_then(|part| decode::json(part).ok()).map_or(json!({}), |d| d.value);
    if random.one_in(3) {
        change(&mut object, &mut random);
    }
    if let (Value::Array(list), true) = (&mut patch, !random.one_in(8)) {
        operation(&object, list, &mut random);
    } else if random.one_in(6) {
        let mut list = Vec::new();
        operation(&object, &mut list, &mut random);
        patch = Value::Array(list);
    } else {
        let schema = schema::of(kind_of(&object, &[]).schema);
        for _ in 0..=random.below(3) {
            walk(&mut patch, schema, &mut random);
        }
        if random.one_in(4) {
            // Elements that the object has, under the directives that need them.
            graft(&mut patch, &object, &mut random);
        }
    }
    let new = [object.to_string().as_bytes(), BETWEEN, patch.to_string().as_bytes()].concat();
    put(data, size, max, Some(new))
}

/// Mutates one of the writes of a sequence, or adds one.
pub fn writes(data: &mut [u8], size: usize, max: usize, seed: u32) -> usize {
    let mut random = Random::new(seed);
    if random.one_in(4) {
        return fuzzer_mutate(data, size, max);
    }
    let mut all: Vec<(u8, Value)> = parts(&data[..size])
        .filter_map(|part| {
            part.split_first().map(|(who, body)| (*who, read(body).unwrap_or_else(|| fresh(&mut random))))
        })
        .collect();
    let i = random.below(all.len());
    if all.is_empty() || random.one_in(4) {
        let (_, object) = all.get(i).cloned().unwrap_or_else(|| (b'a', fresh(&mut random)));
        all.push((random.of(b"aabbABcuvw"), object));
    }
    if let Some((_, object)) = all.get_mut(i) {
        if random.one_in(3) { drop_some(object, &mut random) } else { change(object, &mut random) }
    }
    let new: Vec<Vec<u8>> = all
        .iter()
        .map(|(who, object)| [std::slice::from_ref(who), object.to_string().as_bytes()].concat())
        .collect();
    put(data, size, max, Some(new.join(BETWEEN)))
}

/// An object of some kind with little in it.
fn fresh(random: &mut Random) -> Value {
    let kind = random.of(kinds::REGISTRY);
    json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": "a"}})
}

fn change(object: &mut Value, random: &mut Random) {
    if random.one_in(40) {
        let kind = random.of(kinds::REGISTRY);
        object["apiVersion"] = kind.api_version().into();
        object["kind"] = kind.kind.into();
    }
    let schema = schema::of(kind_of(object, &[]).schema);
    for _ in 0..=random.below(4) {
        walk(object, schema, random);
    }
}

/// Removes a member or an element somewhere.
fn drop_some(node: &mut Value, random: &mut Random) {
    match node {
        Value::Object(map) if !map.is_empty() => {
            let key = map.keys().nth(random.below(map.len())).cloned().unwrap_or_default();
            if random.one_in(3) && !["apiVersion", "kind", "metadata"].contains(&key.as_str()) {
                map.remove(&key);
            } else if let Some(value) = map.get_mut(&key) {
                drop_some(value, random);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            let i = random.below(list.len());
            if random.one_in(2) {
                list.remove(i);
            } else {
                drop_some(&mut list[i], random);
            }
        }
        _ => {}
    }
}

/// Goes down to some node and changes it.
fn walk(node: &mut Value, schema: Option<&Schema>, random: &mut Random) {
    let stop = random.one_in(4);
    match node {
        Value::Object(map) if !stop && !map.is_empty() => {
            let key = map.keys().nth(random.below(map.len())).cloned().unwrap_or_default();
            let below = schema.and_then(|schema| schema.property(&key));
            if let Some(value) = map.get_mut(&key) {
                walk(value, below, random);
            }
        }
        Value::Array(list) if !stop && !list.is_empty() => {
            let i = random.below(list.len());
            walk(&mut list[i], schema.and_then(Schema::items), random);
        }
        _ => act(node, schema, random),
    }
}

fn act(node: &mut Value, schema: Option<&Schema>, random: &mut Random) {
    if random.one_in(24) {
        *node = anything(random);
        return;
    }
    match node {
        Value::Object(map) => match schema.map(|schema| &schema.resolve().shape) {
            Some(Shape::Object(properties)) if !properties.is_empty() && !random.one_in(16) => {
                let property = &properties[random.below(properties.len())];
                if random.one_in(6) {
                    map.remove(property.name.as_ref());
                } else {
                    map.insert(property.name.to_string(), value(&property.schema, 3, random));
                }
            }
            Some(Shape::Map(values)) => {
                map.insert(random.of(WORDS).into(), value(values, 3, random));
            }
            _ => {
                map.insert(random.of(KEYS).into(), anything(random));
            }
        },
        Value::Array(list) => {
            let i = random.below(list.len());
            match random.below(5) {
                0 if !list.is_empty() => drop(list.remove(i)),
                1 if !list.is_empty() => list.push(list[i].clone()),
                2 if list.len() > 1 => list.swap(0, i),
                _ => list.push(
                    schema
                        .and_then(Schema::items)
                        .map_or_else(|| Value::Null, |items| value(items, 3, random)),
                ),
            }
        }
        _ => {
            *node = match schema {
                Some(schema) => value(schema, 3, random),
                None => anything(random),
            }
        }
    }
}

/// A value of the node's shape, `depth` levels deep.
fn value(schema: &Schema, depth: usize, random: &mut Random) -> Value {
    match &schema.resolve().shape {
        Shape::Object(_) | Shape::Array(_) | Shape::Map(_) if depth == 0 => match &schema.resolve().shape {
            Shape::Array(_) => json!([]),
            _ => json!({}),
        },
        Shape::Object(properties) => {
            let mut map = Map::new();
            for property in properties {
                if (property.required && !random.one_in(8)) || random.one_in(properties.len().max(3)) {
                    map.insert(property.name.to_string(), value(&property.schema, depth - 1, random));
                }
            }
            Value::Object(map)
        }
        Shape::Map(values) => (0..random.below(3))
            .map(|_| (random.of(WORDS).to_owned(), value(values, depth - 1, random)))
            .collect(),
        Shape::Array(items) => (0..random.below(4)).map(|_| value(items, depth - 1, random)).collect(),
        Shape::Bytes => STANDARD.encode(random.of(WORDS)).into(),
        Shape::Int32 | Shape::Int64 => random.of(NUMBERS).into(),
        Shape::Number => json!(random.of(&[0.0, 1.5, -1.0, 1e300, 5e-324, 0.1])),
        Shape::Boolean => random.one_in(2).into(),
        Shape::IntOrString if random.one_in(2) => random.of(NUMBERS).into(),
        Shape::Opaque | Shape::Any(_) | Shape::Ref(_) => anything(random),
        _ => random.of(WORDS).into(),
    }
}

fn anything(random: &mut Random) -> Value {
    match random.below(9) {
        0 => Value::Null,
        1 => random.one_in(2).into(),
        2 => random.of(NUMBERS).into(),
        3 => json!(random.of(&[0.5, -0.0, 1e21, 1e-7, 1e300, 123456789.123])),
        4 => u64::MAX.into(),
        5 => json!({random.of(KEYS): random.of(WORDS)}),
        6 => json!([random.of(WORDS)]),
        _ => random.of(WORDS).into(),
    }
}

/// Some path of the object, as a JSON pointer.
fn pointer(node: &Value, random: &mut Random) -> String {
    let step = match node {
        Value::Object(map) if !map.is_empty() => {
            map.iter().nth(random.below(map.len())).map(|(k, v)| (k.clone(), v))
        }
        Value::Array(list) if !list.is_empty() => {
            let i = random.below(list.len());
            Some((random.of(&[i.to_string().as_str(), "-", "-1", "99"]).to_owned(), &list[i]))
        }
        _ => None,
    };
    match step {
        Some((key, below)) if !random.one_in(5) => {
            format!("/{}{}", key.replace('~', "~0").replace('/', "~1"), pointer(below, random))
        }
        _ if random.one_in(4) => format!("/{}", random.of(KEYS)),
        _ => String::new(),
    }
}

/// Adds an operation of a JSON patch.
fn operation(object: &Value, list: &mut Vec<Value>, random: &mut Random) {
    let path = pointer(object, random);
    let from = pointer(object, random);
    let value = object.pointer(&pointer(object, random)).cloned().unwrap_or_else(|| anything(random));
    let op = random.of(&["add", "remove", "replace", "move", "copy", "test", ""]);
    let at = random.below(list.len() + 1);
    list.insert(at, json!({"op": op, "path": path, "from": from, "value": value}));
    if list.len() > 40 {
        list.truncate(20);
    }
}

/// Copies a part of the object to the same place in the patch.
fn graft(patch: &mut Value, object: &Value, random: &mut Random) {
    let (Value::Object(into), Value::Object(from)) = (&mut *patch, object) else { return };
    let Some((key, below)) = from.iter().nth(random.below(from.len())) else { return };
    match below {
        Value::Object(_) if !random.one_in(4) => {
            graft(into.entry(key.clone()).or_insert_with(|| json!({})), below, random);
        }
        Value::Array(list) => {
            let mut list = list.clone();
            if !list.is_empty() && random.one_in(2) {
                let i = random.below(list.len());
                if let Some(fields) = list[i].as_object_mut() {
                    fields.insert("$patch".into(), random.of(&["delete", "replace", "merge", "x"]).into());
                }
            }
            let name = match random.below(4) {
                0 => format!("$setElementOrder/{key}"),
                1 => format!("$deleteFromPrimitiveList/{key}"),
                _ => key.clone(),
            };
            into.insert(name, Value::Array(list));
        }
        _ => {
            into.insert(key.clone(), below.clone());
        }
    }
}
