use std::fmt;
use std::sync::Arc;

use opentelemetry::InstrumentationScope;
use opentelemetry::global::{self, BoxedTracer};
use opentelemetry::metrics::Meter;

use crate::attributes::Common;
use crate::destination::Template;
use crate::shared::{Metrics, Options, Shared};
use crate::{Destination, OtelIntercept};

/// Options of an [`OtelIntercept`].
#[must_use = "call `build`"]
pub struct Builder {
    tracer: Option<BoxedTracer>,
    meter: Option<Meter>,
    common: Common,
    template: Option<Box<Template>>,
    options: Options,
}

impl Default for Builder {
    fn default() -> Self {
        let options = Options {
            process_is_child: false,
            process_spans: true,
            settle_spans: false,
            baggage: false,
        };
        let (tracer, meter, template) = (None, None, None);
        Self { tracer, meter, common: Common::default(), template, options }
    }
}

impl Builder {
    /// Uses this tracer. Default: one of the global provider, as it is when [`build`](Self::build) is called.
    ///
    /// ```
    /// # use amqp_client_otel::OtelIntercept;
    /// # use opentelemetry::trace::TracerProvider as _;
    /// use opentelemetry::global::BoxedTracer;
    ///
    /// let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder().build();
    /// let tracer = BoxedTracer::new(Box::new(provider.tracer("orders")));
    /// let otel = OtelIntercept::builder().tracer(tracer).build();
    /// ```
    pub fn tracer(mut self, tracer: BoxedTracer) -> Self {
        self.tracer = Some(tracer);
        self
    }

    /// Uses this meter. Default: one of the global provider, as it is when [`build`](Self::build) is called.
    pub fn meter(mut self, meter: Meter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// Sets the attributes `server.address` and `server.port` of spans and metrics. Default: neither.
    pub fn server(mut self, address: impl Into<String>, port: u16) -> Self {
        self.common.server = Some((address.into(), port));
        self
    }

    /// Sets the attribute `messaging.client.id` of spans. Default: none.
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.common.client_id = Some(id.into());
        self
    }

    /// Chooses the destination in the names of spans, and in metrics. The function must return few different names, because backends
    /// group by them. Default: the exchange, or, for the default exchange, `amq.default` or the queue of the delivery.
    ///
    /// ```
    /// # use amqp_client_otel::OtelIntercept;
    /// // Routing keys such as `eu.4711`: the part before the dot has few values.
    /// let otel = OtelIntercept::builder().destination(|to| {
    ///     let key = String::from_utf8_lossy(to.routing_key);
    ///     let region = key.split('.').next().unwrap_or_default();
    ///     format!("orders {region}")
    /// });
    /// ```
    pub fn destination(
        mut self,
        template: impl Fn(&Destination<'_>) -> String + Send + Sync + 'static,
    ) -> Self {
        self.template = Some(Box::new(template));
        self
    }

    /// Makes `process` spans children of the context in the message, instead of linking them to it. Default: off, as the
    /// conventions recommend. Switch it on if each message is processed by itself, and one trace should contain all spans of a
    /// message.
    pub const fn process_is_child(mut self, on: bool) -> Self {
        self.options.process_is_child = on;
        self
    }

    /// Creates a `process` span for each delivery. Default: on. Switch it off for [batches](OtelIntercept::process_batch).
    pub const fn process_spans(mut self, on: bool) -> Self {
        self.options.process_spans = on;
        self
    }

    /// Creates a span when a delivery is settled with `ack`, `nack` or `reject`. Default: off.
    pub const fn settle_spans(mut self, on: bool) -> Self {
        self.options.settle_spans = on;
        self
    }

    /// Adds the attribute `messaging.message.body.size`, in bytes, to spans. Default: off.
    pub const fn body_size(mut self, on: bool) -> Self {
        self.common.body_size = on;
        self
    }

    /// Sends the current baggage in the header `baggage` of each message, and makes the baggage of a delivery current for its handler.
    /// Default: off, because baggage may be confidential.
    pub const fn baggage(mut self, on: bool) -> Self {
        self.options.baggage = on;
        self
    }

    /// Returns the interceptor.
    #[must_use]
    pub fn build(self) -> OtelIntercept {
        let scope = || {
            InstrumentationScope::builder("amqp-client-otel")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build()
        };
        let tracer = self.tracer.unwrap_or_else(|| global::tracer_with_scope(scope()));
        let meter = self.meter.unwrap_or_else(|| global::meter_with_scope(scope()));
        OtelIntercept(Arc::new(Shared {
            tracer,
            metrics: Metrics::new(&meter),
            meter,
            common: self.common,
            template: self.template,
            options: self.options,
        }))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("common", &self.common)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
