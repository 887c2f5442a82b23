package metrics

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// handles are the handles of one kind by their labels, counted by how many hold them.
type handles[K comparable, H any] struct {
	mu sync.Mutex
	// guarded by mu
	held map[K]*held[H]
}

type held[H any] struct {
	handle *H
	count  int
}

func (h *handles[K, H]) acquire(k K, build func() *H) *H {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.held[k]
	if e == nil {
		if h.held == nil {
			h.held = make(map[K]*held[H])
		}
		e = &held[H]{handle: build()}
		h.held[k] = e
	}
	e.count++
	return e.handle
}

// release gives back one hold; last reports that it was the last one. A release too many is none.
func (h *handles[K, H]) release(k K) (last bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.held[k]
	if e == nil {
		return false
	}
	if e.count--; e.count > 0 {
		return false
	}
	delete(h.held, k)
	return true
}

func (h *handles[K, H]) all() []*H {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]*H, 0, len(h.held))
	for _, e := range h.held {
		out = append(out, e.handle)
	}
	return out
}

// sink turns numbers into Prometheus' metrics.
type sink struct{ ch chan<- prometheus.Metric }

func (s sink) counter(d *prometheus.Desc, n uint64, labels ...string) {
	s.ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func (s sink) seconds(d *prometheus.Desc, t time.Duration, labels ...string) {
	s.ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, t.Seconds(), labels...)
}

func (s sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s.ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (s sink) histogram(d *prometheus.Desc, h *Histogram, labels ...string) {
	s.ch <- h.metric(d, labels...)
}

// words sends one counter a word, the word as the last label.
func (s sink) words(d *prometheus.Desc, w *Words, labels ...string) {
	all := make([]string, len(labels)+1)
	copy(all, labels)
	w.each(func(word string, n uint64) {
		all[len(labels)] = word
		s.counter(d, n, all...)
	})
}

// clean makes a label value that Prometheus accepts: names come from files and may be anything.
func clean(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
