//! The broker, the clients' drivers, and the wires between them.

mod link;
mod server;
mod taps;
mod tls;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use amqp_client_core::adapter::{Driver, Reconnector};
use amqp_client_core::proto::ServerConfig;
use amqp_client_core::{Config, ConnectStep, Connection, Recovery};
use amqp_test_broker::{ConsumerView, Engine, Options, SessionId};
use fastrand::Rng;

use crate::pace::Pace;
use crate::script::Cut;
use crate::wire::{Conditions, End};
use link::{Link, Wires};
use taps::Tapped;
use tls::ServerEnd;

/// More than a client may have queued for its transport: what it accepts before publishing waits, the largest message, what is
/// kept and sent again all at once, and room for output that is never held back.
pub(crate) const OUTPUT_MAX: usize = HIGH_WATER + crate::ledger::BODY_MAX + KEEP_MAX + 64 * 1024;

/// The limit of kept messages of clients.
pub(crate) const KEEP_MAX: usize = 256 * 1024;

/// The limit of bytes that wait for the transport of a client.
pub(crate) const HIGH_WATER: usize = 32 * 1024;

pub(crate) struct Network {
    pub(crate) engine: Engine,
    /// The configuration of the broker's nodes. Clients connect to this number of nodes.
    pub(crate) nodes: Vec<Arc<ServerConfig>>,
    pub(crate) links: Vec<Link>,
    /// True if each transport is inside of a TLS session.
    pub(crate) tls: bool,
    /// True if connections have a tap each. Those with TLS have none.
    pub(crate) taps: bool,
    conditions: Conditions,
    rng: Rng,
    /// Nobody is let in before.
    down_until: Instant,
    /// When the broker's next timer is due, if that was asked since the broker last changed.
    engine_due: Cell<Option<Option<Instant>>>,
    /// The largest output that a client ever had.
    pub(crate) peak_output: usize,
    /// The client of each session.
    owners: BTreeMap<SessionId, usize>,
    /// Clients whose connections break soon, how, and until when.
    flapping: Vec<(usize, Cut, Instant)>,
}

impl Network {
    /// A network with a broker of several nodes, which are set up alike.
    pub(crate) fn new(
        seed: u64,
        options: Options,
        conditions: Conditions,
        nodes: usize,
        now: Instant,
    ) -> Self {
        let engine = Engine::new(options.nondeterminism(seed), now);
        let node = Arc::new(engine.config());
        Self {
            engine,
            nodes: vec![node; nodes],
            links: Vec::new(),
            tls: false,
            taps: false,
            conditions,
            rng: Rng::with_seed(seed ^ 0x6e65_7477_6f72_6b00),
            down_until: now,
            engine_due: Cell::new(None),
            peak_output: 0,
            owners: BTreeMap::new(),
            flapping: Vec::new(),
        }
    }

    /// A client connects; nothing if the broker is down. Returns the number of the link, too.
    pub(crate) fn connect(
        &mut self,
        client: usize,
        config: Config,
        recovery: Option<(Recovery, Pace)>,
        now: Instant,
    ) -> Option<(Connection, usize)> {
        if now < self.down_until {
            return None;
        }
        let (config, tapped) = self.tapped(config);
        let (connection, mut driver) = Driver::new(config, now);
        let mut link = Link::new(client, None, self.conditions, now);
        link.tapped = tapped;
        if let Some((recovery, pace)) = recovery {
            driver.recover_with(recovery, self.nodes.len(), 0);
            link.pace = pace;
        }
        link.driver = Some(driver);
        self.links.push(link);
        let link = self.links.len() - 1;
        self.wire_up(link, 0, now);
        Some((connection, link))
    }

    /// A client begins to connect, and goes on until it is connected, whenever that will be.
    pub(crate) fn begin(
        &mut self,
        client: usize,
        config: Config,
        (recovery, pace): (Recovery, Pace),
        now: Instant,
    ) -> (Connection, usize) {
        let (config, tapped) = self.tapped(config);
        let (connection, reconnector) = Reconnector::begin(config, recovery, self.nodes.len(), now);
        let mut link = Link::new(client, None, self.conditions, now);
        link.tapped = tapped;
        (link.reconnector, link.pace) = (Some(reconnector), pace);
        self.links.push(link);
        (connection, self.links.len() - 1)
    }

    /// Gives a connection a tap, if connections have any.
    fn tapped(&self, config: Config) -> (Config, Option<Tapped>) {
        if !self.taps || self.tls {
            return (config, None);
        }
        let (config, tapped) = Tapped::new(config);
        (config, Some(tapped))
    }

    /// Compares what the taps have seen with what went over the transports. Drops the drivers: one that got no time may not have
    /// ended.
    pub(crate) fn compare_taps(&mut self) -> Result<(), String> {
        for link in &mut self.links {
            link.hang_up();
            link.tapped.as_mut().map_or(Ok(()), Tapped::compare)?;
        }
        Ok(())
    }

    /// Gives a link new wires, and a session of a node of the broker.
    fn wire_up(&mut self, link: usize, node: usize, now: Instant) {
        let (up, down) = (self.rng.u64(..), self.rng.u64(..));
        let link = &mut self.links[link];
        link.tapped.iter_mut().for_each(Tapped::begin);
        let mut old = Link::new(link.client, None, self.conditions, now);
        let wires = Wires::new(self.conditions, (up, down), self.tls, now);
        old.wires = std::mem::replace(&mut link.wires, Rc::new(RefCell::new(wires)));
        old.input = std::mem::take(&mut link.input);
        old.server = link.server.take();
        let session = self.engine.connect_to(now, self.nodes[node].clone());
        self.owners.insert(session, link.client);
        let client = link.client;
        let flaps = self.flapping.iter().filter(|(own, _, until)| *own == client && now < *until);
        flaps.for_each(|(_, cut, _)| link.cut(*cut));
        old.session = link.session.replace(session);
        link.check = true;
        link.flag.raise();
        if self.tls {
            // Other random numbers than a plain transport uses: those stay as they are.
            let seed = up.rotate_left(17) ^ down;
            link.server = Some(ServerEnd::new(seed));
            link.secure(!seed);
        }
        self.engine_due.set(None);
        if old.session.is_some() {
            // The broker does not know yet that the client has another.
            self.links.push(old);
        }
    }

    /// Returns the number of a link's transport, counting all that there ever were.
    pub(crate) fn transport(&self, link: usize) -> usize {
        link << 16 | self.links[link].epoch
    }

    /// Returns whether a link has no transport.
    pub(crate) fn is_down(&self, link: usize) -> bool {
        self.links[link].reconnector.is_some()
    }

    /// Returns whether a driver gets no time.
    pub(crate) fn is_starved(&self, link: usize, now: Instant) -> bool {
        now < self.links[link].starved_until
    }

    /// The broker's end of a link.
    pub(crate) fn session(&self, link: usize) -> Option<SessionId> {
        self.links[link].session
    }

    /// Returns how many channels the broker has open for a link.
    pub(crate) fn channel_count(&self, link: usize) -> usize {
        self.links[link].session.map_or(0, |session| self.engine.channel_count(session))
    }

    /// Returns how many deliveries the broker waits to have acknowledged by a link.
    pub(crate) fn unacknowledged_count(&self, link: usize) -> usize {
        self.links[link].session.map_or(0, |session| self.engine.unacknowledged_count(session))
    }

    pub(crate) fn cut(&mut self, client: usize, cut: Cut) {
        self.of(client).for_each(|link| link.cut(cut));
    }

    /// Each connection of a client breaks, and so do those that follow, for a while.
    pub(crate) fn flap(&mut self, client: usize, cut: Cut, until: Instant) {
        self.cut(client, cut);
        self.flapping.push((client, cut, until));
    }

    /// Returns which client a session is of.
    pub(crate) fn owner(&self, session: SessionId) -> Option<usize> {
        self.owners.get(&session).copied()
    }

    pub(crate) fn stall(&mut self, client: usize, up: bool, until: Instant) {
        for link in self.of(client) {
            let mut wires = link.wires.borrow_mut();
            if up { wires.up.stall(until) } else { wires.down.stall(until) }
        }
    }

    pub(crate) fn starve(&mut self, client: usize, until: Instant) {
        self.of(client).for_each(|link| link.starved_until = link.starved_until.max(until));
    }

    /// The broker's ends of TLS end their sessions, as a proxy that is reloaded. Their transports stay open.
    pub(crate) fn end_tls(&mut self, client: usize) {
        for link in self.of(client) {
            link.server.iter_mut().for_each(ServerEnd::end);
            link.check = true;
        }
    }

    /// The drivers of a client are dropped, as when its runtime shuts down.
    pub(crate) fn kill(&mut self, client: usize) {
        self.of(client).for_each(Link::hang_up);
    }

    fn of(&mut self, client: usize) -> impl Iterator<Item = &mut Link> {
        self.links.iter_mut().filter(move |link| link.client == client && link.is_alive())
    }

    /// The broker stops, and starts again after a while.
    pub(crate) fn restart(&mut self, now: Instant, down: Duration) {
        self.engine.restart(now);
        self.engine_due.set(None);
        self.down_until = now + down;
        for link in &mut self.links {
            let end = if self.rng.bool() { End::Reset } else { End::Eof };
            link.session = None;
            let mut wires = link.wires.borrow_mut();
            wires.down.close(end);
            wires.up.close(End::Reset);
        }
    }

    pub(crate) fn set_alarm(&mut self, now: Instant, reason: Option<&str>) {
        self.engine.set_alarm(now, reason);
        self.recheck();
    }

    /// The broker cancels a consumer.
    pub(crate) fn cancel_consumer(&mut self, now: Instant, place: usize) {
        let consumers: Vec<_> = self.engine.consumers().collect();
        if let Some(consumer) = place.checked_rem(consumers.len()).map(|place| &consumers[place]) {
            self.cancel(now, consumer);
        }
    }

    pub(crate) fn cancel(&mut self, now: Instant, consumer: &ConsumerView) {
        self.engine.cancel_consumer(now, consumer);
        self.recheck();
    }

    /// The broker closes a channel of each connection of a client.
    pub(crate) fn close_channel(&mut self, now: Instant, client: usize, channel: usize) {
        for session in self.sessions_of(client) {
            self.engine.close_channel(now, session, channel);
        }
        self.recheck();
    }

    /// An operator closes the connections of a client.
    pub(crate) fn close_connection(&mut self, now: Instant, client: usize) {
        for session in self.sessions_of(client) {
            self.engine.close_session(now, session);
        }
        self.recheck();
    }

    fn sessions_of(&self, client: usize) -> Vec<SessionId> {
        let links = self.links.iter().filter(|link| link.client == client);
        links.filter_map(|link| link.session).collect()
    }

    /// An operator deletes a queue.
    pub(crate) fn delete_queue(&mut self, now: Instant, place: usize) {
        let names: Vec<_> = self.engine.queue_names().map(ToString::to_string).collect();
        if let Some(name) = place.checked_rem(names.len()).map(|place| &names[place]) {
            self.engine.delete_queue_of(now, name);
            self.recheck();
        }
    }

    /// The broker has changed, so there may be something to say to others.
    fn recheck(&mut self) {
        self.engine_due.set(None);
        self.links.iter_mut().for_each(|link| link.check = true);
    }

    /// Lets things happen that only take time.
    pub(crate) fn pass(&mut self, now: Instant) {
        for link in &mut self.links {
            link.wires.borrow_mut().arrive(now);
        }
        if self.engine_due().is_some_and(|at| at <= now) {
            self.engine.handle_timeout(now);
            self.recheck();
        }
    }

    fn engine_due(&self) -> Option<Instant> {
        let due = self.engine_due.get().unwrap_or_else(|| self.engine.poll_timeout());
        self.engine_due.set(Some(due));
        due
    }

    /// Returns when something happens next that only takes time.
    pub(crate) fn next(&self) -> Option<Instant> {
        let links = self.links.iter().flat_map(Link::next);
        links.flatten().chain(self.engine_due()).min()
    }

    pub(crate) fn client_is_ready(&self, link: usize, now: Instant) -> bool {
        self.links[link].is_ready(now)
    }

    /// One round of an adapter's loop.
    pub(crate) fn run_client(&mut self, index: usize, now: Instant) -> Result<(), String> {
        let link = &mut self.links[index];
        let waiting = match (&link.driver, &link.secured) {
            (None, None) => return self.run_reconnector(index, now),
            (Some(_), _) => link.run_driver(now)?,
            (None, Some(_)) => link.run_secured(now)?,
        };
        self.peak_output = self.peak_output.max(waiting);
        match waiting > OUTPUT_MAX {
            true => Err(format!("{waiting} bytes are queued for the transport of a client")),
            false => Ok(()),
        }
    }

    /// One round of an adapter without a transport.
    fn run_reconnector(&mut self, index: usize, now: Instant) -> Result<(), String> {
        let link = &mut self.links[index];
        let Some(mut reconnector) = link.reconnector.take() else { return Ok(()) };
        link.flag.lower();
        let turn = reconnector.turn(now, &Waker::from(link.flag.clone()));
        link.wake_at = turn.wake_at;
        if turn.done {
            return Ok(());
        }
        let Some(node) = turn.connect else {
            link.reconnector = Some(reconnector);
            return link.pace.waits(now, turn.wake_at);
        };
        link.flag.raise();
        if now < self.down_until || self.rng.u8(..4) == 0 {
            reconnector.failed(now, ConnectStep::Tcp, "not reachable");
            link.reconnector = Some(reconnector);
            return Ok(());
        }
        link.epoch += 1;
        link.driver = Some(reconnector.connected(now, None));
        let paced = link.pace.connects(now);
        self.wire_up(index, node, now);
        paced
    }

    /// Nothing can happen before time passes: the input of TLS must have arrived then.
    pub(crate) fn rest(&self, now: Instant) -> Result<(), String> {
        self.links.iter().try_for_each(|link| link.rest(now))
    }
}
