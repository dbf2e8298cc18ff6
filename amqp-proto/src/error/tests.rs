use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString as _;
use alloc::vec::Vec;
use core::error::Error;
use core::time::Duration;

use super::*;
use crate::config::ConfigError;
use crate::uri::UriError;
use crate::{
    ChannelId, DecodeError, DecodeErrorKind, FieldError, ReplyCode, SaslError, ShortStr, TooLong,
    Unusable,
};

const TIME: Duration = Duration::from_secs(7);

fn close(channel: Option<ChannelId>, reply_code: ReplyCode, text: &str) -> Close {
    let close = Close::local(channel, reply_code, ShortStr::truncated(text));
    Close { by: Initiator::Peer, class_id: 50, method_id: 10, ..close }
}

fn decode_error() -> DecodeError {
    DecodeError::new(DecodeErrorKind::UnknownFieldType(0x7a), "queue.declare arguments")
}

const TOO_LONG: TooLong = TooLong { what: "queue", length: 300 };

/// An error of each type, and those of them that contain another.
fn errors() -> Vec<Box<dyn Error>> {
    let refused = close(None, ReplyCode::ACCESS_REFUSED, "ACCESS_REFUSED - Login was refused");
    let not_found = close(Some(ChannelId(3)), ReplyCode::NOT_FOUND, "NOT_FOUND - no queue 'q'");
    let challenge = || SaslError::BadChallenge("no digits");
    let lost = ConnectionError::from(Violation::UnexpectedMethod { method: "basic.ack" });
    let restored = ChannelError::not_restored(ReplyCode::NOT_FOUND, "the queue is gone");
    let too_large = Misuse::TooLarge { method: "queue.declare", size: 9000, frame_max: 4096 };
    alloc::vec![
        Box::new(ConnectionError::Closed(refused.clone())),
        Box::new(ConnectionError::Decode(decode_error())),
        Box::new(lost.clone()),
        Box::new(ConnectionError::from(WrongProtocol::Tls)),
        Box::new(ConnectionError::from(LoginError::Refused(refused))),
        Box::new(ConnectionError::from(LoginError::Mechanism {
            mechanism: "PLAIN".into(),
            error: challenge()
        })),
        Box::new(ConnectionError::HandshakeTimeout {
            waiting_for: "connection.start",
            limit: TIME
        }),
        Box::new(ConnectionError::PeerSilent(TIME)),
        Box::new(ConnectionError::CloseTimeout(TIME)),
        Box::new(ConnectionError::Eof),
        Box::new(ConnectionError::Transport(TransportFailure::new("connection reset"))),
        Box::new(ConnectionError::DriverGone),
        Box::new(ConnectionError::NotConnected),
        Box::new(ConnectionError::NotRecovered {
            lost: lost.clone().into(),
            attempts: 3,
            last: "connection refused".into()
        }),
        Box::new(ConnectionError::NotRecovered {
            lost: ConnectionError::NotConnected.into(),
            attempts: 3,
            last: "connection refused".into()
        }),
        Box::new(WrongProtocol::Unknown([1; 8])),
        Box::new(LoginError::HungUp),
        Box::new(LoginError::ClientProperties(FieldError::TooLarge)),
        Box::new(challenge()),
        Box::new(SaslError::Name(TOO_LONG)),
        Box::new(Violation::RepliesNotRead { limit: 7 }),
        Box::new(decode_error()),
        Box::new(decode_error().kind()),
        Box::new(ChannelError::Closed(not_found.clone())),
        Box::new(ChannelError::from(lost.clone())),
        Box::new(restored),
        Box::new(OpenChannelError::Exhausted { channel_max: 8 }),
        Box::new(OpenChannelError::from(lost.clone())),
        Box::new(CommandError::Ended(lost.clone().into())),
        Box::new(CommandError::from(too_large)),
        Box::new(PublishError::Ended(ChannelError::Closed(not_found))),
        Box::new(PublishError::from(TOO_LONG)),
        Box::new(PublishError::from(Gate::Kept)),
        Box::new(PublishError::TimedOut { gate: Gate::Window, after: TIME }),
        Box::new(PublishError::Expired),
        Box::new(too_large),
        Box::new(TOO_LONG),
        Box::new(FieldError::from(TOO_LONG)),
        Box::new(ConfigError::from(FieldError::from(TOO_LONG))),
        Box::new(ConfigError::from(TOO_LONG)),
        Box::new(UriError::VirtualHost),
        Box::new(Unusable::BodyTooLarge { size: 8, limit: 7 }),
    ]
}

#[test]
fn a_cause_is_shown_once_and_debug_shows_all() {
    for error in errors() {
        let shown = chain(&*error).to_string();
        assert_eq!(format!("{error:?}"), shown);
        let mut next: Option<&dyn Error> = Some(&*error);
        while let Some(error) = next {
            let text = error.to_string();
            next = error.source();
            let begins = text.starts_with(|first: char| !first.is_uppercase());
            assert!(begins && !text.ends_with(['.', '\n', ' ']), "{text}");
            assert!(next.is_none_or(|cause| !text.contains(&cause.to_string())), "{text}");
            assert_eq!(shown.matches(&*text).count(), 1, "{shown}");
        }
    }
}

#[test]
fn a_session_that_never_had_a_connection_has_not_lost_it() {
    let shown = |lost: ConnectionError| {
        let (lost, last) = (lost.into(), "connection refused".into());
        ConnectionError::NotRecovered { lost, attempts: 3, last }.to_string()
    };
    let never = "could not connect (attempts: 3, last failure: connection refused)";
    assert_eq!(shown(ConnectionError::NotConnected), never);
    let lost = "connection lost and not recovered (attempts: 3, last failure: connection refused)";
    assert_eq!(shown(ConnectionError::Eof), lost);
}

/// A cause that is not shown can be reached.
#[test]
fn a_cause_is_a_source_unless_the_error_shows_it() {
    let is = |error: &dyn Error, cause: &dyn Error| {
        assert_eq!(error.source().map(ToString::to_string), Some(cause.to_string()));
    };
    let (decode, violation) = (decode_error(), Violation::BadChannel { channel: 7 });
    is(&ConnectionError::from(decode), &decode);
    is(&ConnectionError::from(violation), &violation);
    is(&ChannelError::from(ConnectionError::from(decode)), &decode);
    let lost = ConnectionError::Eof;
    let last = "refused".into();
    is(&ConnectionError::NotRecovered { lost: lost.clone().into(), attempts: 1, last }, &lost);
    is(&ConfigError::from(FieldError::TooDeep), &FieldError::TooDeep);
    let (mechanism, error) = ("PLAIN".into(), SaslError::UnexpectedChallenge);
    is(&LoginError::Mechanism { mechanism, error: error.clone() }, &error);
}

#[test]
fn all_errors_have_the_same_methods() {
    let closed = close(Some(ChannelId(3)), ReplyCode::RESOURCE_LOCKED, "held by another");
    let channel = ChannelError::Closed(closed.clone());
    for error in [
        PublishError::from(channel.clone()),
        PublishError::from(CommandError::from(channel.clone())),
    ] {
        assert_eq!(error.as_close(), Some(&closed));
        assert_eq!(error.reply_code(), Some(ReplyCode::RESOURCE_LOCKED));
        assert_eq!(error.reply_text(), Some(&closed.reply_text));
        assert_eq!(error.channel_id(), Some(ChannelId(3)));
        assert!(error.is_transient());
    }
    let misuse = PublishError::from(Misuse::NeedsConfirms);
    assert_eq!((misuse.as_close(), misuse.channel_id()), (None, None));
    assert!(!misuse.is_transient() && PublishError::from(Gate::Full).is_transient());
    assert!(OpenChannelError::InUse { number: 7 }.is_transient());
    let restored = CommandError::from(ChannelError::not_restored(ReplyCode::NOT_FOUND, "gone"));
    assert_eq!((restored.reply_code(), restored.reply_text()), (Some(ReplyCode::NOT_FOUND), None));
}
