//! Method frames for logs: without the credentials that some methods carry.

use alloc::vec::Vec;
use core::ops::Range;

use super::{Arguments as _, ConnectionSecureOk, ConnectionStartOk, ConnectionUpdateSecret};

/// The bytes that replace credentials. Their number does not depend on the credentials.
const MASK: &[u8] = b"********";

/// Returns the payload of a method frame with its credentials replaced by eight `*`, so that the payload can be logged. Returns
/// `None` if the method carries none: only `connection.start-ok`, `connection.secure-ok` and `connection.update-secret` do.
///
/// The result decodes like the original, but is shorter or longer, so that it does not show the length of a password. An empty
/// response stays empty. If the arguments are cut or malformed, the mask replaces all of them.
///
/// ```
/// use amqp_proto::Secret;
/// use amqp_proto::method::{ConnectionSecureOk, Method, mask_credentials};
/// use bytes::Bytes;
///
/// let method = Method::from(ConnectionSecureOk { response: Secret::from("hunter2") });
/// let mut payload = Vec::new();
/// method.encode(&mut payload);
/// let masked = mask_credentials(&payload).ok_or("nothing was masked")?;
/// let expected = ConnectionSecureOk { response: Secret::from("********") };
/// assert_eq!(Method::decode(&Bytes::from(masked))?, Method::from(expected));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn mask_credentials(payload: &[u8]) -> Option<Vec<u8>> {
    let &[c0, c1, m0, m1, ..] = payload else { return None };
    let id = (u16::from_be_bytes([c0, c1]), u16::from_be_bytes([m0, m1]));
    let place = match id {
        id if id == ConnectionStartOk::FACTS.id => in_start_ok(payload),
        id if id == ConnectionSecureOk::FACTS.id => long_string(payload, 4),
        id if id == ConnectionUpdateSecret::FACTS.id => long_string(payload, 4),
        _ => return None,
    };
    let Some(place) = place else {
        return Some([payload.get(..4).unwrap_or_default(), MASK].concat());
    };
    let mask = if place.is_empty() { &[] } else { MASK };
    let before = payload.get(..place.start - 4).unwrap_or_default();
    let size = u32::try_from(mask.len()).unwrap_or_default().to_be_bytes();
    Some([before, &size, mask, payload.get(place.end..).unwrap_or_default()].concat())
}

/// Returns where the response of `connection.start-ok` is: behind a table and a short string.
fn in_start_ok(payload: &[u8]) -> Option<Range<usize>> {
    let mechanism = long_string(payload, 4)?.end;
    let response = mechanism + 1 + usize::from(*payload.get(mechanism)?);
    long_string(payload, response)
}

/// Returns where the bytes of the long string, or of the table, at `start` are.
fn long_string(payload: &[u8], start: usize) -> Option<Range<usize>> {
    let size: &[u8; 4] = payload.get(start..)?.first_chunk()?;
    let from = start + 4;
    let to = from.checked_add(usize::try_from(u32::from_be_bytes(*size)).ok()?)?;
    (to <= payload.len()).then_some(from..to)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::method::Method;
    use crate::wire::{Secret, ShortStr};

    fn methods(secret: &str) -> [Method; 3] {
        let start = ConnectionStartOk {
            mechanism: ShortStr::truncated("PLAIN"),
            response: Secret::from(secret.to_owned()),
            locale: ShortStr::truncated("en_US"),
            ..Default::default()
        };
        let reason = ShortStr::truncated("renewed");
        [
            start.into(),
            ConnectionSecureOk { response: Secret::from(secret.to_owned()) }.into(),
            ConnectionUpdateSecret { new_secret: Secret::from(secret.to_owned()), reason }.into(),
        ]
    }

    #[test]
    fn the_mask_hides_the_secret_and_its_length_and_nothing_else() {
        for secret in ["x", "hunter2", "a much longer secret than any mask"] {
            for (method, expected) in methods(secret).into_iter().zip(methods("********")) {
                let mut payload = Vec::new();
                method.encode(&mut payload);
                let masked = mask_credentials(&payload).expect("it has a secret");
                assert_eq!(Method::decode(&Bytes::from(masked)), Ok(expected));
            }
        }
        for method in methods("") {
            let mut payload = Vec::new();
            method.encode(&mut payload);
            assert_eq!(mask_credentials(&payload), Some(payload));
        }
    }

    #[test]
    fn no_piece_of_a_secret_is_left_in_a_method_that_was_cut() {
        for method in methods("hunter2") {
            let mut payload = Vec::new();
            method.encode(&mut payload);
            for end in 4..payload.len() {
                let masked = mask_credentials(&payload[..end]).expect("it may have a secret");
                let text = masked.escape_ascii().to_string();
                assert!(!text.contains("hu"), "{end}: {text}");
            }
        }
    }

    #[test]
    fn only_methods_with_secrets_are_masked() {
        for facts in Method::ALL {
            let (class, method) = facts.id;
            let payload = [class.to_be_bytes(), method.to_be_bytes()].concat();
            let secret = matches!(facts.id, (10, 11 | 21 | 70));
            assert_eq!(mask_credentials(&payload).is_some(), secret, "{}", facts.name);
        }
        assert_eq!(mask_credentials(&[0, 10, 0]), None);
    }
}
