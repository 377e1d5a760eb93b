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
const slice = 2 * time.Second

// target is one thing that is read.
type target struct {
	name    string
	request *http.Request
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
	return &target{name: name, request: request}
}

// compare measures all targets in turns and prints a line for each.
func compare(ctx context.Context, targets []*target, connections, rounds int) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}}
	defer client.CloseIdleConnections()
	for _, t := range targets {
		t.samples = nil
	}
	for round := range rounds {
		for i := range targets {
			t := targets[(i+round)%len(targets)] // Nobody is always the first.
			s, err := t.load(ctx, client, connections)
			if err != nil {
				return fmt.Errorf("read %s: %w", t.name, err)
			}
			t.samples = append(t.samples, s)
		}
	}
	fmt.Printf("\n%d connections\n%-10s %14s %22s %12s %12s %12s\n", connections, "", "reads/s", "range", "of the floor", "p50", "p99")
	floor := median(targets[0].samples, func(s sample) float64 { return s.perSecond })
	for _, t := range targets {
		perSecond := func(s sample) float64 { return s.perSecond }
		rates := sorted(t.samples, perSecond)
		fmt.Printf("%-10s %14.0f %22s %12.2f %12s %12s\n", t.name, median(t.samples, perSecond),
			fmt.Sprintf("%.0f-%.0f", rates[0], rates[len(rates)-1]), median(t.samples, perSecond)/floor,
			time.Duration(median(t.samples, func(s sample) float64 { return float64(s.p50) })).Round(10*time.Microsecond),
			time.Duration(median(t.samples, func(s sample) float64 { return float64(s.p99) })).Round(10*time.Microsecond))
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
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("vault answered %s", response.Status)
	}
	return err
}

func sorted(samples []sample, of func(sample) float64) []float64 {
	values := make([]float64, 0, len(samples))
	for _, s := range samples {
		values = append(values, of(s))
	}
	slices.Sort(values)
	return values
}

func median(samples []sample, of func(sample) float64) float64 {
	return sorted(samples, of)[len(samples)/2]
}
