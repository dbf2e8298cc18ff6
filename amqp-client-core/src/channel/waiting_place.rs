use std::task::Waker;

use amqp_proto::Gate;

use super::Channel;
use crate::options::Window;
use crate::state::{State, Task, Ticket, WaiterId};

/// The queues in which a future waits until it may publish. Dropping this leaves all of them, and calls the next.
pub(crate) struct WaitingPlace<'a> {
    channel: &'a Channel,
    /// Its place among those that wait for a gate.
    gate: Option<GatePlace>,
    /// Its place in the line for kept messages. Room that was granted stays granted while it waits for the outgoing buffer: if it
    /// were returned, two publishers that need both would pass the room to each other for as long as neither gets both.
    kept: Option<Ticket>,
    /// Its place among those that wait for room in the window. Room that was granted stays granted while a gate is shut.
    window: Option<(Window, Ticket)>,
}

/// The size of a message that waits, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// Counts for a window.
    pub(super) body: usize,
    /// Counts for the outgoing buffer or for kept messages. If the overhead of small messages did not count, room for ten of them
    /// would wake a hundred. Zero if the message waits for neither.
    pub(super) whole: usize,
}

enum GatePlace {
    Connection(WaiterId),
    Channel(WaiterId),
    Full(Ticket),
}

impl<'a> WaitingPlace<'a> {
    pub(crate) const fn new(channel: &'a Channel) -> Self {
        Self { channel, gate: None, kept: None, window: None }
    }

    /// Its place in the line for the outgoing buffer.
    pub(super) const fn full(&self) -> Option<Ticket> {
        match self.gate {
            Some(GatePlace::Full(ticket)) => Some(ticket),
            _ => None,
        }
    }

    /// Its place in the line for kept messages.
    pub(super) const fn kept(&self) -> Option<Ticket> {
        self.kept
    }

    /// Its place in the line for the window.
    pub(super) fn window(&self) -> Option<Ticket> {
        self.window.map(|(_, ticket)| ticket)
    }

    /// Bytes of messages that wait ahead of this one.
    pub(super) fn bytes_ahead(&self, state: &mut State) -> usize {
        // A message that waits for the outgoing buffer has its room among kept messages already.
        let line = match (&self.gate, self.kept) {
            (Some(GatePlace::Full(ticket)), _) => state.full.bytes_ahead(*ticket),
            (_, Some(ticket)) => state.kept.bytes_ahead(ticket),
            (_, None) => 0,
        };
        let window = self.window.and_then(|(window, ticket)| {
            let channel = state.channel(self.channel.place())?;
            let (_, line) = channel.windows.iter().find(|(of, _)| *of == window)?;
            Some(line.bytes_ahead(ticket))
        });
        line.saturating_add(window.unwrap_or_default())
    }

    /// Waits with a message of that size until whatever holds it up may have changed.
    pub(super) fn wait(
        &mut self,
        state: &mut State,
        by: Gate,
        window: Option<Window>,
        size: Size,
        task: &mut Task<'_>,
    ) {
        let place = self.channel.place();
        match by {
            Gate::Window => {
                self.leave_gates(state, task);
                let Some(window) = window else { return };
                let mut ticket = self.window();
                if let Some(channel) = state.channel(place) {
                    channel.wait_for_room(window, &mut ticket, size.body, task);
                }
                self.window = ticket.map(|ticket| (window, ticket));
            }
            Gate::Full => {
                let mut ticket = self.full();
                if ticket.is_none() {
                    task.bury(self.leave_gate(state));
                }
                state.full.wait(&mut ticket, size.whole, task);
                self.gate = ticket.map(GatePlace::Full);
            }
            Gate::Kept => {
                // Room in the outgoing buffer is of no use to it yet.
                task.bury(self.leave_gate(state));
                if self.kept.is_none() {
                    state.log_kept_full();
                }
                state.kept.wait(&mut self.kept, size.whole, task);
            }
            Gate::Blocked => {
                let mut id = match self.gate {
                    Some(GatePlace::Connection(id)) => Some(id),
                    _ => None,
                };
                if id.is_none() {
                    self.leave_gates(state, task);
                }
                state.gate.register(&mut id, task);
                self.gate = id.map(GatePlace::Connection);
            }
            _ => {
                let mut id = match self.gate {
                    Some(GatePlace::Channel(id)) => Some(id),
                    _ => None,
                };
                if id.is_none() {
                    self.leave_gates(state, task);
                }
                if let Some(channel) = state.channel(place) {
                    channel.gate.register(&mut id, task);
                }
                self.gate = id.map(GatePlace::Channel);
            }
        }
    }

    /// Leaves, after publishing or instead of it, and calls the next. Returns wakers, to be dropped behind the lock.
    pub(super) fn leave(&mut self, state: &mut State) -> [Option<Waker>; 3] {
        let (gate, kept) = (self.leave_gate(state), self.leave_kept(state));
        let window = self
            .window
            .take()
            .and_then(|(window, ticket)| state.leave_window(self.channel.place(), window, ticket));
        [gate, kept, window]
    }

    /// Leaves all lines but that of the window.
    fn leave_gates(&mut self, state: &mut State, task: &mut Task<'_>) {
        task.bury(self.leave_gate(state));
        task.bury(self.leave_kept(state));
    }

    fn leave_kept(&mut self, state: &mut State) -> Option<Waker> {
        let waker = state.kept.leave(self.kept.take()?);
        state.call_publishers();
        waker
    }

    fn leave_gate(&mut self, state: &mut State) -> Option<Waker> {
        match self.gate.take()? {
            GatePlace::Connection(id) => state.gate.remove(id),
            GatePlace::Channel(id) => {
                state.channel(self.channel.place()).and_then(|channel| channel.gate.remove(id))
            }
            GatePlace::Full(ticket) => {
                let waker = state.full.leave(ticket);
                state.call_publishers();
                waker
            }
        }
    }

    pub(super) const fn is_nowhere(&self) -> bool {
        self.gate.is_none() && self.kept.is_none() && self.window.is_none()
    }
}

impl Drop for WaitingPlace<'_> {
    fn drop(&mut self) {
        if !self.is_nowhere() {
            // Declared before the lock is taken, and so dropped after its release.
            let _wakers;
            let mut state = self.channel.lock();
            _wakers = self.leave(&mut state);
        }
    }
}
