//! `kill -9` in a loop under 32 writers: what was acknowledged is there, revisions never go back, and watches go on
//! where they were without a gap or a duplicate.
//!
//! The proof is a model of its own: every write carries a token and the revision it was conditioned on, every watch
//! keeps what it saw over all kills, and [`model`] explains each event by exactly one write.

mod client;
mod model;
mod processes;
mod watcher;
mod writer;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use clap::Parser;
use hyper::Method;
use model::{Base, Effect, Outcome, Revision, Seen, Sent, State};
use processes::{Backend, Processes};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use watcher::Watcher;
use writer::{SHARED, World, Writer, body, collection};

/// What is written.
pub const RESOURCES: [&str; 2] = ["configmaps", "secrets"];

const WRITERS: usize = 32;

/// Of so many kills of a run with etcd one is for etcd itself.
const ETCD_EVERY: usize = 8;

/// Kills the server in a loop under writers, and proves that nothing is lost
#[derive(Parser)]
struct Args {
    /// How often to kill, for each store
    #[arg(long, default_value_t = 10)]
    kills: usize,
    /// Only with this store
    #[arg(long, value_enum)]
    store: Option<Backend>,
    /// The server's program
    #[arg(long, env = "FAIRLEAD_SERVER")]
    server: PathBuf,
    /// Repeats the choices of an earlier run (not its timing)
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    match start(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args) -> anyhow::Result<()> {
    model::check_the_checker().map_err(anyhow::Error::msg)?;
    let seed = args.seed.unwrap_or_else(rand::random);
    let stores = args.store.map_or(vec![Backend::Embedded, Backend::Etcd], |one| vec![one]);
    let runtime = tokio::runtime::Runtime::new()?;
    for store in stores {
        let directory = std::env::temp_dir().join(format!("fairlead-crash-{}-{store:?}", std::process::id()));
        let processes = Processes::new(directory.clone(), &args.server, store)?;
        let outcome = runtime.block_on(run(processes, store, args.kills, seed));
        let kept = directory.display();
        outcome.with_context(|| format!("{store:?}, seed {seed}; logs and data are kept in {kept}"))?;
        std::fs::remove_dir_all(&directory)?;
    }
    Ok(())
}

/// The tasks of one run.
struct Tasks {
    writers: Vec<JoinHandle<anyhow::Result<Vec<Sent>>>>,
    watchers: Vec<JoinHandle<anyhow::Result<(Vec<Seen>, usize)>>>,
}

/// Which watches there are: resource, selecting, restless.
const WATCHES: [(&str, bool, bool); 6] = [
    (RESOURCES[0], false, false),
    (RESOURCES[1], false, false),
    (RESOURCES[0], false, true),
    (RESOURCES[1], false, true),
    (RESOURCES[0], true, false),
    (RESOURCES[0], true, true),
];

async fn run(mut processes: Processes, store: Backend, kills: usize, seed: u64) -> anyhow::Result<()> {
    let begin = Instant::now();
    processes.start()?;
    let target = processes.ready().await?;
    let (up, target) = watch::channel(Some(target));
    let world = Arc::new(World {
        target,
        stop: AtomicBool::new(false),
        newest: AtomicU64::new(0),
        tokens: AtomicU64::new(1),
    });
    let start = list_revision(&world).await?;
    let mut sent = make_shared(&world).await?;
    let until = RESOURCES.map(|resource| (resource, Arc::new(AtomicU64::new(u64::MAX))));
    let mut tasks = Tasks { writers: Vec::new(), watchers: Vec::new() };
    for (resource, selecting, restless) in WATCHES {
        let until = until.iter().find(|(of, _)| *of == resource).map(|(_, until)| until.clone());
        let until = until.context("a watch of another resource")?;
        let watcher = Watcher::new(world.clone(), resource, (selecting, restless), start, until);
        tasks.watchers.push(tokio::spawn(watcher.run()));
    }
    for number in 0..WRITERS {
        tasks.writers.push(tokio::spawn(Writer::new(world.clone(), number, seed).run()));
    }
    let slowest = kill(&mut processes, &world, &up, &tasks, (store, kills, seed)).await?;
    world.stop.store(true, Ordering::Relaxed);
    for writer in tasks.writers {
        sent.extend(writer.await??);
    }
    // The last write of each resource, which every watch must come to.
    let mut last = 0;
    for (resource, until) in until {
        let token = world.token().next_multiple_of(3);
        let end = create(&world, resource, "end", token).await?;
        let Outcome::Done(Some(told)) = end.outcome else { bail!("the last write failed: {end:?}") };
        last = told;
        until.store(told, Ordering::SeqCst);
        sent.push(end);
    }
    let mut seen = Vec::new();
    let mut resumed = 0;
    for watcher in tasks.watchers {
        let (events, times) = watcher.await??;
        seen.push(events);
        resumed += times;
    }
    let unanswered = prove(&world, &sent, &seen, last).await?;
    let done = sent.iter().filter(|sent| matches!(sent.outcome, Outcome::Done(_))).count();
    println!(
        "{store:?}: {kills} kills in {:.0} s: {done} acknowledged writes are all there, {unanswered} without an answer \
         took place, {} events in {} watches that went on {resumed} times without gap or duplicate, revision {last}, \
         ready again after {:.2} s at the latest",
        begin.elapsed().as_secs_f64(),
        seen.iter().map(Vec::len).sum::<usize>(),
        seen.len(),
        slowest.as_secs_f64(),
    );
    Ok(())
}

/// Kills and starts again; gives the longest time from the start of a server to readiness.
async fn kill(
    processes: &mut Processes,
    world: &World,
    up: &watch::Sender<Option<client::Target>>,
    tasks: &Tasks,
    (store, kills, seed): (Backend, usize, u64),
) -> anyhow::Result<Duration> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut slowest = Duration::ZERO;
    for number in 1..=kills {
        tokio::time::sleep(Duration::from_millis(random.random_range(60..350))).await;
        let writers = tasks.writers.iter().any(JoinHandle::is_finished);
        if writers || tasks.watchers.iter().any(JoinHandle::is_finished) {
            // What ended before its time says why when it is waited for.
            return Ok(slowest);
        }
        let known = world.newest.load(Ordering::SeqCst);
        if store == Backend::Etcd && number.is_multiple_of(ETCD_EVERY) {
            processes.kill_etcd()?;
            up.send_replace(Some(processes.ready().await?));
        } else {
            processes.kill()?;
            up.send_replace(None);
            let begin = Instant::now();
            processes.start()?;
            if random.random_range(0..10) == 0 {
                // A server that is killed while it starts.
                tokio::time::sleep(Duration::from_millis(random.random_range(5..80))).await;
                processes.kill()?;
                processes.start()?;
            }
            up.send_replace(Some(processes.ready().await?));
            slowest = slowest.max(begin.elapsed());
        }
        let now = list_revision(world).await?;
        ensure!(now >= known, "the revision went back from {known} to {now} at kill {number}");
        if number.is_multiple_of(20) {
            eprintln!("{store:?}: {number} kills, revision {now}");
        }
    }
    // What the last start brings is under load as well.
    tokio::time::sleep(Duration::from_millis(300)).await;
    Ok(slowest)
}

async fn list_revision(world: &World) -> anyhow::Result<Revision> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let connection = world.connect().await;
        if let Some(mut connection) = connection
            && let Ok((200, list)) = connection.get(&format!("{}?limit=1", collection(RESOURCES[0]))).await
        {
            return client::revision(&list);
        }
        ensure!(Instant::now() < end, "the server does not answer a list");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn create(world: &World, resource: &'static str, name: &str, token: u64) -> anyhow::Result<Sent> {
    let mut connection = world.connect().await.context("no connection")?;
    let after = world.newest.load(Ordering::SeqCst);
    let object = Bytes::from(body(name, token, 0).to_string());
    let path = collection(resource);
    let (code, answer) = connection.send(Method::POST, &path, "application/json", object).await?;
    ensure!(code == 201, "creating {name} was answered with {code}: {answer}");
    let outcome = Outcome::Done(Some(client::revision(&answer)?));
    let key = (resource, name.to_owned());
    Ok(Sent { key, effect: Effect::Put(token), base: Base::At(0), after, outcome })
}

async fn make_shared(world: &World) -> anyhow::Result<Vec<Sent>> {
    let mut sent = Vec::new();
    for number in 0..SHARED {
        sent.push(create(world, RESOURCES[0], &format!("shared-{number}"), world.token()).await?);
    }
    Ok(sent)
}

/// Compares what was sent, what was seen and what is there.
async fn prove(world: &World, sent: &[Sent], seen: &[Vec<Seen>], last: Revision) -> anyhow::Result<usize> {
    let mut faults = Vec::new();
    let mut unanswered = 0;
    for (place, resource) in RESOURCES.into_iter().enumerate() {
        let own: Vec<Sent> = sent.iter().filter(|sent| sent.key.0 == resource).cloned().collect();
        let checked = model::explain(&own, &seen[place]);
        unanswered += checked.unanswered;
        faults.extend(checked.faults);
        let state = state(world, resource, last).await?;
        if state != checked.state {
            faults.push(format!("the list of {resource} is not what its events make of it"));
        }
    }
    for ((resource, selecting, _), events) in WATCHES.into_iter().zip(seen) {
        let place = RESOURCES.iter().position(|one| *one == resource).unwrap_or(0);
        let expected = if selecting { model::select(&seen[place]) } else { seen[place].clone() };
        let common = events.len().min(expected.len());
        if let Some(at) = (0..common).find(|at| events[*at] != expected[*at]) {
            faults.push(format!("two watches of {resource} differ: {:?}, {:?}", events[at], expected[at]));
        } else if events.len() != expected.len() {
            faults.push(format!(
                "two watches of {resource} have {} and {} events",
                events.len(),
                expected.len()
            ));
        }
    }
    if !faults.is_empty() {
        faults.truncate(20);
        bail!("{}", faults.join("\n"));
    }
    Ok(unanswered)
}

/// What a list shows, which is as new as `last`.
async fn state(world: &World, resource: &'static str, last: Revision) -> anyhow::Result<State> {
    let mut connection = world.connect().await.context("no connection")?;
    let (code, list) = connection.get(&collection(resource)).await?;
    ensure!(code == 200, "a list was answered with {code}");
    ensure!(client::revision(&list)? >= last, "the list is older than the last write");
    let mut state = State::new();
    for object in list["items"].as_array().context("items")? {
        let Some(token) = object["metadata"]["annotations"]["token"].as_str() else { continue };
        let name = object["metadata"]["name"].as_str().context("name")?;
        state.insert((resource, name.to_owned()), (client::revision(object)?, token.parse()?));
    }
    Ok(state)
}
