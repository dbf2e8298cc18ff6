"""Publishes and consumes with pika, instrumented by OpenTelemetry: the other side of main.rs.

Arguments: a URL, the queue to publish to, and the queue to consume from. The queues exist. Prints its spans, one a line.
"""

import sys

import pika
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.pika import PikaInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace.span import TraceState

url, their_queue, our_queue = sys.argv[1:]
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
PikaInstrumentor().instrument()


def print_span(name, kind, span, parent):
    """An identifier of a span is that of its trace and its own."""
    ids = ["{:032x} {:016x}".format(it.trace_id, it.span_id) if it else "none" for it in (span, parent)]
    print(name, kind, *ids, span.trace_state.to_header(), sep="\t")


def consume(channel, method, properties, body):
    print("baggage", baggage.get_baggage("user"), body.decode(), sep="\t")
    channel.basic_publish("", their_queue, b"from a callback of pika")
    channel.basic_ack(method.delivery_tag)
    channel.stop_consuming()


connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()

# A trace begins here, in a system that has put something into its state.
origin = trace.SpanContext(0xABC, 0xDEF, True, trace.TraceFlags(1), TraceState([("vendor", "left")]))
current = trace.set_span_in_context(trace.NonRecordingSpan(origin))
token = context.attach(baggage.set_baggage("user", "Zoë, 7", current))
channel.basic_publish("", their_queue, b"from pika")
context.detach(token)

channel.basic_consume(our_queue, consume)
connection.call_later(60, channel.stop_consuming)
channel.start_consuming()
connection.close()

for span in exporter.get_finished_spans():
    print_span(span.name, span.kind.name, span.context, span.parent)
