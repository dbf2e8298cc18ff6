//! Brokers that tests of programs kill.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]

use std::io;

use amqp_test_broker::Broker;
use amqp_testkit::RabbitMq;

/// A broker that can be killed.
pub trait Site {
    fn uri(&self) -> String;
    /// Makes the queues that are declared so far survive kills.
    fn flush(&self) -> io::Result<()>;
    fn kill(&self) -> io::Result<()>;
    /// Starts it again. A broker that runs is stopped in good order before.
    fn restart(&self) -> io::Result<()>;
}

impl Site for RabbitMq {
    fn uri(&self) -> String {
        self.amqp_uri()
    }

    fn flush(&self) -> io::Result<()> {
        Self::flush(self)
    }

    fn kill(&self) -> io::Result<()> {
        Self::kill(self)
    }

    fn restart(&self) -> io::Result<()> {
        Self::restart(self)
    }
}

impl Site for Broker {
    fn uri(&self) -> String {
        Self::uri(self)
    }

    /// It forgets no durable queue.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    /// It has no process to kill. It cuts its connections as if it had been killed, and does not listen.
    fn kill(&self) -> io::Result<()> {
        Self::restart(self);
        self.stop();
        Ok(())
    }

    fn restart(&self) -> io::Result<()> {
        self.stop();
        self.start_again()
    }
}
