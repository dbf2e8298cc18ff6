//! The work of clients, and their checks.

mod calls;
mod channels;
mod churn;
mod consume;
mod keep;
mod overflow;
mod provoke;
mod publish;
mod roam;
mod transact;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use amqp_client_core::{Channel, Connection, Queue, QueueOptions};

use crate::client::{Env, Try};
use crate::executor::Task;
use crate::ledger::Id;
use crate::script::{Job, QUEUES, Work};
use crate::world::World;

/// The tasks of a script.
pub(crate) fn tasks(world: &Rc<World>) -> Vec<Task> {
    let jobs = world.script.jobs.iter().cloned().enumerate();
    jobs.map(|(index, job)| {
        let mut env = Env::new(world.clone(), job.client, world.script.seed ^ (index as u64) << 32);
        env.cancel = job.cancel;
        if job.is_awaited() {
            world.working.set(world.working.get() + 1);
        }
        Task::new(format!("{index}: {:?}", job.work), work(env, job))
    })
    .collect()
}

impl Job {
    /// Returns whether consumers wait until it is done.
    const fn is_awaited(&self) -> bool {
        matches!(
            self.work,
            Work::Publish { .. } | Work::Keep { .. } | Work::Call { .. } | Work::Transact
        )
    }
}

/// Starts again until it is done.
async fn work(env: Env, job: Job) {
    let mut left = job.count;
    while attempt(&env, &job, &mut left).await.is_err() {
        env.compare_counters();
        env.pause(Duration::from_millis(500)).await;
    }
    env.compare_counters();
    if job.is_awaited() {
        env.world.working.set(env.world.working.get() - 1);
    }
}

async fn attempt(env: &Env, job: &Job, left: &mut u32) -> Try<()> {
    match job.work {
        Work::Publish { .. } => publish::run(env, job, left).await,
        Work::Consume { queue, prefetch } => consume::run(env, job, queue, prefetch).await,
        Work::Get { queue } => consume::get(env, job, queue, left).await,
        Work::Call { direct } => calls::run(env, job, direct, left).await,
        Work::Serve => calls::serve(env).await,
        Work::Churn => churn::run(env, job, left).await,
        Work::Provoke => provoke::run(env, job, left).await,
        Work::Channels => channels::run(env, job, left).await,
        Work::Overflow => overflow::run(env, job, left).await,
        Work::Keep { queue, window } => keep::run(env, job, queue, window, left).await,
        Work::Endure { queue, prefetch } => consume::endure(env, job, queue, prefetch).await,
        Work::Roam => roam::run(env, job, left).await,
        Work::Transact => transact::run(env, job, left).await,
    }
}

/// The name of a durable queue.
fn queue_name(queue: usize) -> String {
    format!("queue-{queue}")
}

/// Declares a durable queue.
async fn declare(env: &Env, channel: &Channel, queue: usize) -> Try<Queue> {
    let name = queue_name(queue);
    let declared =
        env.call(channel.queue_declare(&name, QueueOptions::new().durable(true)).await)?;
    if *declared.name() != *name {
        return Err(env.fail(format!("declared {name}, and the reply names {}", declared.name())));
    }
    Ok(declared)
}

/// Ends a connection, in one of the ways there are.
async fn leave(env: &Env, connection: Connection) -> Try<()> {
    match env.one_in(2) {
        true => match env.perhaps(connection.close()).await {
            Some(result) => env.closed(result),
            None => Ok(()),
        },
        // It is dropped, which closes it, too.
        false => Ok(()),
    }
}

/// Takes all that is left in the queues.
pub(crate) fn audit(env: Env, left: Rc<RefCell<BTreeMap<Id, u32>>>) -> Task {
    Task::new("audit".to_owned(), async move {
        let connected = env.connect().await;
        let taken = take_all(&env, &connected.connection, &left).await;
        // A failure has been noted.
        let _failed = taken;
    })
}

async fn take_all(
    env: &Env,
    connection: &Connection,
    left: &RefCell<BTreeMap<Id, u32>>,
) -> Try<()> {
    let channel = env.open(connection.open_channel().await)?;
    for queue in 0..QUEUES {
        let queue = declare(env, &channel, queue).await?;
        while let Some(got) = env.call(queue.get_no_ack().await)? {
            let id = env.world.ledger.borrow().identify(got.delivery.body());
            let id = id.map_err(|text| env.fail(text))?;
            *left.borrow_mut().entry(id).or_default() += 1;
        }
    }
    env.closed(connection.close().await)
}
