use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::fmt;

use bytes::{Bytes, BytesMut};

use super::fields::{check_fields, copy_fields, find_field, skip_entry};
use super::primitive::{long_bytes, put_long_bytes};
use super::{
    DecodeErrorKind, MAX_TABLE_DEPTH, Parsed, ShortStr, TooLong, Value, Wire, share, short_bytes,
};

/// A field table: names with values (spec 4.2.5.5).
///
/// The table is stored in its wire format. It is checked once, when it is decoded, and entries are decoded when they are read:
/// reading one entry of a large table allocates nothing. Cloning shares the bytes. Two tables are equal if they hold the same
/// entries in the same order, encoded alike.
///
/// ```
/// # use amqp_proto::FieldTable;
/// let arguments = FieldTable::new()
///     .with("x-queue-type", "quorum")?
///     .with("x-delivery-limit", 5)?;
/// assert_eq!(arguments.get("x-delivery-limit").and_then(|limit| limit.as_i64()), Some(5));
/// # Ok::<(), amqp_proto::FieldError>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct FieldTable(Bytes);

/// The reason why an entry cannot be added to a field table or array.
///
/// ```
/// # use amqp_proto::{FieldError, FieldTable};
/// let error = FieldTable::new().with("x-weight", f64::NAN).unwrap_err();
/// assert_eq!(error, FieldError::NotFinite);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FieldError {
    /// The name of the entry is longer than a short string.
    #[error(transparent)]
    Name(#[from] TooLong),
    /// With the value, tables would be nested deeper than a peer accepts.
    #[error("field tables nest deeper than {MAX_TABLE_DEPTH} levels")]
    TooDeep,
    /// The value is a floating-point number that is infinite or not a number. RabbitMQ cannot read those, and closes the
    /// connection that sends one with 541, INTERNAL_ERROR.
    #[error("field values must be finite; RabbitMQ closes the connection for an infinity or NaN")]
    NotFinite,
    /// The encoded table would not fit its 32-bit length.
    #[error("the field table exceeds 4 GiB")]
    TooLarge,
}

crate::error::debug_shows_chain! { FieldError }

impl FieldTable {
    /// An empty table.
    #[must_use]
    pub const fn new() -> Self {
        Self(Bytes::new())
    }

    /// Wraps bytes that were checked as part of a larger whole.
    pub(super) const fn trusted(entries: Bytes) -> Self {
        Self(entries)
    }

    /// Adds an entry, replacing one of the same name. Copies the table; to build a large one, see
    /// [`from_entries`](Self::from_entries).
    ///
    /// # Errors
    /// [`FieldError`]; the table is unchanged then.
    pub fn insert(
        &mut self,
        name: impl AsRef<[u8]>,
        value: impl Into<Value>,
    ) -> Result<(), FieldError> {
        let name = name.as_ref();
        let length = super::checked_short("field name", name)?;
        let mut entries = self.without(name);
        entries.push(length);
        entries.extend_from_slice(name);
        self.0 = appended(entries, &value.into())?;
        Ok(())
    }

    /// The table with one entry more: [`insert`](Self::insert) for building in one expression.
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    pub fn with(
        mut self,
        name: impl AsRef<[u8]>,
        value: impl Into<Value>,
    ) -> Result<Self, FieldError> {
        self.insert(name, value)?;
        Ok(self)
    }

    /// A table of these entries. Takes time in proportion to their number, where [`insert`](Self::insert) and
    /// [`with`](Self::with) copy the whole table for each entry. Of entries with the same name, the last counts, and stands at
    /// its place.
    ///
    /// ```
    /// # use amqp_proto::FieldTable;
    /// let squares = (0..1000).map(|number: i32| (number.to_string(), number * number));
    /// let table = FieldTable::from_entries(squares)?;
    /// assert_eq!(table.get("31").and_then(|square| square.as_i64()), Some(961));
    /// # Ok::<(), amqp_proto::FieldError>(())
    /// ```
    ///
    /// # Errors
    /// [`FieldError`], of the first entry that does not fit.
    pub fn from_entries<N: AsRef<[u8]>, V: Into<Value>>(
        entries: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, FieldError> {
        let mut encoded = Vec::new();
        // The offset of each entry.
        let mut starts = Vec::new();
        for (name, value) in entries {
            let (name, value) = (name.as_ref(), value.into());
            starts.push(encoded.len());
            encoded.push(super::checked_short("field name", name)?);
            encoded.extend_from_slice(name);
            check_value(&value)?;
            value.encode(&mut encoded);
            check_size(&encoded)?;
        }
        Ok(Self(without_earlier(encoded, &starts).into()))
    }

    /// Adds entries, replacing those of the same names, in time proportional to the size of the whole. As
    /// [`from_entries`](Self::from_entries), of entries with the same name the last counts.
    ///
    /// # Errors
    /// [`FieldError`], of the first entry that does not fit; the table is unchanged then.
    pub fn extend<N: AsRef<[u8]>, V: Into<Value>>(
        &mut self,
        entries: impl IntoIterator<Item = (N, V)>,
    ) -> Result<(), FieldError> {
        let added = Self::from_entries(entries)?;
        let mut encoded = Vec::with_capacity(self.0.len() + added.0.len());
        let mut starts = Vec::new();
        for table in [&self.0, &added.0] {
            let mut rest: &[u8] = table;
            while let Ok((after, _)) = skip_entry(rest, |_, _| Ok(())) {
                starts.push(encoded.len());
                encoded.extend_from_slice(rest.get(..rest.len() - after.len()).unwrap_or_default());
                rest = after;
            }
        }
        check_size(&encoded)?;
        self.0 = without_earlier(encoded, &starts).into();
        Ok(())
    }

    /// Removes the entry of that name and returns its value.
    pub fn remove(&mut self, name: impl AsRef<[u8]>) -> Option<Value> {
        let name = name.as_ref();
        let value = self.get(name)?;
        self.0 = self.without(name).into();
        Some(value)
    }

    /// The value of the first entry of that name.
    #[must_use]
    pub fn get(&self, name: impl AsRef<[u8]>) -> Option<Value> {
        let value = find_field(&self.0, name.as_ref()).ok()??;
        Value::decode(value, &self.0).ok().map(|(_, value)| value)
    }

    /// The entries in their order.
    #[must_use]
    pub fn iter(&self) -> Fields {
        Fields { source: self.0.clone(), position: 0 }
    }

    /// The number of entries; counts them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Returns whether the table has no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The entries as they travel, without the length before them.
    #[must_use]
    pub fn as_encoded(&self) -> &[u8] {
        &self.0
    }

    /// The bytes of all entries but those called `name`.
    fn without(&self, name: &[u8]) -> Vec<u8> {
        let mut kept = Vec::with_capacity(self.0.len() + name.len() + 16);
        // It was checked when it was made.
        let _copied = copy_fields(&self.0, &mut kept, |key| key != name);
        kept
    }
}

/// An array of values of any types (`A` in a field table). Kept and read like [`FieldTable`].
///
/// ```
/// # use amqp_proto::{FieldArray, FieldTable, Value};
/// let hosts = FieldArray::from_values(["a", "b"])?;
/// let headers = FieldTable::new().with("hosts", hosts)?;
/// if let Some(Value::Array(hosts)) = headers.get("hosts") {
///     assert_eq!(hosts.len(), 2);
/// }
/// # Ok::<(), amqp_proto::FieldError>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct FieldArray(Bytes);

impl FieldArray {
    /// An empty array.
    #[must_use]
    pub const fn new() -> Self {
        Self(Bytes::new())
    }

    pub(super) const fn trusted(values: Bytes) -> Self {
        Self(values)
    }

    /// Adds a value at the end, in amortized constant time.
    ///
    /// # Errors
    /// [`FieldError`]; the array is unchanged then.
    pub fn push(&mut self, value: impl Into<Value>) -> Result<(), FieldError> {
        let value = value.into();
        check_value(&value)?;
        // The bytes are this array's alone unless it was cloned or received: then they grow in place, as a `Vec` does.
        let mut bytes = core::mem::take(&mut self.0)
            .try_into_mut()
            .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        let before = bytes.len();
        let mut encoded = Vec::new();
        value.encode(&mut encoded);
        bytes.extend_from_slice(&encoded);
        let fits = check_size(&bytes);
        if fits.is_err() {
            bytes.truncate(before);
        }
        self.0 = bytes.freeze();
        fits
    }

    /// An array of these values.
    ///
    /// # Errors
    /// [`FieldError`].
    pub fn from_values<V: Into<Value>>(
        values: impl IntoIterator<Item = V>,
    ) -> Result<Self, FieldError> {
        let mut array = Vec::new();
        for value in values {
            let value = value.into();
            check_value(&value)?;
            value.encode(&mut array);
        }
        check_size(&array)?;
        Ok(Self(array.into()))
    }

    /// The values in their order.
    pub fn iter(&self) -> impl Iterator<Item = Value> + use<> {
        let source = self.0.clone();
        let mut position = 0;
        core::iter::from_fn(move || {
            let input = source.get(position..)?;
            let (rest, value) = Value::decode(input, &source).ok()?;
            position = source.len() - rest.len();
            Some(value)
        })
    }

    /// The number of values; counts them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Returns whether the array has no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values as they travel, without the length before them.
    #[must_use]
    pub fn as_encoded(&self) -> &[u8] {
        &self.0
    }
}

/// Encoded entries, which start at these places, without those whose names come again later.
fn without_earlier(encoded: Vec<u8>, starts: &[usize]) -> Vec<u8> {
    let name = |start: usize| {
        let entry = encoded.get(start..).unwrap_or_default();
        short_bytes(entry).map_or(&[][..], |(_, name)| name)
    };
    let mut seen = BTreeSet::new();
    let mut ends = starts.iter().skip(1).copied().chain([encoded.len()]).collect::<Vec<_>>();
    let mut kept: Vec<_> = Vec::with_capacity(starts.len());
    for start in starts.iter().rev() {
        let end = ends.pop().unwrap_or(*start);
        if seen.insert(name(*start)) {
            kept.push(*start..end);
        }
    }
    if kept.len() == starts.len() {
        return encoded;
    }
    let entries = kept.into_iter().rev().filter_map(|entry| encoded.get(entry));
    entries.collect::<Vec<_>>().concat()
}

fn appended(mut bytes: Vec<u8>, value: &Value) -> Result<Bytes, FieldError> {
    check_value(value)?;
    value.encode(&mut bytes);
    check_size(&bytes)?;
    Ok(bytes.into())
}

/// Refuses a value that peers do not read: one that RabbitMQ has no term for, or that would make its table deeper than this
/// crate (or a peer like it) decodes.
fn check_value(value: &Value) -> Result<(), FieldError> {
    let checked = match value {
        Value::Table(table) => check_fields(table.as_encoded(), true, 1),
        Value::Array(array) => check_fields(array.as_encoded(), false, 1),
        Value::LongStr(text) => return check_size(text.as_bytes()),
        Value::ByteArray(bytes) => return check_size(bytes),
        Value::F32(number) if !number.is_finite() => return Err(FieldError::NotFinite),
        Value::F64(number) if !number.is_finite() => return Err(FieldError::NotFinite),
        _ => return Ok(()),
    };
    checked.map_err(|_| FieldError::TooDeep)
}

fn check_size(bytes: &[u8]) -> Result<(), FieldError> {
    u32::try_from(bytes.len()).map(|_| ()).map_err(|_| FieldError::TooLarge)
}

impl Wire for FieldTable {
    const TYPE: &'static str = "table";

    fn decode<'a>(input: &'a [u8], source: &Bytes) -> Parsed<'a, Self> {
        let (rest, entries) = long_bytes(input)?;
        check_fields(entries, true, 0).map_err(DecodeErrorKind::fail)?;
        Ok((rest, Self(share(source, entries))))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_long_bytes(out, &self.0);
    }
}

/// The entries of a [`FieldTable`], in order. Owns a share of the table.
#[derive(Debug, Clone)]
pub struct Fields {
    source: Bytes,
    position: usize,
}

impl Iterator for Fields {
    type Item = (ShortStr, Value);

    fn next(&mut self) -> Option<Self::Item> {
        let input = self.source.get(self.position..)?;
        let (rest, name) = short_bytes(input).ok()?;
        let (rest, value) = Value::decode(rest, &self.source).ok()?;
        self.position = self.source.len() - rest.len();
        Some((ShortStr::shared(&self.source, name), value))
    }
}

impl IntoIterator for &FieldTable {
    type Item = (ShortStr, Value);
    type IntoIter = Fields;

    fn into_iter(self) -> Fields {
        self.iter()
    }
}

impl fmt::Debug for FieldTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl fmt::Debug for FieldArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
