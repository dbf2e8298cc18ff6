//! A program that matches errors compiles with and without the feature `std`.

use amqp_proto::{Close, ConnectionError};

/// Returns what to log about the end of a connection.
fn reason(error: &ConnectionError) -> String {
    match error {
        ConnectionError::Transport(failure) => failure.text().to_owned(),
        ConnectionError::Closed(Close { reply_code, .. }) => reply_code.to_string(),
        error => error.to_string(),
    }
}

#[test]
fn errors_are_matched_alike_with_and_without_std() {
    let error = ConnectionError::Eof;
    assert_eq!(reason(&error), error.to_string());
}
