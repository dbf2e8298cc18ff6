//! One logical connection over many transports.
//!
//! A [`Session`] is driven like a [`Connection`]. When its transport is lost, it requests another one to a given node at a given
//! time, and restores its state on the new transport: exchanges, queues, bindings, channels with their modes and prefetch limits,
//! consumers, and kept unconfirmed messages. Numbers of channels, requests, consumers, publishes and deliveries stay the same, so the
//! application can continue to use them.
//!
//! # Driving a session
//!
//! In addition to driving a connection, the loop follows [`Session::poll_reconnect`]: [`Reconnect::Wait`], then
//! [`Reconnect::Connect`] to a node. It reports the result to [`handle_transport`](Session::handle_transport) or
//! [`handle_unreachable`](Session::handle_unreachable). While there is no transport, there are still events and timers.
//!
//! # What a loss means
//!
//! - Pending requests fail ([`ChannelEvent::Failed`]): their outcome is unknown. Requests that are made while there is no connection
//!   wait for the next one.
//! - Unconfirmed publishes fail with [`ChannelEvent::Unconfirmed`], except [kept](SessionChannel::publish_kept) messages, which are sent
//!   again.
//! - Unacknowledged deliveries are requeued and delivered again. Acknowledging the earlier deliveries fails with
//!   [`Misuse::StaleDelivery`].
//! - A transaction that has begun is rolled back, and its commit fails.
//! - Everything is restored in two round trips after the handshake, however much there is. Each declaration that the broker refuses
//!   costs another one. If the broker closes a channel over a consumer or another of its requests, the channel is opened again, and
//!   its requests are sent one by one. [`SessionEvent::Recovered`](crate::SessionEvent::Recovered) reports the result.
//!
//! If the connection is lost during recovery, recovery starts over.
//!
//! # Consumers that take nothing
//!
//! A loop that stops reading because one consumer takes nothing stops all consumers. [`Session::pause_consumer`] stops that
//! consumer only: its messages stay in the broker until [`Session::resume_consumer`].
//!
//! [`Connection`]: crate::Connection
//! [`ChannelEvent::Failed`]: crate::ChannelEvent::Failed
//! [`ChannelEvent::Unconfirmed`]: crate::ChannelEvent::Unconfirmed
//! [`Misuse::StaleDelivery`]: crate::Misuse::StaleDelivery

mod channel;
mod channels;
mod context;
mod discard;
mod drive;
mod endings;
mod events;
mod nodes;
mod noted;
mod outage;
mod partial;
mod pause;
mod phase;
mod policy;
mod reconnect;
mod record;
mod recovery;
mod reopen;
mod report;
mod resend;
mod secret;
mod settling;
mod state;
mod topology;

pub use channel::SessionChannel;
pub use discard::Discarded;
pub use policy::{Locked, OnCancel, Recovery};
pub use reconnect::Reconnect;
pub use report::{Entity, RecoveryReport};
pub use state::Session;
