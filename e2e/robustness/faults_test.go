// SPDX-License-Identifier: MPL-2.0

package robustness

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// TestSchedule: the seed decides what goes wrong, and when.
func TestSchedule(t *testing.T) {
	faults := func(seed uint64) string {
		return fmt.Sprint(schedule(stream(seed, "nodes"), nodeFaults, time.Minute, time.Second, 6*time.Second))
	}
	assert.Equal(t, faults(1), faults(1))
	assert.NotEqual(t, faults(1), faults(2))
}
