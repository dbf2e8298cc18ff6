//! The program, and clients that send it orders.

#![allow(unreachable_pub, reason = "it is a part of a test")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use amqp_client_patterns::retry::{Retry, RetryStrategy};
use amqp_testkit::wait_until;
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Error, LIMIT, Outcome, get, post};
use crate::site::wait_for_success;

/// Many retries, and long delays in the end: an outage must not use them up.
const RETRIES: u32 = 20;
const DELAY: Duration = Duration::from_millis(10);

/// The retries of the program.
pub fn retry() -> Retry {
    Retry::times(RETRIES).from(DELAY).strategy(RetryStrategy::Queues)
}

/// The program. It is killed when this is dropped.
pub struct Program {
    child: Child,
    pub address: SocketAddr,
    log: Arc<Mutex<String>>,
}

impl Program {
    pub fn start(uri: &str, folder: &Path) -> Result<Self, Error> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_orders"))
            .env("AMQP_URL", uri)
            .env("HTTP_ADDRESS", "127.0.0.1:0")
            .env("ORDERS_FOLDER", folder)
            .env("RETRIES", RETRIES.to_string())
            .env("RETRY_DELAY_MS", DELAY.as_millis().to_string())
            .env("SHUTDOWN_GRACE_MS", "5000")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let log = Arc::<Mutex<String>>::default();
        follow(child.stderr.take().ok_or("no standard error")?, log.clone());
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no standard output")?).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening at ").and_then(|it| it.parse().ok());
        let address = address.ok_or_else(|| format!("it has printed {line:?}"))?;
        Ok(Self { child, address, log })
    }

    pub fn is_ready(&self) -> bool {
        get(self.address, "/health/ready").is_ok_and(|reply| reply.status == 200)
    }

    pub fn wait_ready(&self) {
        wait_until(LIMIT, "the program to be ready", || self.is_ready());
    }

    pub fn is_live(&self) -> bool {
        get(self.address, "/health/live").is_ok_and(|reply| reply.status == 200)
    }

    /// Returns whether nothing is unconfirmed or unsettled.
    pub fn is_idle(&self) -> bool {
        get(self.address, "/health/ready").is_ok_and(|reply| {
            let none = |name| reply.body.matches(&format!("\"{name}\":0")).count() == 2;
            none("unconfirmed") && none("unsettled")
        })
    }

    pub fn has_logged(&self, text: &str) -> bool {
        lock(&self.log).contains(text)
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) -> Outcome {
        Ok(kill_process(Pid::from_child(&self.child), Signal::TERM)?)
    }

    /// Waits until the program has ended with code 0.
    pub fn wait(mut self) -> Outcome {
        Ok(wait_for_success(&mut self.child)?)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
        if thread::panicking() {
            eprintln!("{}", lock(&self.log));
        }
    }
}

fn follow(source: impl Read + Send + 'static, log: Arc<Mutex<String>>) {
    thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            *lock(&log) += &(line + "\n");
        }
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panicked")
}

/// Clients that send orders at once, each until it is accepted.
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    address: SocketAddr,
    sent: Mutex<Sent>,
    changed: Condvar,
}

#[derive(Default)]
struct Sent {
    /// Number of orders that may be begun.
    allowed: u64,
    begun: u64,
    orders: BTreeMap<String, Sending>,
    /// Number of replies that were not 202.
    unavailable: u64,
    over: bool,
}

/// The known facts about an order.
#[derive(Debug, Clone)]
pub struct Sending {
    pub item: &'static str,
    /// Number of times that it was sent.
    pub times: usize,
    pub accepted: bool,
}

/// The orders of a client: every fifth order is one that is refused, and another that fails at first.
const ITEMS: [&str; 5] = ["bread", "unicorn", "wine", "fish", "bread"];

impl Clients {
    pub fn start(address: SocketAddr) -> Self {
        let (sent, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { address, sent, changed });
        let threads = (0..4).map(|_| {
            let shared = shared.clone();
            thread::spawn(move || while shared.send_next() {})
        });
        Self { threads: threads.collect(), shared }
    }

    /// Lets the clients begin this many more orders.
    pub fn begin(&self, orders: u64) {
        lock(&self.shared.sent).allowed += orders;
        self.shared.changed.notify_all();
    }

    pub fn accepted(&self) -> usize {
        lock(&self.shared.sent).orders.values().filter(|order| order.accepted).count()
    }

    pub fn unavailable(&self) -> u64 {
        lock(&self.shared.sent).unavailable
    }

    /// Waits until this many more orders are accepted.
    pub fn wait_accepted(&self, more: usize) {
        let before = self.accepted();
        wait_until(LIMIT, "orders to be accepted", || self.accepted() >= before + more);
    }

    /// Waits until all orders that may be begun are accepted.
    pub fn wait_all(&self) {
        wait_until(LIMIT, "all orders to be accepted", || {
            let sent = lock(&self.shared.sent);
            sent.begun == sent.allowed && sent.orders.values().all(|order| order.accepted)
        });
    }

    /// Stops sending. Returns all orders.
    pub fn stop(self) -> BTreeMap<String, Sending> {
        lock(&self.shared.sent).over = true;
        self.shared.changed.notify_all();
        for thread in self.threads {
            thread.join().expect("a client");
        }
        std::mem::take(&mut lock(&self.shared.sent).orders)
    }
}

impl Shared {
    /// Sends the next order until it is accepted. Returns whether there may be another.
    fn send_next(&self) -> bool {
        let sent = lock(&self.sent);
        let idle = |sent: &mut Sent| !sent.over && sent.begun == sent.allowed;
        let mut sent = self.changed.wait_while(sent, idle).expect("no test panicked");
        if sent.over {
            return false;
        }
        let number = sent.begun;
        sent.begun += 1;
        let (id, item) = (format!("order-{number}"), ITEMS[number as usize % ITEMS.len()]);
        sent.orders.insert(id.clone(), Sending { item, times: 0, accepted: false });
        drop(sent);
        wait_until(LIMIT, "an order to be accepted", || {
            self.change(&id, |sending| sending.times += 1);
            let accepted = post(self.address, &id, item).is_ok_and(|reply| reply.status == 202);
            self.change(&id, |sending| sending.accepted |= accepted);
            let mut sent = lock(&self.sent);
            sent.unavailable += u64::from(!accepted);
            accepted || sent.over
        });
        true
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Sending)) {
        change(lock(&self.sent).orders.get_mut(id).expect("it was begun"));
    }
}
