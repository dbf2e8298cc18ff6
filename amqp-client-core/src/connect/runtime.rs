use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::task::Waker;

use crate::config::Settings;
use crate::driver::{Timer, Transport};

/// A runtime: how it connects, waits and spawns.
pub trait Runtime: 'static {
    /// Its streams.
    type Transport: Transport + Send + 'static;
    /// The poller registration of a transport, for runtimes whose tasks have no reactor.
    type Registration;
    /// Its clock.
    type Timer: Timer + Send + 'static;

    /// Creates a timer.
    fn timer() -> Self::Timer;

    /// Resolves a host name to addresses.
    fn resolve(host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;

    /// Connects a stream with the options of the settings, as [`connect_socket`](crate::adapter::connect_socket) does.
    fn connect(
        addr: SocketAddr,
        settings: Settings,
    ) -> impl Future<Output = io::Result<(Self::Transport, Self::Registration)>> + Send;

    /// Runs a task in the background.
    fn spawn(task: impl Future<Output = ()> + Send + 'static);

    /// Runs a callback, which may block.
    fn call(callback: Box<dyn FnOnce() + Send>) {
        Self::spawn(async move { callback() });
    }

    /// Wakes the present task, but behind the tasks that already wait for its thread, so that they run first.
    fn yield_now(waker: &Waker) {
        waker.wake_by_ref();
    }

    /// Runs the loop of a connection in the background.
    ///
    /// # Errors
    /// The system's error.
    fn drive(
        _: Self::Registration,
        drive: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        Self::spawn(drive);
        Ok(())
    }
}
