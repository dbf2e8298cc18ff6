//! The encoded entries of tables and arrays, without decoding them.

use alloc::vec::Vec;

use super::value::skip;
use super::{DecodeError, DecodeErrorKind, MAX_TABLE_DEPTH, short_bytes, unwrapped};

/// Returns the bytes from the value of the first entry called `name` on.
pub(crate) fn find_field<'a>(
    mut entries: &'a [u8],
    name: &[u8],
) -> Result<Option<&'a [u8]>, DecodeErrorKind> {
    while !entries.is_empty() {
        let (value, found) = short_bytes(entries).map_err(kind_of)?;
        if found == name {
            return Ok(Some(value));
        }
        entries = skip_value(value, |_, _| Ok(()))?;
    }
    Ok(None)
}

/// Appends the entries that `keeps` accepts by their names, as they are.
pub(crate) fn copy_fields(
    mut entries: &[u8],
    out: &mut Vec<u8>,
    keeps: impl Fn(&[u8]) -> bool,
) -> Result<(), DecodeErrorKind> {
    while !entries.is_empty() {
        let (rest, name) = skip_entry(entries, |_, _| Ok(()))?;
        if keeps(name) {
            out.extend_from_slice(entries.get(..entries.len() - rest.len()).unwrap_or_default());
        }
        entries = rest;
    }
    Ok(())
}

/// Checks the entries of a table (`named`) or the values of an array, `depth` levels down, and everything inside.
pub(crate) fn check_fields(
    mut input: &[u8],
    named: bool,
    depth: usize,
) -> Result<(), DecodeErrorKind> {
    if depth >= MAX_TABLE_DEPTH {
        return Err(DecodeErrorKind::TooDeep);
    }
    while !input.is_empty() {
        let nested = |named, content| check_fields(content, named, depth + 1);
        let stepped = if named {
            skip_entry(input, nested).map(|(rest, _)| rest)
        } else {
            skip_value(input, nested)
        };
        input = stepped?;
    }
    Ok(())
}

/// Skips one entry of a table. Returns the rest, and the entry's name.
pub(super) fn skip_entry<'a>(
    input: &'a [u8],
    nested: impl FnOnce(bool, &'a [u8]) -> Result<(), DecodeErrorKind>,
) -> Result<(&'a [u8], &'a [u8]), DecodeErrorKind> {
    let (rest, name) = short_bytes(input).map_err(kind_of)?;
    Ok((skip_value(rest, nested)?, name))
}

fn skip_value<'a>(
    input: &'a [u8],
    nested: impl FnOnce(bool, &'a [u8]) -> Result<(), DecodeErrorKind>,
) -> Result<&'a [u8], DecodeErrorKind> {
    let Some((kind, rest)) = input.split_first() else {
        return Err(DecodeErrorKind::Truncated);
    };
    skip(*kind, rest, nested).map(|(rest, ())| rest).map_err(kind_of)
}

fn kind_of(error: nom::Err<DecodeError>) -> DecodeErrorKind {
    unwrapped(error).kind()
}
