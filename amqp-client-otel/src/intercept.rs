use std::sync::Arc;

use amqp_client_core::intercept::{
    Intercept, OutgoingMessage, Processing, PublishBatch, Published, Source,
};
use amqp_client_core::proto::{Delivery, RawProperties};

use crate::shared::Shared;
use crate::{Builder, ProcessBatch, process, publish};

/// Creates spans and metrics for the messages of a connection; see the [crate]. Clones share everything.
#[derive(Debug, Clone)]
pub struct OtelIntercept(pub(crate) Arc<Shared>);

impl OtelIntercept {
    /// Returns a builder with the defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Starts one `process` span for several deliveries, with a link to the context of each. If you use this, switch off the
    /// [spans of single deliveries](Builder::process_spans).
    ///
    /// ```
    /// # use amqp_client_otel::OtelIntercept;
    /// # use amqp_client_core::proto::RawProperties;
    /// # let otel = OtelIntercept::builder().process_spans(false).build();
    /// # let properties_of_batch = [RawProperties::EMPTY];
    /// let mut span = otel.process_batch("rows", properties_of_batch);
    /// let saved: Result<(), std::io::Error> = {
    ///     let _current = span.context().clone().attach();
    ///     // Save the rows here.
    ///     Ok(())
    /// };
    /// if saved.is_err() {
    ///     span.fail("database");
    /// }
    /// ```
    pub fn process_batch(
        &self,
        queue: impl AsRef<[u8]>,
        messages: impl IntoIterator<Item = RawProperties>,
    ) -> ProcessBatch {
        ProcessBatch::start(&self.0, queue.as_ref(), messages.into_iter())
    }
}

impl Intercept for OtelIntercept {
    fn publish(&self, message: &mut OutgoingMessage<'_>) -> Option<Box<dyn Published>> {
        Some(Box::new(publish::Publishing::start(&self.0, message)))
    }

    fn publish_all(&self, to: &OutgoingMessage<'_>) -> Option<Box<dyn PublishBatch>> {
        Some(Box::new(publish::Batch::start(&self.0, to)))
    }

    fn deliver(&self, delivery: &Delivery, from: Source<'_>) -> Option<Box<dyn Processing>> {
        let handling = process::Handling::start(&self.0, delivery, from)?;
        Some(Box::new(handling))
    }
}
