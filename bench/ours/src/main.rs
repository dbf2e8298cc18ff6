//! `ours SCENARIO COUNT SIZE URL QUEUE`, on the runtime that `RUNTIME` names: `tokio` (multi-thread, in `block_on`),
//! `tokio-spawned` (the same, in a task), `tokio-ct` (current-thread), `smol`, `blocking`, `proto` (the protocol over std
//! sockets).

mod blocking;
mod driver;
mod latency;
mod patterns;
mod proto;
mod resources;
mod scale;

use std::future::Future;
use std::pin::Pin;
use std::str::FromStr as _;

use amqp_bench_harness::job::Job;
use amqp_client_blocking::Wait as _;
use amqp_client_core::{Connection, Settings, Target};

/// Every error ends the run.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T = ()> = Result<T, Failure>;

/// A task that runs by itself.
type Running<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The differences between the asynchronous runtimes.
trait Runtime: 'static {
    fn open(target: Target) -> impl Future<Output = Outcome<Connection>> + Send;

    fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> Running<T>;

    fn sleep(time: std::time::Duration) -> impl Future<Output = ()> + Send;
}

struct Tokio;

impl Runtime for Tokio {
    async fn open(target: Target) -> Outcome<Connection> {
        Ok(amqp_client_tokio::connect_target(target).await?)
    }

    fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> Running<T> {
        let task = tokio::spawn(task);
        Box::pin(async { task.await.expect("the task does not panic") })
    }

    async fn sleep(time: std::time::Duration) {
        tokio::time::sleep(time).await;
    }
}

struct Smol;

impl Runtime for Smol {
    async fn open(target: Target) -> Outcome<Connection> {
        Ok(amqp_client_smol::connect_target(target).await?)
    }

    fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> Running<T> {
        Box::pin(smol::spawn(task))
    }

    async fn sleep(time: std::time::Duration) {
        smol::Timer::after(time).await;
    }
}

/// Threads. Each task has one.
struct Threads;

impl Runtime for Threads {
    async fn open(target: Target) -> Outcome<Connection> {
        Ok(amqp_client_blocking::connect_target(target)?)
    }

    fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> Running<T> {
        let (result, done) = smol::channel::bounded(1);
        std::thread::spawn(move || result.send_blocking(task.wait()));
        Box::pin(async move { done.recv().await.expect("the thread does not panic") })
    }

    async fn sleep(time: std::time::Duration) {
        std::thread::sleep(time);
    }
}

fn main() -> Outcome {
    let job = Job::from_args();
    let runtime = std::env::var("RUNTIME").unwrap_or_else(|_| "tokio".to_owned());
    match runtime.as_str() {
        "tokio" => tokio(true)?.block_on(driver::run::<Tokio>(job)),
        "tokio-ct" => tokio(false)?.block_on(driver::run::<Tokio>(job)),
        "tokio-spawned" => {
            let runtime = tokio(true)?;
            let task = runtime.spawn(async move {
                let done = driver::run::<Tokio>(job).await;
                done.map_err(|error| error.to_string())
            });
            Ok(runtime.block_on(task)??)
        }
        "smol" => smol::block_on(driver::run::<Smol>(job)),
        "blocking" => blocking::run(job),
        "proto" => proto::run(&job),
        other => Err(format!("no runtime is called {other}").into()),
    }
}

/// Returns where to connect. With `receive-buffer=BYTES`, sockets have a receive buffer of that size.
fn target(job: &Job) -> Outcome<Target> {
    let bytes = job.parameter("receive-buffer", 0);
    let bytes = (bytes > 0).then_some(bytes as usize);
    Ok(Target::from_str(&job.url)?.settings(Settings::default().receive_buffer(bytes)))
}

fn check(found: usize, expected: usize) -> Outcome {
    if found == expected {
        return Ok(());
    }
    Err(format!("{found} bytes came, not {expected}").into())
}

fn tokio(multi_thread: bool) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match multi_thread {
        true => tokio::runtime::Builder::new_multi_thread(),
        false => tokio::runtime::Builder::new_current_thread(),
    };
    builder.enable_all().build()
}
