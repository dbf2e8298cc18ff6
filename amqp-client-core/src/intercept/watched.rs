use std::sync::{Mutex, PoisonError};

use amqp_proto::session::SessionChannel;
use amqp_proto::{Body, PublishError, PublishSeq, RawProperties, Route};

use super::{
    Intercept, OutgoingMessage, PublishBatch, PublishOutcome, Published, observed, report,
};
use crate::channel::Heads;

/// A message that an interceptor has seen, without its body. Holds the observer until the channel has recorded the publish.
pub(crate) struct Watched<'a> {
    route: Route<'a>,
    properties: RawProperties,
    observer: Mutex<Option<Box<dyn Published>>>,
}

impl<'a> Watched<'a> {
    /// Calls the interceptor for a message.
    pub(crate) fn new(
        mut message: OutgoingMessage<'_>,
        route: Route<'a>,
        intercept: &dyn Intercept,
        batch: Option<&mut (dyn PublishBatch + 'static)>,
    ) -> Self {
        let observer = observed(|| match batch {
            Some(batch) => batch.publish(&mut message),
            None => intercept.publish(&mut message),
        });
        Self { route, properties: message.into_properties(), observer: Mutex::new(observer) }
    }

    pub(crate) const fn properties(&self) -> &RawProperties {
        &self.properties
    }

    fn take(&self) -> Option<Box<dyn Published>> {
        self.observer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Reports the result of the publish, unless the channel reports its confirm later.
    pub(crate) fn report<T>(&self, result: Result<T, &PublishError>) {
        if let Some(observer) = self.take() {
            report(
                observer,
                result.map_or_else(PublishOutcome::NotSent, |_| PublishOutcome::Queued),
            );
        }
    }
}

impl Heads for &Watched<'_> {
    fn route(&self) -> Route<'_> {
        self.route
    }

    fn properties(&self) -> RawProperties {
        self.properties.clone()
    }

    fn queued_size(&self, body: usize) -> usize {
        self.route.queued_size(&self.properties, body)
    }

    fn publish(
        &self,
        channel: &mut SessionChannel<'_>,
        body: impl Body,
    ) -> Result<Option<PublishSeq>, PublishError> {
        channel.publish(&self.route, &self.properties, body)
    }

    fn take_observer(&self) -> Option<Box<dyn Published>> {
        self.take()
    }
}
