// The Java client, as its documentation uses it. See harness/src/job.rs for the arguments and the report.
// Warming up the JIT is a part of what is measured.

import com.rabbitmq.client.*;
import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.file.*;
import java.util.Arrays;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicLong;

public class Driver {
    static final int WINDOW = 1000;

    static long cpu() {
        return ((OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime();
    }

    static long status(String key, int column) throws IOException {
        for (String line : Files.readAllLines(Paths.get("/proc/self/status")))
            if (line.startsWith(key)) return Long.parseLong(line.trim().split("\\s+")[column]);
        return 0;
    }

    static long switches() throws IOException {
        long total = 0;
        try (DirectoryStream<Path> tasks = Files.newDirectoryStream(Paths.get("/proc/self/task"))) {
            for (Path task : tasks)
                for (String line : Files.readAllLines(task.resolve("status")))
                    if (line.contains("ctxt_switches:")) total += Long.parseLong(line.trim().split("\\s+")[1]);
        }
        return total;
    }

    static long begun, used, switched;

    static void mark() throws IOException {
        switched = switches();
        begun = System.nanoTime();
        used = cpu();
    }

    public static void main(String[] args) throws Exception {
        String scenario = args[0], queue = args[4];
        int count = Integer.parseInt(args[1]), size = Integer.parseInt(args[2]), prefetch = 1000;
        if (scenario.contains("/prefetch=")) {
            prefetch = Integer.parseInt(scenario.substring(scenario.indexOf('=') + 1));
            scenario = scenario.substring(0, scenario.indexOf('/'));
        }
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(args[3]);
        Connection connection = factory.newConnection();
        Channel channel = connection.createChannel();
        byte[] body = new byte[size];
        double[] latencies = new double[count];
        int measured = 0;
        AMQP.BasicProperties properties = new AMQP.BasicProperties();
        mark();
        switch (scenario) {
            case "publish":
                for (int i = 0; i < count; i++) channel.basicPublish("", queue, properties, body);
                channel.queueDeclare("barrier", true, false, false, null);
                break;
            case "confirm": case "confirm-each": {
                channel.confirmSelect();
                int window = scenario.equals("confirm") ? WINDOW : 1;
                AtomicLong confirmed = new AtomicLong();
                Object monitor = new Object();
                channel.addConfirmListener(new ConfirmListener() {
                    public void handleAck(long tag, boolean multiple) {
                        synchronized (monitor) { confirmed.set(Math.max(tag, confirmed.get())); monitor.notify(); }
                    }
                    public void handleNack(long tag, boolean multiple) { System.exit(1); }
                });
                mark();
                for (int number = 1; number <= count; number++) {
                    long start = System.nanoTime();
                    channel.basicPublish("", queue, properties, body);
                    synchronized (monitor) { while (confirmed.get() < number + 1 - window) monitor.wait(); }
                    if (window == 1) latencies[measured++] = (System.nanoTime() - start) / 1e3;
                }
                synchronized (monitor) { while (confirmed.get() < count) monitor.wait(); }
                break;
            }
            case "consume": case "consume-ack": case "consume-ack-100": {
                boolean noAck = scenario.equals("consume"), each = scenario.equals("consume-ack");
                if (!noAck) channel.basicQos(prefetch);
                CountDownLatch done = new CountDownLatch(1);
                mark();
                channel.basicConsume(queue, noAck, "ctag", new DefaultConsumer(channel) {
                    int number;
                    long octets;
                    public void handleDelivery(String tag, Envelope envelope, AMQP.BasicProperties p, byte[] content)
                            throws IOException {
                        number++;
                        octets += content.length;
                        if (each || !noAck && (number % 100 == 0 || number == count))
                            getChannel().basicAck(envelope.getDeliveryTag(), !each);
                        if (number == count) { if (octets != (long) count * size) System.exit(1); done.countDown(); }
                    }
                });
                done.await();
                break;
            }
            case "rpc": {
                channel.queueDeclare(queue, false, true, true, null);
                SynchronousQueue<byte[]> arrived = new SynchronousQueue<>();
                channel.basicConsume(queue, true, "ctag", new DefaultConsumer(channel) {
                    public void handleDelivery(String tag, Envelope envelope, AMQP.BasicProperties p, byte[] content) {
                        try { arrived.put(content); } catch (InterruptedException e) { throw new RuntimeException(e); }
                    }
                });
                mark();
                for (int i = 0; i < count; i++) {
                    long start = System.nanoTime();
                    channel.basicPublish("", queue, properties, body);
                    arrived.take();
                    latencies[measured++] = (System.nanoTime() - start) / 1e3;
                }
                break;
            }
            case "get":
                for (int i = 0; i < count; i++) {
                    long start = System.nanoTime();
                    if (channel.basicGet(queue, true).getBody().length != size) System.exit(1);
                    latencies[measured++] = (System.nanoTime() - start) / 1e3;
                }
                break;
            case "declare":
                for (int i = 0; i < count; i++) {
                    long start = System.nanoTime();
                    channel.queueDeclare(queue, true, false, false, null);
                    latencies[measured++] = (System.nanoTime() - start) / 1e3;
                }
                break;
            case "channels":
                for (int i = 0; i < count; i++) connection.createChannel();
                break;
            case "connections":
                for (int i = 0; i < count; i++) factory.newConnection().createChannel();
                break;
            case "connect":
                for (int i = 0; i < count; i++) {
                    long start = System.nanoTime();
                    Connection another = factory.newConnection();
                    latencies[measured++] = (System.nanoTime() - start) / 1e3;
                    another.close();
                }
                break;
            default:
                System.exit(3);
        }
        double wall = (System.nanoTime() - begun) / 1e9, user = (cpu() - used) / 1e9;
        Arrays.sort(latencies, 0, measured);
        System.out.printf("{\"count\":%d,\"wall\":%.6f,\"user\":%.6f,\"sys\":0,\"switches\":%d,\"rss_kib\":%d,"
                + "\"peak_kib\":%d,\"threads\":%d,\"p50\":%.2f,\"p99\":%.2f,\"p999\":%.2f}%n",
            count, wall, user, switches() - switched, status("VmRSS:", 1), status("VmHWM:", 1), status("Threads:", 1),
            percentile(latencies, measured, 0.5), percentile(latencies, measured, 0.99),
            percentile(latencies, measured, 0.999));
        System.exit(0);
    }

    static double percentile(double[] sorted, int measured, double share) {
        return measured == 0 ? 0 : sorted[(int) ((measured - 1) * share + 0.5)];
    }
}
