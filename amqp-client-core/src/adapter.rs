//! The interface for adapters: the transport's side of a connection, and the code that opens connections.
//!
//! An adapter for an async runtime implements [`Runtime`], [`Transport`] and [`Timer`], and has functions that call [`open`],
//! [`open_in_background`], [`begin`] and, with the feature `tls`, `begin_tls`. See `amqp-client-tokio` for an example. Without
//! futures, drive a [`Driver`] and, after a loss, a [`Reconnector`].

#[cfg(feature = "tls")]
pub use crate::connect::begin_tls;
pub use crate::connect::socket::{connect_socket, set_options};
pub use crate::connect::{Begun, Runtime, begin, open, open_in_background};
pub use crate::driver::{
    Drive, Driver, Filler, Phase, Reading, ReconnectTurn, Reconnector, Timer, Transport, Turn,
};
#[cfg(feature = "tls")]
pub use crate::tls::Secured;
#[cfg(feature = "blocking")]
pub use crate::wait::{Alarm, Deliveries, IoLoop, NextError, Wait, Waiter, alarmed, used};
