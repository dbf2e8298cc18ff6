//! Reading and adding headers in encoded properties, without decoding the rest.

use alloc::vec::Vec;

use bytes::{BufMut as _, Bytes};

use super::{HEADERS, RawProperties, behind_earlier, flags, in_flags, locate, within};
use crate::wire::{
    DecodeError, DecodeErrorKind, FieldTable, Value, copy_fields, find_field, long_bytes, unwrapped,
};

const PLACE: &str = "property headers";

impl RawProperties {
    /// Returns the value of the header of that name, and decodes no other header.
    ///
    /// ```
    /// # use amqp_proto::{FieldTable, Properties, RawProperties};
    /// let headers = FieldTable::new().with("attempt", 3)?;
    /// let properties = Properties { headers: Some(headers), ..Properties::default() };
    /// let attempt = RawProperties::from(&properties).header("attempt")?;
    /// assert_eq!(attempt.and_then(|attempt| attempt.as_i64()), Some(3));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`DecodeError`] if the header, or what precedes it on the wire, is malformed.
    pub fn header(&self, name: impl AsRef<[u8]>) -> Result<Option<Value>, DecodeError> {
        let Some(entries) = self.encoded_headers()? else { return Ok(None) };
        let Some(value) = find_field(entries, name.as_ref()).map_err(in_headers)? else {
            return Ok(None);
        };
        let decoded = Value::decode(value, &self.0);
        decoded.map(|(_, value)| Some(value)).map_err(|error| unwrapped(error).within(PLACE))
    }

    /// Returns these properties with more headers. A header of the same name is replaced. The other headers and properties are
    /// copied as they are, and not decoded.
    ///
    /// ```
    /// # use amqp_proto::{FieldTable, RawProperties};
    /// let more = FieldTable::new().with("x-signed-by", "billing")?;
    /// let properties = RawProperties::EMPTY.with_headers(&more)?;
    /// assert!(properties.header("x-signed-by")?.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`DecodeError`] if the present headers, or what precedes them on the wire, are malformed, or all headers together exceed
    /// 4 GiB.
    pub fn with_headers(&self, headers: &FieldTable) -> Result<Self, DecodeError> {
        if headers.is_empty() {
            return Ok(self.clone());
        }
        let encoded = &*self.0;
        let (rest, set) = flags(encoded).map_err(in_flags)?;
        let place = behind_earlier(rest, set, HEADERS)?;
        let (behind, present) = match set & 1 << HEADERS {
            0 => (place, &[][..]),
            _ => long_bytes(place).map_err(|error| within(error, HEADERS))?,
        };
        let before = encoded.get(..encoded.len() - place.len()).unwrap_or_default();

        let added = headers.as_encoded();
        let mut out = Vec::with_capacity(encoded.len() + 4 + added.len());
        out.extend_from_slice(before);
        if let Some(flags) = out.first_mut() {
            // The flag of the headers is in the upper byte of the first word.
            *flags |= 1 << (HEADERS - 8);
        }
        let length_at = out.len();
        out.put_u32(0);
        let replaced = |name: &[u8]| matches!(find_field(added, name), Ok(Some(_)));
        copy_fields(present, &mut out, |name| !replaced(name)).map_err(in_headers)?;
        out.extend_from_slice(added);
        let length = out.len() - length_at - 4;
        let length = u32::try_from(length).map_err(|_| in_headers(DecodeErrorKind::Truncated))?;
        if let Some(place) = out.get_mut(length_at..length_at + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        out.extend_from_slice(behind);
        Ok(Self(Bytes::from(out)))
    }

    /// The encoded entries of the headers, if there are any.
    fn encoded_headers(&self) -> Result<Option<&[u8]>, DecodeError> {
        let Some(table) = locate(&self.0, HEADERS)? else { return Ok(None) };
        let entries = long_bytes(table).map_err(|error| within(error, HEADERS))?;
        Ok(Some(entries.1))
    }
}

fn in_headers(kind: DecodeErrorKind) -> DecodeError {
    DecodeError::new(kind, PLACE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Properties, ShortStr};

    /// Properties on both sides of the headers, and headers of some names.
    fn properties() -> impl Strategy<Value = Properties> {
        let headers = proptest::collection::btree_map("[a-d]{1,2}", any::<i64>(), 0..5);
        (any::<bool>(), proptest::option::of(headers), proptest::option::of(any::<u8>())).prop_map(
            |(typed, headers, priority)| Properties {
                content_type: typed.then(|| ShortStr::try_from("text/plain").expect("short")),
                headers: headers.map(|headers| FieldTable::from_entries(headers).expect("small")),
                priority,
                message_id: typed.then(|| ShortStr::try_from("m").expect("short")),
                ..Properties::default()
            },
        )
    }

    proptest! {
        #[test]
        fn added_headers_are_those_of_decoding_and_inserting(
            before in properties(),
            added in proptest::collection::btree_map("[a-d]{1,2}", any::<bool>(), 0..4),
        ) {
            let added = FieldTable::from_entries(added).expect("small");
            let raw = RawProperties::from(&before).with_headers(&added).expect("well-formed");
            let mut expected = before.clone();
            if !added.is_empty() {
                let mut headers = expected.headers.take().unwrap_or_default();
                headers.extend(&added).expect("small");
                expected.headers = Some(headers);
            }
            prop_assert_eq!(raw.decode().expect("well-formed"), expected.clone());
            for (name, value) in expected.headers.iter().flatten() {
                prop_assert_eq!(raw.header(&name).expect("well-formed"), Some(value));
            }
            prop_assert_eq!(raw.header("missing").expect("well-formed"), None);
        }

        #[test]
        fn no_bytes_cause_a_panic(encoded in proptest::collection::vec(any::<u8>(), 0..64), flags in any::<u16>()) {
            let mut bytes = flags.to_be_bytes().to_vec();
            bytes.extend(encoded);
            let raw = RawProperties::unchecked(bytes.into());
            let more = FieldTable::new().with("a", 1).expect("short");
            let _read = raw.header("a");
            // What can be extended contains the header.
            if let Ok(extended) = raw.with_headers(&more) {
                prop_assert_eq!(extended.header("a").expect("it was added"), Some(Value::from(1)));
            }
        }
    }

    #[test]
    fn values_of_unknown_types_are_errors_and_stay_as_they_are() {
        // A header `x` of a type that nobody defines.
        let unknown: &[u8] = &[0x20, 0, 0, 0, 0, 4, 1, b'x', b'?', 7];
        let raw = RawProperties::unchecked(Bytes::from_static(unknown));
        let more = FieldTable::new().with("a", 1).expect("short");
        assert!(raw.with_headers(&more).is_err());
        assert!(raw.header("a").is_err());
        assert!(raw.header("x").is_err());
    }
}
