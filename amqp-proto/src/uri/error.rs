use alloc::string::String;
use thiserror::Error;

use super::query::KNOWN;
use crate::error::debug_shows_chain;

/// The error of an invalid AMQP URI.
///
/// Neither `Display` nor `Debug` shows the password that one logs in with, even where a character
/// that is not percent-encoded makes it look like another part: hosts and ports are named by their
/// place, and nothing of the query is quoted while an `@` stands in it or before it where none should.
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
    /// There is an `@` in the virtual host; or in the query, where none stands before the host; or behind the first `/`, `?`
    /// or `#` of something that does not parse. Most likely one of these is part of the user name or the password.
    #[error(
        "there is an @ after the first /, ? or #; in the user name and the password, write %2F \
         for /, %3F for ?, %23 for # and %40 for @; elsewhere, write %40 for @"
    )]
    StrayAt,
    /// A percent sign without two hexadecimal digits behind it, or bytes that are not UTF-8.
    #[error(
        "the {part} is not percent-encoded correctly; write UTF-8 bytes as % and two hexadecimal \
         digits, and %25 for a %"
    )]
    Encoding {
        /// Which part.
        part: &'static str,
    },
    /// A port that is no number from 0 to 65535.
    #[error(
        "the port of host {position} is not a number from 0 to 65535; \
         if it is meant to be a password, the host is missing: write user:password@host"
    )]
    Port {
        /// Which of the hosts, counted from 1.
        position: usize,
    },
    /// Something in brackets that is no IPv6 address, an IPv6 address without brackets, or
    /// something but a port behind a host.
    #[error(
        "host {position} is neither a name nor an address; write IPv6 addresses in brackets, such as \
         [::1]:5672 or [fe80::1%25eth0]:5672"
    )]
    Host {
        /// Which of the hosts, counted from 1.
        position: usize,
    },
    /// One of several hosts is empty.
    #[error("host {position} is empty; name it, or remove a comma")]
    EmptyHost {
        /// Which of the hosts, counted from 1.
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
    /// A parameter that stands there twice, be it under two of its names.
    #[error("the parameter {name} is given twice, maybe under another name; remove one")]
    Duplicate {
        /// Its name, as it stands there the second time.
        name: String,
    },
    /// A parameter that does not exist.
    #[error("unknown parameter {name}; supported are {KNOWN}")]
    UnknownParameter {
        /// Its name.
        name: String,
    },
    /// A parameter with a value that makes no sense.
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
