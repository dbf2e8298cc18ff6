//! The broker's end of links.

use std::time::Instant;

use super::Network;
use super::link::{Link, Wires};
use super::tls::{Farewell, ServerEnd};
use crate::wire::{End, Read, Wire};

impl Network {
    pub(crate) fn server_is_ready(&self, link: usize) -> bool {
        let link = &self.links[link];
        let Some(session) = link.session else { return false };
        link.check || link.wires.borrow().up.is_readable() && self.engine.wants_input(session)
    }

    /// The broker reads from a client, and writes to it.
    pub(crate) fn run_server(&mut self, index: usize, now: Instant) -> Result<(), String> {
        if self.serve(index, now)? {
            self.recheck();
        }
        match self.engine.take_violation() {
            Some(violation) => Err(format!("the broker says of a client: {violation}")),
            None => Ok(()),
        }
    }

    /// Returns whether the broker may have something to say to others.
    fn serve(&mut self, index: usize, now: Instant) -> Result<bool, String> {
        let Link { session, wires, server, input, check, .. } = &mut self.links[index];
        let Some(id) = *session else { return Ok(false) };
        *check = false;
        let mut heard = true;
        let Wires { up, down, closed, said_all } = &mut *wires.borrow_mut();
        match self.engine.wants_input(id).then(|| up.read(usize::MAX)) {
            Some(Read::Bytes(bytes)) => {
                match server {
                    Some(server) => server.receive(&bytes, input)?,
                    None => input.extend_from_slice(&bytes),
                }
                self.engine.handle_input(id, now, input);
            }
            Some(Read::End(end)) => {
                if let Some(server) = server.as_mut().filter(|_| *closed && end == End::Eof) {
                    server.judge_end()?;
                }
                self.engine.handle_eof(id, now);
                *session = None;
                down.close(end);
            }
            Some(Read::Nothing) | None => heard = false,
        }
        self.engine_due.set(None);
        let goes_on = |server: &mut Option<ServerEnd>, down: &mut Wire| match server {
            Some(server) => server.flush(now, down),
            None => Ok(true),
        };
        while goes_on(server, down)? {
            let Some(transmit) = self.engine.poll_transmit(id, now) else { break };
            match server {
                Some(server) => server.take(transmit)?,
                None if down.write(now, transmit) => {}
                None => break,
            }
        }
        if self.engine.is_over(id) && session.is_some() {
            *session = None;
            self.engine.handle_eof(id, now);
            let farewell = server.as_mut().map(|server| server.finish(now, down)).transpose()?;
            if farewell != Some(Farewell::HalfClosed) {
                down.close(End::Eof);
            }
            heard = true;
        }
        *said_all = server.as_ref().is_some_and(ServerEnd::has_said_all);
        Ok(heard)
    }
}
