//! The base of the test suites of this workspace. Everything is synchronous, uses `std` threads and processes, knows nothing of
//! the protocol crates, and works on Unix only.
//!
//! - [`rabbitmq`]: private throw-away RabbitMQ nodes, with faults: kill, restart, pause.
//! - [`peer`]: a scripted server that speaks raw bytes, to play a broken or hostile broker.
//! - [`proxy`]: a TCP proxy that cuts, resets, stalls, slices and refuses.
//! - [`alloc`]: how much a piece of code allocates (feature `alloc`, on by default).
//! - [`wait`]: waiting for a condition with a deadline, instead of sleeping.
//! - [`net`]: local ports that are safe to use for a server.
//!
//! The program `with-rabbitmq` runs a command with a temporary node. The script of the same name, in the directory of this crate,
//! first installs RabbitMQ if it can.

#[cfg(feature = "alloc")]
pub mod alloc;
pub mod net;
pub mod peer;
pub mod proxy;
pub mod rabbitmq;
pub mod wait;

pub use peer::{PeerConnection, RawFrame, ScriptedPeer};
pub use proxy::Proxy;
pub use rabbitmq::RabbitMq;
pub use wait::wait_until;

/// The examples of the guides and READMEs are compiled here, because this crate depends on all crates that they mention.
#[cfg(doctest)]
mod guides {
    #[doc = include_str!("../../README.md")]
    struct Readme;
    #[doc = include_str!("../../amqp-proto/README.md")]
    struct Proto;
    #[doc = include_str!("../../amqp-client-tokio/README.md")]
    struct Tokio;
    #[doc = include_str!("../../amqp-client-smol/README.md")]
    struct Smol;
    #[doc = include_str!("../../amqp-client-blocking/README.md")]
    struct Blocking;
    #[doc = include_str!("../broker/README.md")]
    struct TestBroker;
    #[doc = include_str!("../../docs/coming-from/lapin.md")]
    struct ComingFromLapin;
    #[doc = include_str!("../../docs/coming-from/amqprs.md")]
    struct ComingFromAmqprs;
    #[doc = include_str!("../../docs/coming-from/aio-pika-and-pika.md")]
    struct ComingFromPika;
    #[doc = include_str!("../../docs/coming-from/java.md")]
    struct ComingFromJava;
}
