use std::fmt;

use amqp_proto::ShortStr;

/// The name of a queue or an exchange, which is one of a virtual host. Shown as RabbitMQ's texts show it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) virtual_host: ShortStr,
    pub(crate) text: ShortStr,
}

impl Name {
    /// A name in the virtual host `/`.
    pub(crate) fn in_default(text: impl AsRef<[u8]>) -> Self {
        Self { virtual_host: ShortStr::truncated("/"), text: short(text) }
    }

    /// Another name in the same virtual host.
    pub(crate) fn beside(&self, text: ShortStr) -> Self {
        Self { virtual_host: self.virtual_host.clone(), text }
    }

    pub(crate) fn is_reserved(&self) -> bool {
        self.text.as_bytes().starts_with(b"amq.")
    }
}

/// Returns a name from outside, up to its 255th byte.
pub(crate) fn short(name: impl AsRef<[u8]>) -> ShortStr {
    let name = name.as_ref();
    ShortStr::named("name", name.get(..255).unwrap_or(name)).unwrap_or_default()
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' in vhost '{}'", self.text, self.virtual_host)
    }
}
