use alloc::string::ToString as _;
use core::fmt;

use crate::method::Method;
use crate::wire::write_escaped;
use crate::{ChannelId, ReplyCode, ShortStr};

/// The close of a connection or channel: who closed it, and why.
///
/// ```
/// # use amqp_proto::Close;
/// # fn example(close: &Close) {
/// println!("{} {}, caused by {:?}", close.reply_code, close.reply_text, close.method());
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Close {
    /// The side that sent the close.
    pub by: Initiator,
    /// The closed channel, or `None` if the whole connection was closed.
    pub channel: Option<ChannelId>,
    /// The reason, as a number.
    pub reply_code: ReplyCode,
    /// The reason, in words.
    pub reply_text: ShortStr,
    /// The class of the method that caused the close, or 0.
    pub class_id: u16,
    /// The method that caused the close, or 0.
    pub method_id: u16,
}

/// The side of a connection that did something.
///
/// ```
/// # use amqp_proto::{Close, Initiator};
/// # fn example(close: &Close) {
/// match close.by {
///     Initiator::Peer => println!("the broker closed: {}", close.reply_text),
///     Initiator::Local => println!("this program closed"),
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a connection has two ends")]
pub enum Initiator {
    /// This side of the connection.
    Local,
    /// The other side.
    Peer,
}

impl Close {
    /// Creates the close of a channel, or of the connection, by this side.
    pub(crate) const fn local(
        channel: Option<ChannelId>,
        reply_code: ReplyCode,
        reply_text: ShortStr,
    ) -> Self {
        Self { by: Initiator::Local, channel, reply_code, reply_text, class_id: 0, method_id: 0 }
    }

    /// Returns the name of the method that caused the close, such as `queue.declare`, if a method did.
    #[must_use]
    pub fn method(&self) -> Option<&'static str> {
        let id = (self.class_id, self.method_id);
        Method::ALL.iter().find(|facts| facts.id == id).map(|facts| facts.name)
    }

    /// Returns whether the refused operation may succeed later. `false` if this side closed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        // RabbitMQ: the connection limits of a node, a virtual host and a user are reported with 530, and so is a virtual host
        // that does not exist. Only the text distinguishes them.
        const LIMIT: &[u8] = b"connection limit";
        let is_limit = || self.reply_text.as_bytes().windows(LIMIT.len()).any(|part| part == LIMIT);
        self.by == Initiator::Peer
            && (self.reply_code.is_transient()
                || self.reply_code == ReplyCode::NOT_ALLOWED && is_limit())
    }

    /// Displays the reason with its [hint](crate::error::Explanation::hint), without what was closed and by which side.
    ///
    /// ```
    /// # use amqp_proto::Close;
    /// # fn example(close: &Close) {
    /// println!("the broker refused it: {}", close.reason());
    /// # }
    /// ```
    #[must_use]
    pub const fn reason(&self) -> impl fmt::Display + use<'_> {
        Reason(self)
    }
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.channel {
            Some(channel) => write!(f, "channel {channel}")?,
            None => f.write_str("connection")?,
        }
        let by = match self.by {
            Initiator::Local => "this side",
            Initiator::Peer => "the peer",
        };
        write!(f, " closed by {by}: {}", self.reason())
    }
}

/// The reason of a close: `404 NOT_FOUND: no queue 'orders' in vhost '/' (caused by queue.bind); declare it first`.
struct Reason<'a>(&'a Close);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(close) = self;
        close.reply_code.fmt(f)?;
        // RabbitMQ's texts start with the name of the code, which was just written.
        let text = close.reply_text.to_string();
        let name = close.reply_code.name().unwrap_or_default();
        let text =
            text.strip_prefix(name).map_or(&*text, |rest| rest.trim_start_matches([' ', '-']));
        // More text follows, so the full stop is removed.
        let text = text.strip_suffix('.').unwrap_or(text);
        if !text.is_empty() {
            f.write_str(": ")?;
            write_escaped(text, f)?;
        }
        if let Some(method) = close.method() {
            write!(f, " (caused by {method})")?;
        }
        match close.hint() {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}
