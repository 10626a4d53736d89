//! The API server under load, store by store: one control plane each, started, filled, asked and started again.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::bench::client::{Connection, get};
use crate::bench::load::{self, Seen, connect, drive};
use crate::bench::plane::{Folder, Plane, Used};
use crate::bench::report::{self, Column, Figure, millis, number, shares, spent};
use crate::bench::{machine, objects};
use crate::cluster::Backend;
use crate::host;
use crate::steps::Steps;

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Stores {
    Embedded,
    Etcd,
    Both,
}

#[derive(clap::Args)]
pub struct Args {
    /// Which store to measure with.
    #[arg(long, value_enum, default_value = "both")]
    store: Stores,
    /// Fewer requests (a fifth), and no start with 100,000 objects: under a minute, less exact.
    #[arg(long)]
    quick: bool,
    /// The API server by itself, without controllers and scheduler.
    #[arg(long)]
    alone: bool,
    /// Measure this fairlead-server instead of building one.
    #[arg(long, value_name = "PROGRAM")]
    server: Option<PathBuf>,
}

/// Connections of the load.
const CONNECTIONS: usize = 32;
const WATCHERS: usize = 100;
/// Starts that are timed.
const STARTS: usize = 5;

/// How much is asked.
struct Scale {
    /// Objects of a kind, and writes of a sort.
    objects: usize,
    gets: usize,
    /// Writes that watchers see.
    events: usize,
    lists: usize,
    /// Objects stored for the last start; 0 leaves it out.
    stored: usize,
}

const FULL: Scale = Scale { objects: 10_000, gets: 40_000, events: 5000, lists: 15, stored: 100_000 };
const QUICK: Scale = Scale { objects: 2000, gets: 8000, events: 1500, lists: 7, stored: 0 };

pub fn run(steps: &Steps, workspace: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    let program = match &args.server {
        Some(program) => program.clone(),
        None => host::build_binaries(workspace)?.join("fairlead-server"),
    };
    let scale = if args.quick { &QUICK } else { &FULL };
    let stores = match args.store {
        Stores::Embedded => &[Backend::Embedded][..],
        Stores::Etcd => &[Backend::Etcd],
        Stores::Both => &[Backend::Embedded, Backend::Etcd],
    };
    let folder = Folder::new(&host::binaries(workspace)?)?;
    println!("{}", machine::describe());
    println!(
        "a durable write of 4 KiB takes {} on this disk (median)",
        millis(machine::fsync(folder.path())?)
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let begun = Instant::now();
    let mut columns = Vec::new();
    for store in stores {
        let mut run = Run::new(&program, folder.path(), *store, scale, args.alone)?;
        for (name, stage) in STAGES {
            steps.run(&format!("{}: {name}", run.column.head), || stage(&mut run, &runtime))?;
        }
        columns.push(run.column);
    }
    println!();
    report::print(report::API, &columns, "upstream");
    println!(
        "measured in {:.0} s{}",
        begun.elapsed().as_secs_f64(),
        if args.quick { " (--quick)" } else { "" }
    );
    Ok(ExitCode::SUCCESS)
}

/// One store's measurement.
struct Run<'a> {
    plane: Plane,
    connections: Vec<Connection>,
    scale: &'a Scale,
    column: Column,
    /// ConfigMaps made so far.
    made: usize,
}

type Stage = fn(&mut Run<'_>, &tokio::runtime::Runtime) -> anyhow::Result<()>;

/// What is done, in this order: each stage needs what those before it stored.
const STAGES: &[(&str, Stage)] = &[
    ("starting", |run, runtime| runtime.block_on(run.starts())),
    ("creating, reading and patching ConfigMaps", |run, runtime| runtime.block_on(run.config_maps())),
    ("watching", |run, runtime| runtime.block_on(run.watch())),
    ("creating Pods", |run, runtime| runtime.block_on(run.pods())),
    ("filling", |run, runtime| runtime.block_on(run.fill())),
    ("starting with everything stored", |run, runtime| runtime.block_on(run.start_full())),
];

impl<'a> Run<'a> {
    fn new(
        program: &Path,
        folder: &Path,
        store: Backend,
        scale: &'a Scale,
        alone: bool,
    ) -> anyhow::Result<Run<'a>> {
        let plane = Plane::new(program, folder, store, alone)?;
        let column = Column::new(format!("{store:?}").to_lowercase());
        Ok(Run { plane, connections: Vec::new(), scale, column, made: 0 })
    }

    /// Starts from nothing and starts again; then the memory of a control plane that has nothing to do.
    async fn starts(&mut self) -> anyhow::Result<()> {
        let first = self.plane.start().await?;
        self.column.add(report::FIRST, first.as_secs_f64(), String::new());
        let mut times = Vec::new();
        for _ in 0..STARTS {
            self.plane.stop()?;
            times.push(self.plane.start().await?);
        }
        times.sort();
        let spread = format!("{} to {}", millis(times[0]), millis(times[STARTS - 1]));
        self.column.add(report::READY, times[STARTS / 2].as_secs_f64(), spread);
        // The controllers list everything and come to rest.
        tokio::time::sleep(Duration::from_secs(3)).await;
        self.resident(report::IDLE)?;
        self.connect().await?;
        self.ask(vec![objects::create_namespace()], 201).await?;
        self.service_account().await
    }

    async fn connect(&mut self) -> anyhow::Result<()> {
        self.connections = connect(&self.plane.target()?, CONNECTIONS).await?;
        Ok(())
    }

    /// Pods need the account that a controller makes, if there is one.
    async fn service_account(&mut self) -> anyhow::Result<()> {
        if self.plane.alone {
            return self.ask(vec![objects::create_account()], 201).await.map(drop);
        }
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/default", objects::NAMESPACE);
        let end = Instant::now() + Duration::from_secs(20);
        let connection = self.connections.first_mut().context("no connection")?;
        while let Err(error) = connection.ask(&get(&path), 200).await {
            if Instant::now() > end {
                return Err(error.context("waiting for the default service account"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn resident(&mut self, figure: Figure) -> anyhow::Result<()> {
        let (server, etcd) = self.plane.resident()?;
        let parts = if etcd > 0.0 { format!("server {server:.0}, etcd {etcd:.0}") } else { String::new() };
        self.column.add(figure, server + etcd, parts);
        Ok(())
    }

    async fn ask(&mut self, requests: Vec<Vec<u8>>, expected: u16) -> anyhow::Result<(Seen, Used)> {
        let start = self.plane.read()?;
        let seen = drive(&mut self.connections, requests, expected).await?;
        Ok((seen, self.plane.used(&start)?))
    }

    /// One load: its rate, and the CPU time of 10,000 such requests.
    async fn load(
        &mut self,
        figures: (Figure, Figure),
        requests: Vec<Vec<u8>>,
        expected: u16,
    ) -> anyhow::Result<()> {
        let count = requests.len() as f64;
        let (seen, used) = self.ask(requests, expected).await?;
        let (cpu, rate) = figures;
        self.column.add(cpu, used.plane() * 10_000.0 / count, String::new());
        self.column.add(rate, seen.rate(), shares(&seen, &used));
        Ok(())
    }

    fn create_maps(&mut self, count: usize) -> Vec<Vec<u8>> {
        let from = self.made;
        self.made += count;
        (from..self.made).map(|n| objects::create_config_map(&format!("map-{n:06}"))).collect()
    }

    async fn config_maps(&mut self) -> anyhow::Result<()> {
        let (objects, gets) = (self.scale.objects, self.scale.gets);
        // Steps that share no factor with the number of objects spread the load over all of them.
        let name = |n: usize| format!("map-{:06}", n * 7919 % objects);
        let create = self.create_maps(objects);
        self.load((report::CREATE_CPU, report::CREATE), create, 201).await?;
        self.list(report::LIST_MAPS, &objects::config_maps()).await?;
        let read = (0..gets).map(|n| get(&format!("{}/{}", objects::config_maps(), name(n)))).collect();
        self.load((report::GET_CPU, report::GET), read, 200).await?;
        let patch = (0..objects).map(|n| objects::patch_config_map(&name(n), n)).collect();
        self.load((report::PATCH_CPU, report::PATCH), patch, 200).await
    }

    /// Unpaged lists, one after the other.
    async fn list(&mut self, figure: Figure, path: &str) -> anyhow::Result<()> {
        let mut one = vec![self.connections.pop().context("no connection")?];
        let start = self.plane.read()?;
        let seen = drive(&mut one, vec![get(path); self.scale.lists], 200).await?;
        let used = self.plane.used(&start)?;
        self.connections.append(&mut one);
        let size = seen.bytes as f64 / self.scale.lists as f64 / f64::from(1 << 20);
        let made_of = format!("{size:.1} MiB each; {}", shares(&seen, &used));
        // With fewer objects the time for 10,000 is what is compared.
        let whole = 10_000.0 / self.scale.objects as f64;
        self.column.add(figure, seen.quantile(0.5).as_secs_f64() * 1000.0 * whole, made_of);
        Ok(())
    }

    async fn watch(&mut self) -> anyhow::Result<()> {
        let requests = self.create_maps(self.scale.events);
        let target = self.plane.target()?;
        let start = self.plane.read()?;
        let path = objects::config_maps();
        let seen = load::fan_out(&target, &path, WATCHERS, &mut self.connections, requests).await?;
        let used = self.plane.used(&start)?;
        let made_of = format!(
            "{} events of {} writers' {}/s creates; the last came {} after its write; {}",
            seen.events,
            CONNECTIONS,
            number(seen.writes),
            millis(seen.lag),
            spent(seen.elapsed, &used)
        );
        self.column.add(report::WATCH, seen.events as f64 / seen.elapsed.as_secs_f64(), made_of);
        Ok(())
    }

    async fn pods(&mut self) -> anyhow::Result<()> {
        let count = self.scale.objects;
        let requests = (0..count).map(|n| objects::create_pod(&format!("pod-{n:05}"))).collect();
        let start = self.plane.read()?;
        self.load((report::POD_CPU, report::POD), requests, 201).await?;
        let settled = self.settle(Duration::from_secs(15)).await?;
        let used = self.plane.used(&start)?;
        let made_of = format!("the scheduler was done {} after the last create", millis(settled));
        self.column.add(report::POD_SETTLED, used.plane() * 10_000.0 / count as f64, made_of);
        self.list(report::LIST_PODS, &objects::pods()).await
    }

    /// Waits until the control plane does next to nothing; returns how long it went on.
    async fn settle(&self, most: Duration) -> anyhow::Result<Duration> {
        const LOOK: Duration = Duration::from_millis(500);
        let begun = Instant::now();
        loop {
            let (from, at) = (self.plane.read()?, begun.elapsed());
            tokio::time::sleep(LOOK).await;
            if self.plane.used(&from)?.plane() < 0.05 * LOOK.as_secs_f64() || begun.elapsed() > most {
                return Ok(at);
            }
        }
    }

    /// Fills up to what memory is judged by, then up to what the last start is judged by.
    async fn fill(&mut self) -> anyhow::Result<()> {
        let (objects, stored) = (self.scale.objects, self.scale.stored);
        let more = self.create_maps((2 * objects).saturating_sub(self.made));
        self.ask(more, 201).await?;
        self.settle(Duration::from_secs(5)).await?;
        if stored == 0 {
            return Ok(());
        }
        self.resident(report::FILLED)?;
        let more = self.create_maps(stored.saturating_sub(self.made + objects));
        self.ask(more, 201).await.map(drop)
    }

    async fn start_full(&mut self) -> anyhow::Result<()> {
        if self.scale.stored == 0 {
            return Ok(());
        }
        self.connections.clear();
        let mut times = Vec::new();
        for _ in 0..3 {
            self.plane.stop()?;
            times.push(self.plane.start().await?);
        }
        times.sort();
        let spread = format!("{} to {}", millis(times[0]), millis(times[2]));
        self.column.add(report::READY_FULL, times[1].as_secs_f64(), spread);
        self.plane.stop()
    }
}
