// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"time"

	prometheus "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
)

// point is a sample, at a time of the run.
type point struct {
	at    time.Duration
	value float64
}

// span is a time in which a state lasted.
type span struct{ from, to time.Duration }

// day is what Prometheus saw.
type day struct {
	// served is for how many seconds the token held is still served.
	served []point
	// holdOff is for how many seconds Fuuffy is left alone.
	holdOff []point
	// requests are when the counters of token requests grew, by outcome.
	requests map[string][]time.Duration
	// rotation is by state.
	rotation map[string][]span
	// alarm is when FuuffyAuthenticationFailures fired.
	alarm []span
}

// resolution is that of the scrapes.
const resolution = time.Second

// look asks Prometheus for the run that began then.
func look(ctx context.Context, api prometheus.API, began time.Time) (*day, error) {
	ask := func(query string) (model.Matrix, error) {
		value, _, _, err := api.QueryRange(ctx, query, prometheus.Range{Start: began, End: began.Add(length), Step: resolution})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", query, err)
		}
		matrix, ok := value.(model.Matrix)
		if !ok || len(matrix) == 0 {
			return nil, fmt.Errorf("%s: Prometheus has nothing", query)
		}
		return matrix, nil
	}
	d := &day{requests: map[string][]time.Duration{}, rotation: map[string][]span{}}

	served, err := ask(`max(fuuffy_token_served_until_timestamp_seconds{mount="fuuffy"}) - time()`)
	if err != nil {
		return nil, err
	}
	d.served = points(served[0], began)
	holdOff, err := ask(`max(fuuffy_hold_off_seconds{mount="fuuffy"})`)
	if err != nil {
		return nil, err
	}
	d.holdOff = points(holdOff[0], began)
	requests, err := ask(`max by (outcome) (fuuffy_token_requests_total{mount="fuuffy"})`)
	if err != nil {
		return nil, err
	}
	for _, series := range requests {
		d.requests[string(series.Metric["outcome"])] = growth(points(series, began))
	}
	states, err := ask(`max by (state) (fuuffy_rotation_state{mount="fuuffy"}) == 1`)
	if err != nil {
		return nil, err
	}
	for _, series := range states {
		d.rotation[string(series.Metric["state"])] = spans(points(series, began))
	}
	alarm, err := ask(`ALERTS{alertname="FuuffyAuthenticationFailures", alertstate="firing", mount="fuuffy"}`)
	if err != nil {
		return nil, err
	}
	d.alarm = spans(points(alarm[0], began))
	return d, nil
}

func points(series *model.SampleStream, began time.Time) []point {
	found := make([]point, 0, len(series.Values))
	for _, sample := range series.Values {
		found = append(found, point{sample.Timestamp.Time().Sub(began), float64(sample.Value)})
	}
	return found
}

// growth returns when a counter had grown, once for each one more.
func growth(counter []point) []time.Duration {
	var found []time.Duration
	for i := 1; i < len(counter); i++ {
		for range int(counter[i].value - counter[i-1].value) {
			found = append(found, counter[i].at)
		}
	}
	return found
}

// spans joins samples that follow each other. A single scrape may fail in between.
func spans(samples []point) []span {
	var found []span
	for _, p := range samples {
		if last := len(found) - 1; last >= 0 && p.at <= found[last].to+3*resolution/2 {
			found[last].to = p.at + resolution
			continue
		}
		found = append(found, span{p.at, p.at + resolution})
	}
	return found
}
