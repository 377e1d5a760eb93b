// SPDX-License-Identifier: MPL-2.0

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDraw(t *testing.T) {
	second := time.Second
	drawn := string(draw(&day{
		served:   []point{{0, 15}, {second, 14}, {2 * second, -1}, {3 * second, 15}},
		holdOff:  []point{{0, 0}, {2 * second, 30}, {3 * second, 0}},
		requests: map[string][]time.Duration{"ok": {0, 3 * second}, "rejected": {2 * second}},
		rotation: map[string][]span{"idle": {{0, length}}},
		alarm:    []span{{2 * second, 3 * second}},
	}))
	for _, step := range steps {
		assert.Contains(t, drawn, ">"+step.label+"<")
	}
	assert.Equal(t, 3, strings.Count(drawn, "<circle"), "token requests")
	assert.Contains(t, drawn, "gave 2 of them")
	assert.Contains(t, drawn, "apps get errors")
	for decoder := xml.NewDecoder(strings.NewReader(drawn)); ; {
		_, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
	}
}

func TestGrowth(t *testing.T) {
	counter := []point{{0, 4}, {1, 4}, {2, 6}, {3, 6}, {4, 7}}
	assert.Equal(t, []time.Duration{2, 2, 4}, growth(counter))
}

func TestSpans(t *testing.T) {
	second := time.Second
	found := spans([]point{{0, 1}, {second, 1}, {3 * second, 1}, {9 * second, 1}})
	assert.Equal(t, []span{{0, 4 * second}, {9 * second, 10 * second}}, found, "one scrape missed is no gap, five are")
}
