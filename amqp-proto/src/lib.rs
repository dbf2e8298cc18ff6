//! AMQP 0-9-1.
pub mod method;
mod properties;
pub mod wire;
pub use properties::*;
pub use wire::*;
pub enum Reply {
    Method(method::Method),
}
pub enum GetReply {}
impl method::FromReply for GetReply {
    fn from_reply(r: Reply) -> Result<Self, Reply> {
        Err(r)
    }
}
