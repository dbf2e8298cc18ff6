//! The broker, the clients' drivers, and the wires between them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use amqp_client_core::driver::Driver;
use amqp_client_core::driver::Reconnector;
use amqp_client_core::proto::ServerConfig;
use amqp_client_core::{Config, Connection, Recovery};
use amqp_test_broker::{ConsumerView, Engine, Options, SessionId};
use bytes::{Buf as _, BytesMut};
use fastrand::Rng;

use crate::executor::Flag;
use crate::pace::Pace;
use crate::script::Cut;
use crate::wire::{Conditions, End, Read, Wire};

/// How often a driver may ask for a time that has come already.
const LATE: u32 = 1000;

/// More than a client may have waiting for its transport: what it takes before publishing waits, the largest message, what is
/// kept and sent again all at once, and room for what is never held back.
pub(crate) const OUTPUT_MAX: usize = HIGH_WATER + crate::ledger::BODY_MAX + KEEP_MAX + 64 * 1024;

/// What clients keep until it is confirmed.
pub(crate) const KEEP_MAX: usize = 256 * 1024;

/// What clients let wait for the transport.
pub(crate) const HIGH_WATER: usize = 32 * 1024;

pub(crate) struct Network {
    pub(crate) engine: Engine,
    /// How the nodes of the broker are set up. Clients believe that there are as many.
    pub(crate) nodes: Vec<Arc<ServerConfig>>,
    pub(crate) links: Vec<Link>,
    conditions: Conditions,
    rng: Rng,
    /// Nobody is let in before.
    down_until: Instant,
    /// When the broker's next timer is due, if that was asked since the broker last changed.
    engine_due: Cell<Option<Option<Instant>>>,
    /// The largest output that a client ever had.
    pub(crate) peak_output: usize,
    /// Which client each session is of.
    owners: BTreeMap<SessionId, usize>,
    /// Clients whose connections break soon, how, and until when.
    flapping: Vec<(usize, Cut, Instant)>,
}

/// A connection: a driver, a session of the broker, and the wires between them.
pub(crate) struct Link {
    pub(crate) client: usize,
    driver: Option<Driver>,
    /// What goes on for the driver while there is no transport.
    reconnector: Option<Reconnector>,
    /// How many transports it has had.
    epoch: usize,
    pace: Pace,
    flag: Arc<Flag>,
    wake_at: Option<Instant>,
    reading: bool,
    writing: bool,
    late: u32,
    /// The driver gets no time before.
    starved_until: Instant,
    up: Wire,
    down: Wire,
    session: Option<SessionId>,
    input: BytesMut,
    /// The broker may have something to say.
    check: bool,
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
        let engine = Engine::new(options.whims(seed), now);
        let node = Arc::new(engine.config());
        Self {
            engine,
            nodes: vec![node; nodes],
            links: Vec::new(),
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
        let (connection, mut driver) = Driver::new(config, now);
        let mut link = Link::new(client, None, self.conditions, now);
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
        let (connection, reconnector) = Reconnector::begin(config, recovery, self.nodes.len(), now);
        let mut link = Link::new(client, None, self.conditions, now);
        (link.reconnector, link.pace) = (Some(reconnector), pace);
        self.links.push(link);
        (connection, self.links.len() - 1)
    }

    /// Gives a link new wires, and a session of a node of the broker.
    fn wire_up(&mut self, link: usize, node: usize, now: Instant) {
        let (up, down) = (self.rng.u64(..), self.rng.u64(..));
        let link = &mut self.links[link];
        let mut old = Link::new(link.client, None, self.conditions, now);
        old.up = std::mem::replace(&mut link.up, Wire::new(self.conditions, up, now));
        old.down = std::mem::replace(&mut link.down, Wire::new(self.conditions, down, now));
        old.input = std::mem::take(&mut link.input);
        let session = self.engine.connect_to(now, self.nodes[node].clone());
        self.owners.insert(session, link.client);
        let client = link.client;
        let flaps = self.flapping.iter().filter(|(own, _, until)| *own == client && now < *until);
        flaps.for_each(|(_, cut, _)| link.cut(*cut));
        old.session = link.session.replace(session);
        link.check = true;
        link.flag.raise();
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
            if up { &mut link.up } else { &mut link.down }.stall(until);
        }
    }

    pub(crate) fn starve(&mut self, client: usize, until: Instant) {
        self.of(client).for_each(|link| link.starved_until = link.starved_until.max(until));
    }

    /// The drivers of a client are dropped, as when its runtime shuts down.
    pub(crate) fn kill(&mut self, client: usize) {
        self.of(client).for_each(Link::hang_up);
    }

    fn of(&mut self, client: usize) -> impl Iterator<Item = &mut Link> {
        self.links.iter_mut().filter(move |link| link.client == client && link.is_alive())
    }

    /// The broker stops, and is back after a while.
    pub(crate) fn restart(&mut self, now: Instant, down: Duration) {
        self.engine.restart(now);
        self.engine_due.set(None);
        self.down_until = now + down;
        for link in &mut self.links {
            let end = if self.rng.bool() { End::Reset } else { End::Eof };
            link.session = None;
            link.down.close(end);
            link.up.close(End::Reset);
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
            link.up.arrive(now);
            link.down.arrive(now);
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
        let links = self.links.iter().flat_map(|link| {
            let alive = link.is_alive();
            let served = link.wake_at.map(|at| at.max(link.starved_until)).filter(|_| alive);
            let starved = (alive && link.flag.is_raised()).then_some(link.starved_until);
            [link.up.next_arrival(), link.down.next_arrival(), served, starved]
        });
        links.flatten().chain(self.engine_due()).min()
    }

    pub(crate) fn client_is_ready(&self, link: usize, now: Instant) -> bool {
        let link = &self.links[link];
        link.is_alive()
            && now >= link.starved_until
            && (link.flag.is_raised()
                || link.wake_at.is_some_and(|at| at <= now)
                || link.driver.is_some() && link.reading && link.down.is_readable()
                || link.driver.is_some()
                    && link.writing
                    && (link.up.room() > 0 || link.up.is_broken()))
    }

    /// One round of what an adapter does while there is no transport.
    fn run_dialer(&mut self, index: usize, now: Instant) -> Result<(), String> {
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
            reconnector.failed(now, "not reachable");
            link.reconnector = Some(reconnector);
            return Ok(());
        }
        link.epoch += 1;
        link.driver = Some(reconnector.connected(now, None));
        let paced = link.pace.connects(now);
        self.wire_up(index, node, now);
        paced
    }

    /// One round of an adapter's loop.
    pub(crate) fn run_client(&mut self, index: usize, now: Instant) -> Result<(), String> {
        let link = &mut self.links[index];
        let Some(driver) = &mut link.driver else {
            return self.run_dialer(index, now);
        };
        link.flag.lower();
        let turn = driver.turn(now, &Waker::from(link.flag.clone()));
        (link.wake_at, link.reading, link.writing) =
            (turn.wake_at, turn.read || turn.in_doubt, turn.write);
        let waiting = driver.output().remaining();
        self.peak_output = self.peak_output.max(waiting);
        if waiting > OUTPUT_MAX {
            return Err(format!("{waiting} octets wait for the transport of a client"));
        }
        link.late = if turn.wake_at.is_some_and(|at| at <= now) { link.late + 1 } else { 0 };
        if link.late > LATE {
            return Err("a driver asks again and again for a time that has come".to_owned());
        }
        if turn.done {
            link.reconnector = link.driver.take().and_then(Driver::into_reconnector);
            link.flag.raise();
            link.end_wires();
            return Ok(());
        }
        let mut piece = driver.output().chunk();
        let before = piece.len();
        let mut moved = turn.write && link.up.write(now, &mut piece);
        let written = before - piece.len();
        driver.written(now, written);
        if turn.read || turn.in_doubt {
            moved = true;
            match link.down.read() {
                Read::Octets(octets) => {
                    // There is room for what the broker has to say.
                    link.check = true;
                    driver.input().extend_from_slice(&octets);
                    driver.received(now);
                }
                Read::End(End::Eof) => driver.eof(now),
                Read::End(End::Reset) => {
                    driver.transport_error(now, &io::ErrorKind::ConnectionReset.into());
                }
                Read::Nothing if turn.in_doubt => driver.no_input(now),
                Read::Nothing => moved = false,
            }
        }
        if !moved && turn.write && link.up.is_broken() {
            driver.transport_error(now, &io::ErrorKind::BrokenPipe.into());
            moved = true;
        }
        if moved {
            link.flag.raise();
        }
        Ok(())
    }

    pub(crate) fn server_is_ready(&self, link: usize) -> bool {
        let link = &self.links[link];
        let Some(session) = link.session else { return false };
        link.check || link.up.is_readable() && self.engine.wants_input(session)
    }

    /// The broker reads from a client, and writes to it.
    pub(crate) fn run_server(&mut self, index: usize, now: Instant) -> Result<(), String> {
        let link = &mut self.links[index];
        let Some(session) = link.session else { return Ok(()) };
        link.check = false;
        let mut heard = true;
        match self.engine.wants_input(session).then(|| link.up.read()) {
            Some(Read::Octets(octets)) => {
                link.input.extend_from_slice(&octets);
                self.engine.handle_input(session, now, &mut link.input);
            }
            Some(Read::End(end)) => {
                self.engine.handle_eof(session, now);
                link.session = None;
                link.down.close(end);
            }
            Some(Read::Nothing) | None => heard = false,
        }
        self.engine_due.set(None);
        while let Some(transmit) = self.engine.poll_transmit(session, now) {
            if !link.down.write(now, transmit) {
                break;
            }
        }
        if self.engine.is_over(session) && link.session.is_some() {
            link.session = None;
            self.engine.handle_eof(session, now);
            link.down.close(End::Eof);
            heard = true;
        }
        if heard {
            self.recheck();
        }
        match self.engine.take_violation() {
            Some(violation) => Err(format!("the broker says of a client: {violation}")),
            None => Ok(()),
        }
    }
}

impl Link {
    fn new(client: usize, driver: Option<Driver>, conditions: Conditions, now: Instant) -> Self {
        Self {
            client,
            driver,
            reconnector: None,
            epoch: 0,
            pace: Pace::new(Pace::DEFAULT, 1),
            flag: Flag::raised(),
            wake_at: None,
            reading: true,
            writing: false,
            late: 0,
            starved_until: now,
            up: Wire::new(conditions, 0, now),
            down: Wire::new(conditions, 0, now),
            session: None,
            input: BytesMut::new(),
            check: true,
        }
    }

    fn cut(&mut self, cut: Cut) {
        let end = if cut.reset { End::Reset } else { End::Eof };
        let wire = if cut.up { &mut self.up } else { &mut self.down };
        wire.cut_after(cut.after, end, cut.at_frame);
    }

    /// Returns whether there is a client, with a transport or without.
    const fn is_alive(&self) -> bool {
        self.driver.is_some() || self.reconnector.is_some()
    }

    /// The client's end is gone for good.
    fn hang_up(&mut self) {
        self.driver = None;
        self.reconnector = None;
        self.end_wires();
    }

    fn end_wires(&mut self) {
        self.up.close(End::Eof);
        self.down.close(End::Reset);
    }
}
