//! Careful channels take turns after the broker has closed the connection for a publish.
//!
//! If each channel sent a group at once, the next close would leave as many suspects as channels. So one channel sends its group,
//! and after it a request: `confirm.select`, which changes nothing on a channel in confirm mode. The broker processes messages
//! and requests of a channel in order, so its reply shows that no message of the group closes the connection. Then the next
//! channel has its turn. No turn waits for confirms: a queue that does not confirm delays the messages of its own channel only.
//!
//! A close during a turn leaves the messages of that turn, and those that were published for the first time meanwhile.

use alloc::vec::Vec;

use crate::method::ConfirmSelect;
use crate::session::context::{Context, Turn};
use crate::{ChannelId, RequestId};

impl Context {
    /// Returns whether the channel may not send kept messages now, because it is the turn of a channel whose message may
    /// close the connection.
    pub(crate) fn waits_for_turn(&mut self, id: ChannelId) -> bool {
        self.turn.is_some() && self.channels.get_mut(id).is_some_and(|own| own.takes_turns())
    }

    /// The channel has sent a group: nothing else is sent with care before the broker has looked at it.
    pub(crate) fn take_turn(&mut self, id: ChannelId) {
        debug_assert!(self.turn.is_none(), "one channel at a time");
        let Ok(mut channel) = self.connection.channel(id) else { return };
        // This fails if the channel has ended, and an event reports that.
        let probe = channel.request(ConfirmSelect { no_wait: false }).ok();
        self.turn = probe.map(|probe| Turn { channel: id, probe });
    }

    /// Returns whether the reply ends a turn.
    pub(crate) fn judged(&mut self, request: RequestId) -> bool {
        let turn = self.turn.take_if(|turn| turn.probe == request);
        let judged = turn.is_some();
        if let Some(turn) = turn {
            self.next_turn(turn.channel);
        }
        judged
    }

    /// The channel is closed, and with it its turn.
    pub(crate) fn end_turn(&mut self, id: ChannelId) {
        if self.turn.take_if(|turn| turn.channel == id).is_some() {
            self.next_turn(id);
        }
    }

    /// Starts the turn of the next channel that has something to send; the last one again when all others have had their turn.
    fn next_turn(&mut self, last: ChannelId) {
        let waiting = self.channels.iter().filter(|(_, own)| own.attached && own.takes_turns());
        let (mut order, first): (Vec<_>, Vec<_>) =
            waiting.map(|(id, _)| id).partition(|id| *id > last);
        order.extend(first);
        for id in order {
            self.resend(id);
            if self.turn.is_some() {
                return;
            }
        }
    }
}
