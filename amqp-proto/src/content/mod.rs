//! Putting messages together from their frames.

mod incoming;

pub(crate) use incoming::{
    Complete, ContentMethod, Incoming, arguments_of, find_whole, unexpected,
};
