//! Lets incidents happen, one after another, and waits after each until all is calm.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amqp_client_patterns::partitions::Partitions;
use amqp_client_tokio::connect_target;

use crate::crew::{Book, Crew, signal};
use crate::incident::Incident;
use crate::ledger::{Entry, Message, now};
use crate::member::target;
use crate::oracle::owners;
use crate::site::Site;
use crate::traffic::Traffic;
use crate::{Error, NAME};

/// The parameters of a run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    pub(crate) partitions: u32,
    /// Members in slots, instead of members with names.
    pub(crate) slots: bool,
    pub(crate) incidents: Vec<Incident>,
    /// For how long; each incident happens once at least.
    pub(crate) time: Duration,
    pub(crate) seed: u64,
    pub(crate) ledger: PathBuf,
}

pub(crate) struct Run {
    plan: Plan,
    site: Arc<Site>,
    crew: Crew,
    traffic: Traffic,
    book: Book,
    chance: fastrand::Rng,
}

/// The time in which all partitions have to get their owners. A partition that takes longer is stuck.
const SETTLED: Duration = Duration::from_secs(90);

/// The time in which a probe has to be processed. Then the next one follows.
const PROBED: Duration = Duration::from_secs(10);

/// How long a frozen process or node does nothing: longer than two heartbeats.
const FROZEN: Duration = Duration::from_secs(5);

/// How many members there are, at least and at most.
const MEMBERS: std::ops::RangeInclusive<usize> = 3..=6;

/// Runs the plan, and leaves its ledger.
pub(crate) async fn run(plan: Plan) -> Result<(), Error> {
    let nodes = plan.nodes;
    let site = Arc::new(tokio::task::spawn_blocking(move || Site::start(nodes)).await??);
    let book = Book::create(&plan.ledger)?;
    let connection = connect_target(target("publishing", &site.addresses())?).await?;
    let partitions = Partitions::new(NAME, plan.partitions)?;
    let topology = partitions.topology(connection.broker_version().as_ref());
    topology.apply(&connection.open_channel().await?).await?;
    // A node that is killed right behind that would forget some of the queues.
    let flushed = site.clone();
    tokio::task::spawn_blocking(move || flushed.flush()).await??;
    let traffic = Traffic::start(&connection, &partitions, &book).await?;
    let crew = Crew::new(&book, site.addresses(), plan.partitions, plan.seed);
    let chance = fastrand::Rng::with_seed(plan.seed);
    let mut run = Run { plan, site, crew, traffic, book, chance };
    for _ in 0..*MEMBERS.start() {
        run.crew.start(run.plan.slots)?;
    }
    run.settle().await?;
    run.play().await?;
    run.finish().await
}

impl Run {
    async fn play(&mut self) -> Result<(), Error> {
        let began = Instant::now();
        loop {
            let mut incidents = self.plan.incidents.clone();
            self.chance.shuffle(&mut incidents);
            for incident in incidents {
                // Traffic while it is calm: nothing moves then.
                tokio::time::sleep(Duration::from_millis(self.chance.u64(200..1500))).await;
                self.happen(incident).await?;
            }
            if began.elapsed() >= self.plan.time {
                return Ok(());
            }
        }
    }

    async fn happen(&mut self, incident: Incident) -> Result<(), Error> {
        let node = self.chance.usize(..self.site.count());
        let slots = self.plan.slots;
        let incident = match incident {
            Incident::Leave | Incident::Kill if self.crew.len() <= *MEMBERS.start() => {
                Incident::Join
            }
            Incident::Join if self.crew.len() >= *MEMBERS.end() => Incident::Leave,
            incident => incident,
        };
        println!("{incident}");
        self.begin(incident.to_string());
        match incident {
            Incident::Join => self.crew.start(slots)?,
            Incident::Leave => tokio::task::block_in_place(|| self.crew.leave())?,
            Incident::Kill => tokio::task::block_in_place(|| self.crew.kill())?,
            Incident::Freeze => {
                let process = self.crew.freeze()?;
                // The length of the silence is the fault.
                tokio::time::sleep(FROZEN).await;
                signal("CONT", process)?;
            }
            Incident::Cut => self.site.cut(),
            Incident::NodeKilled => {
                self.at_node(move |site| site.node(node).kill()).await?;
                self.settle().await?;
                self.begin("node back".to_owned());
                self.at_node(move |site| site.node(node).restart()).await?;
            }
            Incident::NodeRestarted => {
                self.at_node(move |site| site.node(node).stop()).await?;
                self.at_node(move |site| site.node(node).restart()).await?;
            }
            Incident::NodeFrozen => {
                self.at_node(move |site| site.node(node).pause()).await?;
                tokio::time::sleep(FROZEN).await;
                self.at_node(move |site| site.node(node).resume()).await?;
            }
            Incident::NodeIsolated => {
                self.at_node(move |site| site.isolate(node)).await?;
                tokio::time::sleep(2 * FROZEN).await;
                self.at_node(move |site| site.heal(node)).await?;
            }
        }
        self.settle().await
    }

    fn begin(&self, incident: String) {
        self.book.write(Entry::Begins { incident });
    }

    async fn at_node(
        &self,
        act: impl FnOnce(&Site) -> std::io::Result<()> + Send + 'static,
    ) -> Result<(), Error> {
        let site = self.site.clone();
        Ok(tokio::task::spawn_blocking(move || act(&site)).await??)
    }

    /// Waits until each partition is with its owner, and everything that was confirmed is processed.
    async fn settle(&mut self) -> Result<(), Error> {
        let began = Instant::now();
        let mut was_restarted = false;
        loop {
            let since = now();
            let stuck = self.probe().await?;
            let has_joined = |(name, _): &(String, _)| self.book.has_joined(name);
            let is_settled = stuck.as_ref().is_some_and(Vec::is_empty)
                && self.book.missing() <= 0
                && self.crew.members().iter().all(has_joined);
            if is_settled {
                self.book.write(Entry::Calm { since });
                println!("  settled after {:.2} s", began.elapsed().as_secs_f64());
                return Ok(());
            }
            if began.elapsed() < SETTLED {
                continue;
            }
            if was_restarted {
                return Err(format!(
                    "not everything is processed: {} missing",
                    self.book.missing()
                )
                .into());
            }
            for partition in stuck.into_iter().flatten() {
                println!("  partition {partition} is stuck");
                self.book.write(Entry::Stuck { partition });
            }
            // A broker can stop a partition for good. Once all its consumers are gone, it begins anew.
            tokio::task::block_in_place(|| self.crew.restart())?;
            was_restarted = true;
        }
    }

    /// Publishes a message to each partition, and waits until all are processed. Returns the partitions of which nothing comes; `None` if
    /// all come, but some to others than their owners.
    async fn probe(&self) -> Result<Option<Vec<u32>>, Error> {
        let sent = self.traffic.probe().await?;
        let deadline = Instant::now() + PROBED;
        let silent = |sent: &[Message]| -> Vec<u32> {
            let processed = |message| self.book.processed(message).is_some();
            (0..)
                .zip(sent)
                .filter(|(_, sent)| !processed(sent))
                .map(|(partition, _)| partition)
                .collect()
        };
        while !silent(&sent).is_empty() && Instant::now() < deadline {
            // Members are other processes: asks the ledger again.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let silent = silent(&sent);
        let members = self.crew.members();
        let owners = owners(&members, self.plan.partitions);
        let is_with_owner = sent.iter().zip(owners).all(|(message, owner)| {
            let owner = owner.and_then(|owner| members.get(owner));
            owner.map(|(name, _)| name) == self.book.processed(message).as_ref()
        });
        Ok((is_with_owner || !silent.is_empty()).then_some(silent))
    }

    async fn finish(mut self) -> Result<(), Error> {
        self.traffic.stop().await?;
        let deadline = Instant::now() + SETTLED;
        while self.book.missing() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.begin("end".to_owned());
        tokio::task::block_in_place(|| self.crew.leave_all())?;
        Ok(self.book.flush()?)
    }
}
