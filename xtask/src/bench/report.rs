//! The table: what was aimed at, what came out, what upstream needs, and what bounds the figures that miss.

use std::time::Duration;

use crate::bench::load::Seen;
use crate::bench::plane::Used;

/// Which side of an aim is good.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Aim {
    AtMost(f64),
    AtLeast(f64),
    /// Shown for what it says about other figures.
    None,
}

/// A figure that is measured with every store. Upstream's values are kube-apiserver 1.36 with etcd, measured on a
/// quiet machine of two cores with its client on the same cores.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Figure {
    pub name: &'static str,
    pub unit: &'static str,
    pub aim: Aim,
    pub upstream: &'static str,
}

/// A row.
pub const fn figure(name: &'static str, unit: &'static str, aim: Aim, upstream: &'static str) -> Figure {
    Figure { name, unit, aim, upstream }
}

use Aim::{AtLeast, AtMost};

pub const CREATE_CPU: Figure = figure("ConfigMap create, CPU per 10,000", "s", AtMost(1.5), "12.3");
pub const CREATE: Figure = figure("ConfigMap create", "/s", AtLeast(8000.0), "1301");
pub const GET_CPU: Figure = figure("ConfigMap get, CPU per 10,000", "s", Aim::None, "7.2");
pub const GET: Figure = figure("ConfigMap get", "/s", AtLeast(20_000.0), "2218");
pub const PATCH_CPU: Figure = figure("ConfigMap merge patch, CPU per 10,000", "s", Aim::None, "");
pub const PATCH: Figure = figure("ConfigMap merge patch", "/s", AtLeast(8000.0), "1013");
pub const POD_CPU: Figure = figure("Pod create, CPU per 10,000", "s", AtMost(2.5), "20.2");
pub const POD: Figure = figure("Pod create", "/s", Aim::None, "770");
pub const POD_SETTLED: Figure = figure("  with the scheduler's writes, CPU per 10,000", "s", Aim::None, "");
pub const LIST_MAPS: Figure = figure("LIST of 10,000 ConfigMaps", "ms", AtMost(25.0), "104");
pub const LIST_PODS: Figure = figure("LIST of 10,000 Pods", "ms", AtMost(60.0), "321");
pub const WATCH: Figure = figure("watch events to 100 watchers", "/s", AtLeast(300_000.0), "24000");
pub const IDLE: Figure = figure("RSS idle", "MiB", AtMost(60.0), "522");
pub const FILLED: Figure = figure("RSS with 20,000 ConfigMaps, 10,000 Pods", "MiB", AtMost(200.0), "1432");
pub const FIRST: Figure = figure("exec to ready, first start (makes keys)", "s", Aim::None, "");
pub const READY: Figure = figure("exec to ready", "s", AtMost(0.3), "2.6 to 3.2");
pub const READY_FULL: Figure = figure("exec to ready, 100,000 objects stored", "s", AtMost(3.0), "");

/// The rows of the API server's table.
pub const API: &[Figure] = &[
    CREATE_CPU,
    CREATE,
    GET_CPU,
    GET,
    PATCH_CPU,
    PATCH,
    POD_CPU,
    POD,
    POD_SETTLED,
    LIST_MAPS,
    LIST_PODS,
    WATCH,
    IDLE,
    FILLED,
    FIRST,
    READY,
    READY_FULL,
];

impl Aim {
    fn holds(self, value: f64) -> bool {
        match self {
            AtMost(most) => value <= most,
            AtLeast(least) => value >= least,
            Aim::None => true,
        }
    }

    fn shown(self) -> String {
        match self {
            AtMost(most) => format!("<= {}", number(most)),
            AtLeast(least) => format!(">= {}", number(least)),
            Aim::None => String::new(),
        }
    }
}

/// What one run gave.
pub struct Column {
    pub head: String,
    values: Vec<(Figure, f64, String)>,
}

impl Column {
    pub fn new(head: String) -> Column {
        Column { head, values: Vec::new() }
    }

    /// Takes in a value, and what it is made of.
    pub fn add(&mut self, figure: Figure, value: f64, made_of: String) {
        self.values.push((figure, value, made_of));
    }

    fn of(&self, figure: Figure) -> Option<&(Figure, f64, String)> {
        self.values.iter().find(|(of, ..)| *of == figure)
    }
}

/// Prints everything to standard output; the last column is somebody else's.
pub fn print(rows: &[Figure], columns: &[Column], other: &str) {
    let heads: String = columns.iter().map(|column| format!("{:>14}", column.head)).collect();
    println!("{:<58}{:>10}{heads}{other:>19}  unit", "figure", "aim");
    for figure in rows {
        let mut line = format!("{:<58}{:>10}", figure.name, figure.aim.shown());
        for column in columns {
            let shown = match column.of(*figure) {
                None => "-".to_owned(),
                Some((_, value, _)) if figure.aim.holds(*value) => number(*value),
                Some((_, value, _)) => format!("{} *", number(*value)),
            };
            line.push_str(&format!("{shown:>14}"));
        }
        println!("{line}{:>19}  {}", figure.upstream, figure.unit);
    }
    println!();
    for column in columns {
        println!("{}: what the figures are made of (* misses its aim)", column.head);
        for (figure, value, made_of) in column.values.iter().filter(|(.., made_of)| !made_of.is_empty()) {
            let mark = if figure.aim.holds(*value) { ' ' } else { '*' };
            println!("{mark} {}: {made_of}", figure.name.trim());
        }
        println!();
    }
}

/// Three significant digits are what such measurements hold.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

pub fn millis(time: Duration) -> String {
    format!("{} ms", number(time.as_secs_f64() * 1000.0))
}

/// Latencies, and who used which CPU time.
pub fn shares(seen: &Seen, used: &Used) -> String {
    format!(
        "p50 {}, p99 {}; {}",
        millis(seen.quantile(0.5)),
        millis(seen.quantile(0.99)),
        spent(seen.elapsed, used)
    )
}

/// Who used which CPU time in how long.
pub fn spent(elapsed: Duration, used: &Used) -> String {
    let mut text = format!(
        "in {:.2} s server {:.2} user + {:.2} sys",
        elapsed.as_secs_f64(),
        used.server.user,
        used.server.system
    );
    if used.etcd.total() > 0.0 {
        text.push_str(&format!(", etcd {:.2}", used.etcd.total()));
    }
    text.push_str(&format!(
        ", client {:.2} CPU s; other programs took {:.0} % of the machine",
        used.client.total(),
        used.others * 100.0
    ));
    text
}
