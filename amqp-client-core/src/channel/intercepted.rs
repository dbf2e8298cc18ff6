//! Publishing on a connection with an interceptor: off the fast path, which must not pay for it.

use std::time::Duration;

use amqp_proto::frame::FRAME_MIN_SIZE;
use amqp_proto::{Body, PublishError, PublishSeq};

use super::{Channel, Heads, NotNow, Outgoing};
use crate::intercept::{Interceptor, OutgoingMessage, PublishBatch, Watched, observed};

/// The batch of a call that publishes several messages: an interceptor is asked for it with the first of them.
type Batch = Option<Box<dyn PublishBatch>>;

impl Channel {
    /// Returns whether an interceptor has to see each message.
    #[inline]
    pub(crate) fn is_intercepted(&self) -> bool {
        self.connection().shared().observers.is_some()
    }

    /// Publishes a message that the interceptor sees first.
    pub(super) async fn publish_intercepted<B: Body>(
        &self,
        interceptor: &Interceptor,
        outgoing: &Outgoing<'_, impl Heads>,
        body: B,
        timeout: Option<Duration>,
        batch: Option<&mut (dyn PublishBatch + 'static)>,
    ) -> Result<Option<PublishSeq>, PublishError> {
        let watched = self.show(interceptor, outgoing, &body, batch);
        let published =
            self.publish_held(&outgoing.watched_by(&watched), body, timeout, false).await;
        watched.report(published.as_ref());
        published
    }

    /// Publishes a message that the interceptor sees first, or returns the reason and the body.
    pub(super) fn try_publish_intercepted<B: Body>(
        &self,
        interceptor: &Interceptor,
        outgoing: &Outgoing<'_, impl Heads>,
        body: B,
    ) -> Result<Option<PublishSeq>, NotNow<B>> {
        let watched = self.show(interceptor, outgoing, &body, None);
        let published = self.try_publish(&outgoing.watched_by(&watched), body, None);
        match &published {
            Ok(seq) => watched.report(Ok(seq)),
            Err(NotNow::Failed(error, _)) => watched.report::<()>(Err(error)),
            Err(NotNow::Wait(by, _)) => watched.report::<()>(Err(&PublishError::Gated(*by))),
        }
        published
    }

    /// Publishes several messages, each of which the interceptor sees first. Calls `published` for each.
    pub(super) async fn publish_all_intercepted<B: Body>(
        &self,
        interceptor: &Interceptor,
        outgoing: &Outgoing<'_, impl Heads>,
        bodies: impl Iterator<Item = B>,
        timeout: Option<Duration>,
        mut published: impl FnMut(Option<PublishSeq>),
    ) -> Result<(), PublishError> {
        let mut batch: Option<Batch> = None;
        for body in bodies {
            let batch = batch.get_or_insert_with(|| {
                let first = self.message(outgoing, &body);
                observed(|| interceptor.publish_all(&first))
            });
            let (body, batch) = (body, batch.as_deref_mut());
            published(self.publish_intercepted(interceptor, outgoing, body, timeout, batch).await?);
        }
        Ok(())
    }

    /// Calls the interceptor for a message.
    fn show<'a>(
        &self,
        interceptor: &Interceptor,
        outgoing: &'a Outgoing<'_, impl Heads>,
        body: &impl Body,
        batch: Option<&mut (dyn PublishBatch + 'static)>,
    ) -> Watched<'a> {
        Watched::new(self.message(outgoing, body), outgoing.heads.route(), &**interceptor, batch)
    }

    fn message<'a>(
        &self,
        outgoing: &'a Outgoing<'_, impl Heads>,
        body: &'a impl Body,
    ) -> OutgoingMessage<'a> {
        let heads = &outgoing.heads;
        let negotiated = self.connection().negotiated();
        let frame_max = negotiated.map_or(FRAME_MIN_SIZE, |negotiated| negotiated.frame_max);
        let frame_max = usize::try_from(frame_max).unwrap_or(usize::MAX);
        OutgoingMessage::new(heads.route(), heads.properties(), body.as_bytes(), frame_max)
    }
}
