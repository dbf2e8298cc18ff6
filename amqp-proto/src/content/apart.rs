use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
#[cfg(feature = "std")]
use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};

use crate::frame::{FRAME_MIN_SIZE, FRAME_OVERHEAD};

/// A body that is not part of the read buffer's slice that holds the rest of its delivery.
#[derive(Debug, Clone)]
pub(crate) enum Apart {
    Whole(Bytes),
    /// The parts in which it arrived.
    #[cfg(feature = "std")]
    Chunks(Box<Joined>),
}

/// The parts of a body, and the whole, once that was read.
#[cfg(feature = "std")]
#[derive(Debug, Clone)]
pub(crate) struct Joined {
    chunks: Vec<Bytes>,
    whole: OnceLock<Bytes>,
}

impl Apart {
    /// Returns the whole body. It is put together when this is called first.
    pub(crate) fn whole(&self) -> &Bytes {
        match self {
            Self::Whole(body) => body,
            #[cfg(feature = "std")]
            Self::Chunks(own) => own.whole.get_or_init(|| own.chunks.concat().into()),
        }
    }

    pub(crate) fn into_whole(self) -> Bytes {
        match self {
            Self::Whole(body) => body,
            #[cfg(feature = "std")]
            chunks @ Self::Chunks(_) => chunks.whole().clone(),
        }
    }

    pub(crate) fn chunks(&self) -> Vec<Bytes> {
        match self {
            Self::Whole(body) if body.is_empty() => Vec::new(),
            Self::Whole(body) => vec![body.clone()],
            #[cfg(feature = "std")]
            Self::Chunks(own) => own.chunks.clone(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Whole(body) => body.len(),
            #[cfg(feature = "std")]
            Self::Chunks(own) => own.chunks.iter().map(Bytes::len).sum(),
        }
    }

    /// Returns the number of bytes that it took in memory when it arrived. It stays the same, because it is added to sums and
    /// subtracted again.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Whole(body) => body.len(),
            #[cfg(feature = "std")]
            Self::Chunks(own) => self.len() + own.chunks.len() * size_of::<Bytes>(),
        }
    }
}

impl PartialEq for Apart {
    fn eq(&self, other: &Self) -> bool {
        self.whole() == other.whole()
    }
}

impl Eq for Apart {}

/// The body of a delivery, if it is apart. Few deliveries have one, so the code that drops it is kept out of their way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MaybeApart(Option<Box<Apart>>);

impl MaybeApart {
    pub(crate) const NONE: Self = Self(None);

    #[inline]
    pub(crate) fn get(&self) -> Option<&Apart> {
        self.0.as_deref()
    }
}

impl From<Apart> for MaybeApart {
    fn from(apart: Apart) -> Self {
        Self(Some(Box::new(apart)))
    }
}

impl Drop for MaybeApart {
    #[inline]
    fn drop(&mut self) {
        #[cold]
        #[inline(never)]
        fn drop_body(body: Box<Apart>) {
            drop(body);
        }
        if let Some(body) = self.0.take() {
            drop_body(body);
        }
    }
}

/// The parts of a body that is not complete.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    chunks: Vec<Bytes>,
    /// The last bytes, while they are too few for a part of their own.
    few: BytesMut,
    size: usize,
}

/// Parts of at least this many bytes are kept uncopied. A list of tiny parts would take more memory than the body.
const CHUNK_MIN: usize = FRAME_MIN_SIZE as usize - FRAME_OVERHEAD;

impl Chunks {
    /// Adds the payload of a frame. `is_last`: it is the end of the body. Returns by how many bytes the list has grown in memory.
    pub(super) fn push(&mut self, payload: Bytes, is_last: bool) -> usize {
        let before = self.size;
        self.size += payload.len();
        if payload.len() >= CHUNK_MIN || is_last {
            self.flush();
            if !payload.is_empty() {
                self.add(payload);
            }
        } else {
            self.few.extend_from_slice(&payload);
            if self.few.len() >= CHUNK_MIN {
                self.flush();
            }
        }
        self.size - before
    }

    fn flush(&mut self) {
        if !self.few.is_empty() {
            let few = self.few.split().freeze();
            self.add(few);
        }
    }

    fn add(&mut self, chunk: Bytes) {
        self.size += size_of::<Bytes>();
        self.chunks.push(chunk);
    }

    pub(super) const fn size(&self) -> usize {
        self.size
    }

    pub(super) fn into_apart(self) -> Apart {
        if self.chunks.is_empty() {
            return Apart::Whole(Bytes::new());
        }
        #[cfg(feature = "std")]
        return Apart::Chunks(Box::new(Joined { chunks: self.chunks, whole: OnceLock::new() }));
        #[cfg(not(feature = "std"))]
        Apart::Whole(self.chunks.concat().into())
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_of_any_size_are_the_body_and_few(
            sizes in proptest::collection::vec(prop_oneof![0..3_usize, 0..CHUNK_MIN, CHUNK_MIN..9000], 1..40),
        ) {
            let mut chunks = Chunks::default();
            let (mut body, mut grown) = (Vec::new(), 0);
            let last = sizes.len() - 1;
            for (index, size) in sizes.into_iter().enumerate() {
                let part = vec![u8::try_from(index).unwrap_or(0); size];
                body.extend_from_slice(&part);
                grown += chunks.push(part.into(), index == last);
                prop_assert_eq!(chunks.size(), grown);
            }
            let apart = chunks.into_apart();
            let parts = apart.chunks();
            prop_assert!(parts.iter().all(|part| !part.is_empty()));
            // Of two that follow each other, one is large, unless they are the last two.
            prop_assert!(parts.len() <= 2 * (body.len() / CHUNK_MIN) + 2, "{} {}", parts.len(), body.len());
            prop_assert_eq!((apart.len(), apart.size()), (body.len(), grown));
            prop_assert_eq!(&apart.whole()[..], &body[..]);
        }
    }
}
