// amqp091-go, as its documentation uses it. See harness/src/job.rs for the arguments and the report.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const window = 1000

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type mark struct {
	at    time.Time
	usage syscall.Rusage
}

func here() (m mark) {
	m.at = time.Now()
	syscall.Getrusage(0, &m.usage)
	return
}

func status(key string) string {
	file, err := os.Open("/proc/self/status")
	check(err)
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), key) {
			return strings.Fields(lines.Text())[1]
		}
	}
	return "0"
}

func main() {
	if len(os.Args) != 6 {
		os.Exit(2)
	}
	scenario, url, queue := os.Args[1], os.Args[4], os.Args[5]
	count, err := strconv.Atoi(os.Args[2])
	check(err)
	size, err := strconv.Atoi(os.Args[3])
	check(err)
	prefetch := 1000
	if name, parameter, found := strings.Cut(scenario, "/"); found {
		scenario = name
		if n, _ := fmt.Sscanf(parameter, "prefetch=%d", &prefetch); n != 1 {
			os.Exit(3)
		}
	}
	connection, err := amqp.Dial(url)
	check(err)
	channel, err := connection.Channel()
	check(err)
	body, ctx := make([]byte, size), context.Background()
	latencies := make([]float64, 0, count)
	timed := func(begun time.Time) {
		latencies = append(latencies, float64(time.Since(begun).Nanoseconds())/1e3)
	}
	publish := func() {
		check(channel.PublishWithContext(ctx, "", queue, false, false, amqp.Publishing{Body: body}))
	}
	start := here()
	switch scenario {
	case "publish":
		for i := 0; i < count; i++ {
			publish()
		}
		_, err = channel.QueueDeclare("barrier", true, false, false, false, nil)
		check(err)
	case "confirm", "confirm-each":
		check(channel.Confirm(false))
		most := window
		if scenario == "confirm-each" {
			most = 1
		}
		confirms := channel.NotifyPublish(make(chan amqp.Confirmation, 2*window))
		start = here()
		confirmed := 0
		for number := 1; number <= count; number++ {
			begun := time.Now()
			publish()
			for confirmed < number+1-most {
				<-confirms
				confirmed++
			}
			if most == 1 {
				timed(begun)
			}
		}
		for confirmed < count {
			<-confirms
			confirmed++
		}
	case "consume", "consume-ack", "consume-ack-100":
		noAck := scenario == "consume"
		if !noAck {
			check(channel.Qos(prefetch, 0, false))
		}
		start = here()
		deliveries, err := channel.Consume(queue, "ctag", noAck, false, false, false, nil)
		check(err)
		octets := 0
		for number := 1; number <= count; number++ {
			delivery := <-deliveries
			octets += len(delivery.Body)
			if scenario == "consume-ack" {
				check(delivery.Ack(false))
			} else if !noAck && (number%100 == 0 || number == count) {
				check(delivery.Ack(true))
			}
		}
		if octets != count*size {
			os.Exit(1)
		}
	case "rpc":
		_, err = channel.QueueDeclare(queue, false, true, true, false, nil)
		check(err)
		deliveries, err := channel.Consume(queue, "ctag", true, false, false, false, nil)
		check(err)
		start = here()
		for i := 0; i < count; i++ {
			begun := time.Now()
			publish()
			<-deliveries
			timed(begun)
		}
	case "get":
		for i := 0; i < count; i++ {
			begun := time.Now()
			delivery, found, err := channel.Get(queue, true)
			check(err)
			if !found || len(delivery.Body) != size {
				os.Exit(1)
			}
			timed(begun)
		}
	case "declare":
		for i := 0; i < count; i++ {
			begun := time.Now()
			_, err = channel.QueueDeclare(queue, true, false, false, false, nil)
			check(err)
			timed(begun)
		}
	case "channels":
		for i := 0; i < count; i++ {
			_, err = connection.Channel()
			check(err)
		}
	case "connections":
		for i := 0; i < count; i++ {
			another, err := amqp.Dial(url)
			check(err)
			_, err = another.Channel()
			check(err)
		}
	case "connect":
		for i := 0; i < count; i++ {
			begun := time.Now()
			another, err := amqp.Dial(url)
			check(err)
			timed(begun)
			check(another.Close())
		}
	default:
		os.Exit(3)
	}
	end := here()
	sort.Float64s(latencies)
	percentile := func(share float64) float64 {
		if len(latencies) == 0 {
			return 0
		}
		return latencies[int(float64(len(latencies)-1)*share+0.5)]
	}
	seconds := func(time syscall.Timeval) float64 { return float64(time.Sec) + float64(time.Usec)/1e6 }
	before, after := start.usage, end.usage
	fmt.Printf("{\"count\":%d,\"wall\":%.6f,\"user\":%.6f,\"sys\":%.6f,\"switches\":%d,\"rss_kib\":%s,\"peak_kib\":%s,\"threads\":%s,\"p50\":%.2f,\"p99\":%.2f,\"p999\":%.2f}\n",
		count, end.at.Sub(start.at).Seconds(), seconds(after.Utime)-seconds(before.Utime),
		seconds(after.Stime)-seconds(before.Stime),
		after.Nvcsw+after.Nivcsw-before.Nvcsw-before.Nivcsw, status("VmRSS:"), status("VmHWM:"),
		status("Threads:"), percentile(0.5), percentile(0.99), percentile(0.999))
}
