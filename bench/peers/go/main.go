// Go peers of the benchmark. Each reads so many JSON messages, parses each into a map, does nothing with it, and
// acknowledges at least once. The last line is what the harness reads: rate and CPU time a message.
//
//	peers franz          SERVERS TOPIC GROUP COUNT
//	peers watermill-kafka SERVERS TOPIC GROUP COUNT
//	peers amqp           URI QUEUE PREFETCH COUNT      each message acknowledged
//	peers amqp-multiple  URI QUEUE PREFETCH COUNT      acknowledged each quarter of the prefetch
//	peers watermill-amqp URI QUEUE PREFETCH COUNT
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	wmamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	wmkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/twmb/franz-go/pkg/kgo"
)

// meter counts from the first message to the last.
type meter struct {
	total, done int
	started     time.Time
	cpu         time.Duration
}

func cpu() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		log.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// work handles one message; true after the last.
func (m *meter) work(body []byte) bool {
	if m.done == 0 {
		m.started, m.cpu = time.Now(), cpu()
	}
	var document map[string]any
	if err := json.Unmarshal(body, &document); err != nil {
		log.Fatal(err)
	}
	m.done++
	return m.done >= m.total
}

func (m *meter) print() {
	n := float64(m.done - 1)
	rate := n / time.Since(m.started).Seconds()
	each := float64((cpu() - m.cpu).Microseconds()) / n
	fmt.Printf("{\"rate\":%f,\"cpu_us\":%f}\n", rate, each)
}

func main() {
	if len(os.Args) != 6 {
		log.Fatal("peers WHICH SERVER NAME GROUP|PREFETCH COUNT")
	}
	which, server, name, third := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	count, err := strconv.Atoi(os.Args[5])
	check(err)
	m := &meter{total: count}
	switch which {
	case "franz":
		franz(m, server, name, third)
	case "amqp", "amqp-multiple":
		rabbit(m, server, name, third, which == "amqp-multiple")
	case "watermill-kafka":
		config := wmkafka.DefaultSaramaSubscriberConfig()
		config.Consumer.Offsets.Initial = sarama.OffsetOldest
		subscriber, err := wmkafka.NewSubscriber(wmkafka.SubscriberConfig{
			Brokers:               strings.Split(server, ","),
			Unmarshaler:           wmkafka.DefaultMarshaler{},
			OverwriteSaramaConfig: config,
			ConsumerGroup:         third,
		}, watermill.NopLogger{})
		check(err)
		router(m, subscriber, name)
	case "watermill-amqp":
		config := wmamqp.NewDurableQueueConfig(server)
		prefetch, err := strconv.Atoi(third)
		check(err)
		config.Consume.Qos.PrefetchCount = prefetch
		subscriber, err := wmamqp.NewSubscriber(config, watermill.NopLogger{})
		check(err)
		router(m, subscriber, name)
	default:
		log.Fatalf("no peer %q", which)
	}
	m.print()
}

func franz(m *meter, servers, topic, group string) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(servers, ",")...),
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.AutoCommitMarks(),
		kgo.AutoCommitInterval(200*time.Millisecond),
	)
	check(err)
	defer client.Close()
	for {
		fetches := client.PollFetches(context.Background())
		for _, failed := range fetches.Errors() {
			log.Fatal(failed.Err)
		}
		last := false
		fetches.EachRecord(func(record *kgo.Record) {
			last = m.work(record.Value) || last
			client.MarkCommitRecords(record)
		})
		if last {
			return
		}
	}
}

func rabbit(m *meter, uri, queue, prefetch string, multiple bool) {
	connection, err := amqp.Dial(uri)
	check(err)
	defer connection.Close()
	channel, err := connection.Channel()
	check(err)
	window, err := strconv.Atoi(prefetch)
	check(err)
	check(channel.Qos(window, 0, false))
	deliveries, err := channel.Consume(queue, "", false, false, false, false, nil)
	check(err)
	stride := 1
	if multiple {
		stride = max(window/4, 1)
	}
	for delivery := range deliveries {
		last := m.work(delivery.Body)
		if m.done%stride == 0 || last {
			check(delivery.Ack(multiple))
		}
		if last {
			return
		}
	}
	log.Fatal("the consumer ended")
}

// router is how watermill is meant to be used: one handler on a subscriber.
func router(m *meter, subscriber message.Subscriber, name string) {
	r, err := message.NewRouter(message.RouterConfig{CloseTimeout: time.Second}, watermill.NopLogger{})
	check(err)
	ctx, stop := context.WithCancel(context.Background())
	// A Kafka subscriber runs one handler a partition.
	bodies := make(chan []byte)
	finished := make(chan struct{})
	go func() {
		for body := range bodies {
			if m.work(body) {
				close(finished)
				stop()
				return
			}
		}
	}()
	r.AddConsumerHandler("bench", name, subscriber, func(msg *message.Message) error {
		select {
		case bodies <- msg.Payload:
		case <-finished:
		}
		return nil
	})
	if err := r.Run(ctx); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
