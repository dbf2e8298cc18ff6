use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use amqp_proto::{Body, EncodeProperties, Gate, PublishSeq, RawProperties, Route};

use super::Channel;
use crate::connection::watch;
use crate::deadline::Deadline;
use crate::error::{HeldBy, PublishError};
use crate::options::{OnLoss, PublisherOptions};

/// A message without its body, and how it goes out.
pub(crate) struct Outgoing<'a, P> {
    pub(crate) route: Route<'a>,
    pub(crate) properties: &'a P,
    /// What its publisher demands, if it has one.
    pub(crate) publisher: Option<&'a PublisherOptions>,
    /// The properties of a message that is kept until it is confirmed.
    pub(crate) kept: Option<&'a RawProperties>,
}

/// Why a message was not published at this moment.
pub(crate) enum NotNow<B> {
    /// It has to wait.
    Wait(HeldBy, B),
    /// It cannot be published. The body is there unless something is wrong with the message itself.
    Failed(PublishError, Option<B>),
}

impl Channel {
    /// Publishes as soon as the gates and the window let it.
    pub(crate) async fn publish_within<B: Body, P: EncodeProperties>(
        &self,
        outgoing: &Outgoing<'_, P>,
        body: B,
        timeout: Option<Duration>,
    ) -> Result<Option<PublishSeq>, PublishError> {
        let mut body = Some(body);
        let mut deadline: Option<Deadline> = None;
        poll_fn(move |cx| {
            let Some(given) = body.take() else {
                return Poll::Pending;
            };
            let (by, given) = match self.publish_now(outgoing, given, Some(cx)) {
                Ok(seq) => return Poll::Ready(Ok(seq)),
                Err(NotNow::Failed(error, _)) => return Poll::Ready(Err(error)),
                Err(NotNow::Wait(by, body)) => (by, body),
            };
            body = Some(given);
            let deadline = deadline.get_or_insert_with(|| {
                Deadline::start(self.connection().shared(), self.lock(), |_| timeout)
            });
            if deadline.expired(cx) {
                let after = deadline.after();
                return Poll::Ready(Err(PublishError::TimedOut { by, after }));
            }
            Poll::Pending
        })
        .await
    }

    /// Publishes, or says why not, and gives the body back. With a context, its task is woken when it may go on.
    pub(crate) fn publish_now<B: Body, P: EncodeProperties>(
        &self,
        outgoing: &Outgoing<'_, P>,
        body: B,
        cx: Option<&Context<'_>>,
    ) -> Result<Option<PublishSeq>, NotNow<B>> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let size = body.as_octets().len();
        let Outgoing { route, properties, publisher, kept } = outgoing;
        let full = match (publisher, state.channel(self.place())) {
            (Some(options), Some(channel)) => {
                !options.has_room(channel.confirms.outstanding(), channel.confirms.octets(), size)
            }
            _ => false,
        };
        let mut protocol = match self.protocol(state) {
            Ok(protocol) => protocol,
            Err(error) => return Err(NotNow::Failed(error.into(), Some(body))),
        };
        let gate = match kept {
            None => protocol.check_gate(),
            Some(kept) => protocol.check_kept_gate(route, kept, size),
        };
        let fails = publisher.is_some_and(|options| options.what_on_loss() == OnLoss::Fail);
        if fails && gate == Err(Gate::Recovering) {
            let held = PublishError::Held(HeldBy::Gate(Gate::Recovering));
            return Err(NotNow::Failed(held, Some(body)));
        }
        let held = gate.err().map(HeldBy::Gate).or_else(|| full.then_some(HeldBy::Window));
        if let Some(by) = held {
            cx.into_iter().for_each(|cx| watch(&mut state.gate, cx));
            return Err(NotNow::Wait(by, body));
        }
        let published = match kept {
            None => protocol.publish(route, *properties, body),
            Some(kept) => protocol.publish_kept(route, kept, body).map(Some),
        };
        match published {
            Ok(seq) => {
                if let (Some(seq), Some(channel)) = (seq, state.channel(self.place())) {
                    channel.confirms.published(seq, size);
                }
                state.wake_driver();
                Ok(seq)
            }
            Err(error) => Err(NotNow::Failed(error.into(), None)),
        }
    }
}
