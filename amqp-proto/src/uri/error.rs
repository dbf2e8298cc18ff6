use alloc::string::String;
use thiserror::Error;

use super::query::KNOWN;
use crate::error::debug_shows_chain;

/// The error of an invalid AMQP URI.
///
/// Neither `Display` nor `Debug` shows the password, even if a character that is not percent-encoded makes the password look like
/// another part of the URI. Hosts and ports are named by their position. The query is not quoted if it contains an unexpected
/// `@`, or if there is one before it.
///
/// ```
/// # use amqp_proto::uri::{Uri, UriError};
/// let error = "amqp://host/a/b".parse::<Uri>().unwrap_err();
/// assert_eq!(error, UriError::VirtualHost);
/// assert!(error.to_string().contains("write %2F"));
///
/// let error = "amqp://user:secret/word@host".parse::<Uri>().unwrap_err();
/// assert_eq!(error, UriError::StrayAt);
/// assert!(!error.to_string().contains("secret"));
/// ```
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UriError {
    /// The URI starts with neither `amqp://` nor `amqps://`.
    #[error("the URI does not start with amqp:// or amqps://")]
    Scheme,
    /// A space, a line break or another control character, anywhere.
    #[error(
        "the URI contains a space, a line break or a control character; remove it, or write %20 \
         for a space"
    )]
    Whitespace,
    /// There is an `@` in the virtual host; or in the query, although there is none before the host; or after the first `/`, `?`
    /// or `#` of a URI that does not parse. Most likely, a `/`, `?` or `#` is part of the user name or the password.
    #[error(
        "there is an @ after the first /, ? or #; in the user name and the password, write %2F \
         for /, %3F for ?, %23 for # and %40 for @; elsewhere, write %40 for @"
    )]
    StrayAt,
    /// A percent sign without two hexadecimal digits after it, or bytes that are not UTF-8.
    #[error(
        "the {part} is not percent-encoded correctly; write UTF-8 bytes as % and two hexadecimal \
         digits, and %25 for a %"
    )]
    Encoding {
        /// The part of the URI.
        part: &'static str,
    },
    /// A port that is not a number from 0 to 65535.
    #[error(
        "the port of host {position} is not a number from 0 to 65535; \
         if it is meant to be a password, the host is missing: write user:password@host"
    )]
    Port {
        /// The position of the host, counted from 1.
        position: usize,
    },
    /// Text in brackets that is not an IPv6 address, an IPv6 address without brackets, or text after a host that is not a port.
    #[error(
        "host {position} is neither a name nor an address; write IPv6 addresses in brackets, such as \
         [::1]:5672 or [fe80::1%25eth0]:5672"
    )]
    Host {
        /// The position of the host, counted from 1.
        position: usize,
    },
    /// One of several hosts is empty.
    #[error("host {position} is empty; name it, or remove a comma")]
    EmptyHost {
        /// The position of the host, counted from 1.
        position: usize,
    },
    /// A second slash.
    #[error("the virtual host has an unescaped slash; write %2F for a slash in its name")]
    VirtualHost,
    /// A fragment.
    #[error("the URI contains a #; write %23 instead")]
    Fragment,
    /// A parameter without a value.
    #[error("the parameter {name} has no value; write {name}=..., or remove it")]
    NoValue {
        /// Its name.
        name: String,
    },
    /// A parameter is given twice, possibly under two of its names.
    #[error("the parameter {name} is given twice, maybe under another name; remove one")]
    Duplicate {
        /// The second of the two names.
        name: String,
    },
    /// A parameter that does not exist.
    #[error("unknown parameter {name}; supported are {KNOWN}")]
    UnknownParameter {
        /// Its name.
        name: String,
    },
    /// A parameter with a value that is not allowed.
    #[error("the parameter {name} has to be {expected}, not {value:?}")]
    BadValue {
        /// Its name.
        name: &'static str,
        /// The expected form.
        expected: &'static str,
        /// The value.
        value: String,
    },
}

debug_shows_chain! { UriError }
