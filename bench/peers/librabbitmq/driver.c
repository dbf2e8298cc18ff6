/* rabbitmq-c, as its examples use it. See harness/src/job.rs for the arguments and the report. */
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define WINDOW 1000

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec / 1e9;
}

static void check(int status, const char *what) {
  if (status < 0) {
    fprintf(stderr, "%s: %s\n", what, amqp_error_string2(status));
    exit(1);
  }
}

static void answered(amqp_rpc_reply_t reply, const char *what) {
  if (reply.reply_type != AMQP_RESPONSE_NORMAL) {
    fprintf(stderr, "%s: %s\n", what, amqp_error_string2(reply.library_error));
    exit(1);
  }
}

static amqp_connection_state_t connect_to(const char *url) {
  char host[256];
  int port;
  const char *at = strchr(url, '@');
  if (!at || sscanf(at + 1, "%255[^:]:%d", host, &port) != 2) exit(2);
  amqp_connection_state_t connection = amqp_new_connection();
  check(amqp_socket_open(amqp_tcp_socket_new(connection), host, port), "connect");
  answered(amqp_login(connection, "/", 0, 131072, 60, AMQP_SASL_METHOD_PLAIN, "guest", "guest"), "login");
  return connection;
}

static void open_channel(amqp_connection_state_t connection, int number) {
  amqp_channel_open(connection, number);
  answered(amqp_get_rpc_reply(connection), "channel");
}

/* The next basic.ack: up to which number messages are confirmed. */
static uint64_t confirmed(amqp_connection_state_t connection, uint64_t before) {
  for (;;) {
    amqp_frame_t frame;
    amqp_maybe_release_buffers(connection);
    check(amqp_simple_wait_frame(connection, &frame), "wait");
    if (frame.frame_type != AMQP_FRAME_METHOD) continue;
    if (frame.payload.method.id != AMQP_BASIC_ACK_METHOD) exit(1);
    uint64_t tag = ((amqp_basic_ack_t *)frame.payload.method.decoded)->delivery_tag;
    return tag > before ? tag : before;
  }
}

static void consume(amqp_connection_state_t connection, amqp_bytes_t queue, int no_ack) {
  amqp_basic_consume(connection, 1, queue, amqp_cstring_bytes("ctag"), 0, no_ack, 0, amqp_empty_table);
  answered(amqp_get_rpc_reply(connection), "consume");
}

static void declare(amqp_connection_state_t connection, amqp_bytes_t queue, int temporary) {
  amqp_maybe_release_buffers(connection);
  amqp_queue_declare(connection, 1, queue, 0, !temporary, temporary, temporary, amqp_empty_table);
  answered(amqp_get_rpc_reply(connection), "declare");
}

static long status(const char *key) {
  FILE *file = fopen("/proc/self/status", "r");
  char line[256];
  long value = 0;
  while (fgets(line, sizeof line, file))
    if (!strncmp(line, key, strlen(key))) value = atol(line + strlen(key));
  fclose(file);
  return value;
}

static int by_value(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

static double seconds(struct timeval time) { return time.tv_sec + time.tv_usec / 1e6; }

int main(int argc, char **argv) {
  if (argc != 6) return 2;
  char *scenario = argv[1];
  uint64_t count = strtoull(argv[2], 0, 10), prefetch = 1000;
  size_t size = strtoull(argv[3], 0, 10);
  char *parameter = strchr(scenario, '/');
  if (parameter) {
    *parameter = 0;
    if (sscanf(parameter + 1, "prefetch=%lu", &prefetch) != 1) return 3;
  }
  amqp_bytes_t queue = amqp_cstring_bytes(argv[5]);
  amqp_bytes_t body = {size, malloc(size + 1)};
  memset(body.bytes, 'x', size);
  amqp_basic_properties_t properties;
  memset(&properties, 0, sizeof properties);
  float *latencies = malloc((count + 1) * sizeof *latencies);
  size_t measured = 0;
  struct rusage before, after;
  double start;
#define MARK() (getrusage(RUSAGE_SELF, &before), start = now())
#define PUBLISH() check(amqp_basic_publish(connection, 1, amqp_empty_bytes, queue, 0, 0, &properties, body), "publish")
#define IS(name) !strcmp(scenario, name)

  amqp_connection_state_t connection = connect_to(argv[4]);
  open_channel(connection, 1);
  MARK();
  if (IS("publish")) {
    for (uint64_t i = 0; i < count; i++) PUBLISH();
    declare(connection, amqp_cstring_bytes("barrier"), 0);
  } else if (IS("confirm") || IS("confirm-each")) {
    uint64_t window = IS("confirm") ? WINDOW : 1, done = 0;
    amqp_confirm_select(connection, 1);
    MARK();
    for (uint64_t number = 1; number <= count; number++) {
      double begun = now();
      PUBLISH();
      while (number >= window && done < number + 1 - window) done = confirmed(connection, done);
      if (window == 1) latencies[measured++] = (now() - begun) * 1e6;
    }
    while (done < count) done = confirmed(connection, done);
  } else if (IS("consume") || IS("consume-ack") || IS("consume-ack-100")) {
    int no_ack = IS("consume"), each = IS("consume-ack");
    uint64_t octets = 0;
    if (!no_ack) amqp_basic_qos(connection, 1, 0, prefetch, 0);
    MARK();
    consume(connection, queue, no_ack);
    for (uint64_t number = 1; number <= count; number++) {
      amqp_envelope_t envelope;
      amqp_maybe_release_buffers(connection);
      answered(amqp_consume_message(connection, &envelope, NULL, 0), "message");
      octets += envelope.message.body.len;
      if (each || (!no_ack && (number % 100 == 0 || number == count)))
        check(amqp_basic_ack(connection, 1, envelope.delivery_tag, !each), "ack");
      amqp_destroy_envelope(&envelope);
    }
    if (octets != count * size) return 1;
  } else if (IS("rpc")) {
    declare(connection, queue, 1);
    consume(connection, queue, 1);
    MARK();
    for (uint64_t i = 0; i < count; i++) {
      double begun = now();
      amqp_envelope_t envelope;
      PUBLISH();
      amqp_maybe_release_buffers(connection);
      answered(amqp_consume_message(connection, &envelope, NULL, 0), "message");
      amqp_destroy_envelope(&envelope);
      latencies[measured++] = (now() - begun) * 1e6;
    }
  } else if (IS("get")) {
    for (uint64_t i = 0; i < count; i++) {
      double begun = now();
      amqp_message_t message;
      amqp_maybe_release_buffers(connection);
      answered(amqp_basic_get(connection, 1, queue, 1), "get");
      answered(amqp_read_message(connection, 1, &message, 0), "read");
      if (message.body.len != size) return 1;
      amqp_destroy_message(&message);
      latencies[measured++] = (now() - begun) * 1e6;
    }
  } else if (IS("declare")) {
    for (uint64_t i = 0; i < count; i++) {
      double begun = now();
      declare(connection, queue, 0);
      latencies[measured++] = (now() - begun) * 1e6;
    }
  } else if (IS("channels")) {
    for (uint64_t number = 2; number <= count + 1; number++) open_channel(connection, number);
  } else if (IS("connections")) {
    for (uint64_t i = 0; i < count; i++) open_channel(connect_to(argv[4]), 1);
  } else if (IS("connect")) {
    for (uint64_t i = 0; i < count; i++) {
      double begun = now();
      amqp_connection_state_t another = connect_to(argv[4]);
      latencies[measured++] = (now() - begun) * 1e6;
      answered(amqp_connection_close(another, AMQP_REPLY_SUCCESS), "close");
      amqp_destroy_connection(another);
    }
  } else {
    return 3;
  }
  double end = now();
  getrusage(RUSAGE_SELF, &after);
  qsort(latencies, measured, sizeof *latencies, by_value);
#define PERCENTILE(share) (measured ? latencies[(size_t)((measured - 1) * (share) + 0.5)] : 0)
  printf("{\"count\":%lu,\"wall\":%.6f,\"user\":%.6f,\"sys\":%.6f,\"switches\":%ld,\"rss_kib\":%ld,\"peak_kib\":%ld,"
         "\"threads\":%ld,\"p50\":%.2f,\"p99\":%.2f,\"p999\":%.2f}\n",
         count, end - start, seconds(after.ru_utime) - seconds(before.ru_utime),
         seconds(after.ru_stime) - seconds(before.ru_stime),
         after.ru_nvcsw + after.ru_nivcsw - before.ru_nvcsw - before.ru_nivcsw, status("VmRSS:"), status("VmHWM:"),
         status("Threads:"), PERCENTILE(0.5), PERCENTILE(0.99), PERCENTILE(0.999));
  return 0;
}
