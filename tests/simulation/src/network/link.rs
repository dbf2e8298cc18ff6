//! A connection: a client's driver, a session of the broker, and the wires between them.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use amqp_client_core::adapter::{Driver, Reconnector};
use amqp_test_broker::SessionId;
use bytes::{Buf as _, BytesMut};

use super::taps::Tapped;
use super::tls::{Secured, ServerEnd};
use crate::executor::Flag;
use crate::pace::Pace;
use crate::script::Cut;
use crate::wire::{Conditions, End, Read, Wire};

/// Number of times that a driver may request a wake-up in the past.
const LATE: u32 = 1000;

pub(crate) struct Link {
    pub(crate) client: usize,
    pub(super) driver: Option<Driver>,
    /// The driver inside of the loop that users run, if there is TLS.
    pub(super) secured: Option<Box<Secured>>,
    /// The work of the driver while there is no transport.
    pub(super) reconnector: Option<Reconnector>,
    /// Number of transports that it has had.
    pub(super) epoch: usize,
    pub(super) pace: Pace,
    pub(super) flag: Arc<Flag>,
    pub(super) wake_at: Option<Instant>,
    reading: bool,
    writing: bool,
    late: u32,
    /// The driver gets no time before.
    pub(super) starved_until: Instant,
    pub(super) wires: Rc<RefCell<Wires>>,
    pub(super) session: Option<SessionId>,
    /// The broker's end of TLS.
    pub(super) server: Option<ServerEnd>,
    pub(super) input: BytesMut,
    /// The broker may have something to say.
    pub(super) check: bool,
    pub(super) tapped: Option<Tapped>,
}

/// Both directions of a transport.
#[derive(Debug)]
pub(super) struct Wires {
    pub(super) up: Wire,
    pub(super) down: Wire,
    /// The client has ended the transport in an orderly way, and not just dropped it.
    pub(super) closed: bool,
    /// The broker's end has ended its TLS session: no more bytes follow those in flight.
    pub(super) said_all: bool,
}

impl Wires {
    pub(super) fn new(
        conditions: Conditions,
        (up, down): (u64, u64),
        tls: bool,
        now: Instant,
    ) -> Self {
        Self {
            up: Wire::new(conditions, up, tls, now),
            down: Wire::new(conditions, down, tls, now),
            closed: false,
            said_all: false,
        }
    }

    pub(super) fn arrive(&mut self, now: Instant) {
        self.up.arrive(now);
        self.down.arrive(now);
    }

    fn end(&mut self) {
        self.up.close(End::Eof);
        self.down.close(End::Reset);
    }
}

impl Link {
    pub(super) fn new(
        client: usize,
        driver: Option<Driver>,
        conditions: Conditions,
        now: Instant,
    ) -> Self {
        Self {
            client,
            driver,
            secured: None,
            reconnector: None,
            epoch: 0,
            pace: Pace::new(Pace::DEFAULT, 1),
            flag: Flag::raised(),
            wake_at: None,
            reading: true,
            writing: false,
            late: 0,
            starved_until: now,
            wires: Rc::new(RefCell::new(Wires::new(conditions, (0, 0), false, now))),
            session: None,
            server: None,
            input: BytesMut::new(),
            check: true,
            tapped: None,
        }
    }

    /// Puts the driver into the loop that users run, inside of TLS.
    pub(super) fn secure(&mut self, seed: u64) {
        let driver = self.driver.take();
        self.secured = driver.map(|own| Box::new(Secured::new(own, self.wires.clone(), seed)));
    }

    pub(super) fn cut(&mut self, cut: Cut) {
        let end = if cut.reset { End::Reset } else { End::Eof };
        let wires = &mut *self.wires.borrow_mut();
        let wire = if cut.up { &mut wires.up } else { &mut wires.down };
        wire.cut_after(cut.after, end, cut.at_frame);
    }

    /// Returns whether there is a client, with a transport or without.
    pub(super) const fn is_alive(&self) -> bool {
        self.driver.is_some() || self.secured.is_some() || self.reconnector.is_some()
    }

    /// The client's side has ended.
    pub(super) fn hang_up(&mut self) {
        self.driver = None;
        self.secured = None;
        self.reconnector = None;
        self.wires.borrow_mut().end();
    }

    /// Returns when something happens here next that only takes time.
    pub(super) fn next(&self) -> impl Iterator<Item = Option<Instant>> + use<> {
        let (wires, alive) = (self.wires.borrow(), self.is_alive());
        let served = self.wake_at.map(|at| at.max(self.starved_until)).filter(|_| alive);
        let starved = (alive && self.flag.is_raised()).then_some(self.starved_until);
        [wires.up.next_arrival(), wires.down.next_arrival(), served, starved].into_iter()
    }

    pub(super) fn is_ready(&self, now: Instant) -> bool {
        let wires = self.wires.borrow();
        let reads = self.reading && wires.down.is_readable();
        let writes = self.writing && (wires.up.room() > 0 || wires.up.is_broken());
        self.is_alive()
            && now >= self.starved_until
            && (self.flag.is_raised()
                || self.wake_at.is_some_and(|at| at <= now)
                || self.driver.is_some() && (reads || writes)
                || self.secured.as_ref().is_some_and(|secured| secured.is_woken(now)))
    }

    /// One round of the loop of an adapter that moves the bytes itself. Returns how much waited for the transport.
    pub(super) fn run_driver(&mut self, now: Instant) -> Result<usize, String> {
        let Some(driver) = &mut self.driver else { return Ok(0) };
        self.flag.lower();
        let turn = driver.turn(now, &Waker::from(self.flag.clone()));
        (self.wake_at, self.reading, self.writing) = (turn.wake_at, turn.reads(), turn.writes());
        let waiting = driver.output().remaining();
        self.late = if turn.wake_at.is_some_and(|at| at <= now) { self.late + 1 } else { 0 };
        if self.late > LATE {
            return Err("a driver asks again and again for a time that has come".to_owned());
        }
        if turn.is_done() {
            self.reconnector = self.driver.take().and_then(Driver::into_reconnector);
            self.flag.raise();
            self.wires.borrow_mut().end();
            return Ok(waiting);
        }
        let wires = &mut *self.wires.borrow_mut();
        let mut piece = driver.output().chunk();
        let before = piece;
        let mut moved = turn.writes() && wires.up.write(now, &mut piece);
        let written = before.len() - piece.len();
        self.tapped.iter_mut().for_each(|tapped| tapped.sent(&before[..written]));
        driver.written(now, written);
        if turn.reads() {
            moved = true;
            match wires.down.read(usize::MAX) {
                Read::Bytes(bytes) => {
                    // There is room for the broker's output.
                    self.check = true;
                    self.tapped.iter_mut().for_each(|tapped| tapped.received(&bytes));
                    driver.input().extend_from_slice(&bytes);
                    driver.received(now);
                }
                Read::End(End::Eof) => driver.eof(now),
                Read::End(End::Reset) => {
                    driver.transport_error(now, &io::ErrorKind::ConnectionReset.into());
                }
                Read::Nothing if turn.checks_peer() => driver.no_input(now),
                Read::Nothing => moved = false,
            }
        }
        if !moved && turn.writes() && wires.up.is_broken() {
            driver.transport_error(now, &io::ErrorKind::BrokenPipe.into());
            moved = true;
        }
        if moved {
            self.flag.raise();
        }
        Ok(waiting)
    }

    /// Polls the loop that users run, once. Returns how much waits for the transport.
    pub(super) fn run_secured(&mut self, now: Instant) -> Result<usize, String> {
        let Some(mut secured) = self.secured.take() else { return Ok(0) };
        self.flag.lower();
        let polled = secured.run(now, &Waker::from(self.flag.clone()))?;
        self.wake_at = secured.wake_at();
        self.check |= polled.has_read;
        self.late = if polled.is_late { self.late + 1 } else { 0 };
        if self.late > LATE {
            return Err("a loop asks again and again for a time that has come".to_owned());
        }
        let waiting = secured.waiting();
        if polled.is_done {
            self.reconnector = secured.into_reconnector();
            self.flag.raise();
            self.wires.borrow_mut().end();
        } else {
            self.secured = Some(secured);
        }
        Ok(waiting)
    }

    /// Nothing is in flight. The input of one end of TLS must have come out of the other.
    pub(super) fn rest(&self, now: Instant) -> Result<(), String> {
        let (Some(secured), Some(server)) = (&self.secured, &self.server) else { return Ok(()) };
        if now < self.starved_until || self.session.is_none() || server.is_handshaking() {
            return Ok(());
        }
        let wires = self.wires.borrow();
        let (given, taken) = (secured.accepted(), server.received());
        let down_idle = wires.down.is_idle() && server.is_drained();
        // In TLS 1.2, the broker's end is the first to have all of the handshake.
        if wires.up.is_idle() && (down_idle || taken > 0) && given != taken {
            return Err(format!("a client's TLS keeps {} bytes to itself", given - taken));
        }
        let (given, taken) = (server.sent(), secured.handed_over());
        if down_idle && secured.is_hungry() && given != taken {
            return Err(format!("a client's TLS keeps {} bytes from it", given - taken));
        }
        Ok(())
    }
}
