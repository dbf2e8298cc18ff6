//! Errors are shown as `Display` and `source` have them: each cause once, and all of them in `Debug`.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use amqp_client_core::error::chain;
use amqp_client_core::proto::uri::Endpoint;
use amqp_client_core::proto::{
    ConnectionError, FieldError, OpenChannelError, ReplyCode, TooLong, Violation,
};
use amqp_client_core::tls::{Pem, TlsError};
use amqp_client_core::{
    CallError, ChannelError, ConfirmError, ConnectError, ConnectStep, ConsumerEnd, Gate, Misuse,
    PublishError, SendError, Settings, TryPublishError,
};

const TIME: Duration = Duration::from_secs(7);

fn reset() -> Arc<io::Error> {
    Arc::new(io::Error::from(io::ErrorKind::ConnectionReset))
}

fn violation() -> ConnectionError {
    Violation::UnexpectedMethod { method: "basic.ack" }.into()
}

fn errors() -> Vec<Box<dyn Error>> {
    let ended = ChannelError::from(violation());
    let published = PublishError::from(ended.clone());
    let endpoint = || Endpoint::new("rabbit-1", 5672);
    let setting = Settings::default().delivery_budget(0).check().expect_err("it cannot work");
    vec![
        Box::new(CallError::from(ended.clone())),
        Box::new(CallError::Argument { name: "x".to_owned(), error: FieldError::TooDeep }),
        Box::new(CallError::from(Misuse::HasNoReply("queue.declare"))),
        Box::new(CallError::TimedOut { method: "queue.declare", after: TIME }),
        Box::new(CallError::NoConsumer),
        Box::new(CallError::from(OpenChannelError::NotOpenYet)),
        Box::new(CallError::from(TooLong { what: "queue", length: 300 })),
        Box::new(published.clone()),
        Box::new(PublishError::TimedOut { gate: Gate::Window, after: TIME }),
        Box::new(TryPublishError { body: Some("secret"), error: published.clone() }),
        Box::new(ConfirmError::Nacked),
        Box::new(ConfirmError::Unconfirmed(ended.clone())),
        Box::new(ConfirmError::NotResent(published.clone())),
        Box::new(ConfirmError::TimedOut { after: TIME }),
        Box::new(SendError::from(published)),
        Box::new(SendError::from(ConfirmError::Unconfirmed(ended.clone()))),
        Box::new(ConsumerEnd::Cancelled),
        Box::new(ConsumerEnd::Ended(ended)),
        Box::new(setting.clone()),
        Box::new(ConnectError::from(setting)),
        Box::new(ConnectError::NoEndpoint),
        Box::new(ConnectError::NoToken(reset())),
        Box::new(ConnectError::Unreachable {
            endpoint: endpoint(),
            step: ConnectStep::Tcp,
            error: reset(),
        }),
        Box::new(ConnectError::TimedOut {
            endpoint: endpoint(),
            step: ConnectStep::Tls,
            after: TIME,
        }),
        Box::new(ConnectError::Refused {
            endpoint: endpoint(),
            step: ConnectStep::Sasl,
            error: violation(),
        }),
        Box::new(ConnectError::EmptyVirtualHost { endpoint: endpoint(), error: violation() }),
        Box::new(TlsError::NotBuilt),
        Box::new(TlsError::Unreadable {
            what: "certificates",
            from: Pem::file("ca.pem"),
            error: reset(),
        }),
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
            assert!(begins && !text.ends_with(['.', '\n', ' ']) || text == reset().to_string());
            assert!(next.is_none_or(|cause| !text.contains(&cause.to_string())), "{text}");
            assert_eq!(shown.matches(&*text).count(), 1, "{shown}");
        }
    }
}

#[test]
fn a_cause_is_a_source_unless_the_error_shows_it() {
    let is = |error: &dyn Error, cause: &dyn Error| {
        assert_eq!(error.source().map(ToString::to_string), Some(cause.to_string()));
    };
    let endpoint = Endpoint::new("rabbit-1", 5672);
    let unreachable = ConnectError::Unreachable {
        endpoint: endpoint.clone(),
        step: ConnectStep::Dns,
        error: reset(),
    };
    is(&unreachable, &reset());
    is(
        &ConnectError::Refused { endpoint, step: ConnectStep::Tune, error: violation() },
        &violation(),
    );
    is(&ConnectError::NoToken(reset()), &reset());
    let ended = ChannelError::from(violation());
    is(&ConfirmError::Unconfirmed(ended.clone()), &ended);
    is(&ConfirmError::NotResent(Misuse::NeedsConfirms.into()), &Misuse::NeedsConfirms);
    let argument = CallError::Argument { name: "x".to_owned(), error: FieldError::NotFinite };
    is(&argument, &FieldError::NotFinite);
}

/// A program whose `main` returns an error prints its `Debug`.
#[test]
fn an_error_returned_from_main_prints_its_causes() {
    let endpoint = Endpoint::new("rabbit-1", 5672);
    let error = ConnectError::Unreachable { endpoint, step: ConnectStep::Tcp, error: reset() };
    assert_eq!(
        format!("{error:?}"),
        format!("cannot reach rabbit-1:5672 (step: TCP): {}", reset())
    );
    let error = TryPublishError { body: Some("body"), error: Gate::Full.into() };
    assert_eq!(format!("{error:?}"), "not sent: the outgoing buffer is full");
}

#[test]
fn all_errors_have_the_same_methods() {
    let endpoint = Endpoint::new("rabbit-1", 5672);
    let refused = ConnectError::TimedOut { endpoint, step: ConnectStep::Dns, after: TIME };
    assert!(refused.is_transient() && refused.reply_code().is_none());
    let ended = ChannelError::NotRestored { reply_code: ReplyCode::NOT_FOUND, why: "gone".into() };
    let code = Some(ReplyCode::NOT_FOUND);
    assert_eq!(CallError::from(ended.clone()).reply_code(), code);
    assert_eq!(ConsumerEnd::from(ended.clone()).reply_code(), code);
    assert_eq!(ConfirmError::Unconfirmed(ended.clone()).reply_code(), code);
    let sent = SendError::from(PublishError::from(ended));
    assert_eq!((sent.reply_code(), sent.reply_text(), sent.channel_id()), (code, None, None));
    assert!(!sent.is_transient() && SendError::from(ConfirmError::Nacked).is_transient());
}

#[test]
fn a_system_without_certificates_is_reported_with_and_without_a_reason() {
    let text = |reason: &str| TlsError::NoSystemRoots(reason.to_owned()).to_string();
    let advice = "set cacertfile in the URI, or TlsOptions::trust";
    assert_eq!(text(""), format!("the system has no certificates to trust; {advice}"));
    assert_eq!(text("x"), format!("the system has no certificates to trust (x); {advice}"));
}

/// Results of the hot path have these errors in them. What explains an error is found when it is shown.
#[test]
fn explanations_do_not_make_errors_larger() {
    let pointer = size_of::<usize>();
    assert!(size_of::<ChannelError>() <= 7 * pointer);
    assert!(size_of::<PublishError>() <= 7 * pointer);
    assert!(size_of::<CallError>() <= 8 * pointer && size_of::<SendError>() <= 8 * pointer);
    assert!(size_of::<ConnectError>() <= 12 * pointer);
}
