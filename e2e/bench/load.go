// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// slice is how long each target is read in a round.
const slice = 2500 * time.Millisecond

// target is one thing that is read.
type target struct {
	name    string
	request *http.Request
	// wants is the status of the answers.
	wants int
	// prepare, if set, starts the condition that the target is measured in, which ends by
	// itself. finish waits for that end.
	prepare func(context.Context) (finish func() error, err error)
	// samples are the rounds with the number of connections that is measured now.
	samples []sample
}

// sample is what a round gave.
type sample struct {
	perSecond float64
	p50, p99  time.Duration
}

func newTarget(name, url, token string) *target {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		panic(err) // The address is our own Vault's.
	}
	request.Header.Set("X-Vault-Token", token)
	return &target{
		name: name, request: request, wants: http.StatusOK,
		prepare: func(context.Context) (func() error, error) { return func() error { return nil }, nil },
	}
}

// compare measures all targets in turns and prints a line for each. The ratios are to
// the first one.
func compare(ctx context.Context, targets []*target, connections, rounds int) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}}
	defer client.CloseIdleConnections()
	for _, t := range targets {
		t.samples = nil
	}
	for round := range rounds {
		for i := range targets {
			t := targets[(i+round)%len(targets)] // No one is always the first.
			if err := t.sample(ctx, client, connections); err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
		}
	}
	fmt.Printf("\n%d connections\n%-30s %9s %16s %7s %10s %10s %7s\n", connections, "", "reads/s", "range", "ratio", "p50", "p99", "ratio")
	floor := targets[0].median()
	for _, t := range targets {
		m := t.median()
		rates := sorted(t.samples, func(s sample) float64 { return s.perSecond })
		fmt.Printf("%-30s %9.0f %16s %7.2f %10s %10s %7.2f\n", t.name, m.perSecond,
			fmt.Sprintf("%.0f-%.0f", rates[0], rates[len(rates)-1]), m.perSecond/floor.perSecond,
			m.p50.Round(10*time.Microsecond), m.p99.Round(10*time.Microsecond), float64(m.p99)/float64(floor.p99))
	}
	return nil
}

func (t *target) sample(ctx context.Context, client *http.Client, connections int) error {
	finish, err := t.prepare(ctx)
	if err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	s, err := t.load(ctx, client, connections)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	t.samples = append(t.samples, s)
	if err := finish(); err != nil {
		return fmt.Errorf("finish: %w", err)
	}
	return nil
}

// load reads a target over so many connections for a slice of time.
func (t *target) load(ctx context.Context, client *http.Client, connections int) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*slice)
	defer cancel()
	took := make([][]time.Duration, connections)
	failures := make([]error, connections)
	var all sync.WaitGroup
	began := time.Now()
	for i := range connections {
		all.Go(func() {
			for time.Since(began) < slice && failures[i] == nil {
				asked := time.Now()
				failures[i] = t.read(ctx, client)
				took[i] = append(took[i], time.Since(asked))
			}
		})
	}
	all.Wait()
	elapsed := time.Since(began)
	for _, err := range failures {
		if err != nil {
			return sample{}, err
		}
	}
	every := slices.Concat(took...)
	slices.Sort(every)
	return sample{float64(len(every)) / elapsed.Seconds(), every[len(every)/2], every[len(every)*99/100]}, nil
}

func (t *target) read(ctx context.Context, client *http.Client) error {
	response, err := client.Do(t.request.Clone(ctx))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	if err == nil && response.StatusCode != t.wants {
		err = fmt.Errorf("vault answered %s", response.Status)
	}
	return err
}

// median has the medians of all rounds.
func (t *target) median() sample {
	middle := func(of func(sample) float64) float64 { return sorted(t.samples, of)[len(t.samples)/2] }
	return sample{
		perSecond: middle(func(s sample) float64 { return s.perSecond }),
		p50:       time.Duration(middle(func(s sample) float64 { return float64(s.p50) })),
		p99:       time.Duration(middle(func(s sample) float64 { return float64(s.p99) })),
	}
}

func sorted(samples []sample, of func(sample) float64) []float64 {
	values := make([]float64, 0, len(samples))
	for _, s := range samples {
		values = append(values, of(s))
	}
	slices.Sort(values)
	return values
}
