// SPDX-License-Identifier: MPL-2.0

package history

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// TestCauses: of operations of unknown outcome, a step is due to the last that had begun. The
// others may Never have happened.
func TestCauses(t *testing.T) {
	h := goodCluster()
	promote := h.first(OpPromote)
	promote.Outcome, promote.End, promote.Seen = Unknown, at(60), nil
	for _, begin := range []int{28, 29} {
		h.Calls = slices.Insert(h.Calls, 0, &Call{ID: 99, Op: OpPromote, Span: Span{at(begin), at(60)}, Outcome: Unknown})
	}
	assert.Empty(t, Judge(h))
	assert.Same(t, promote, h.steps[2].cause)
}

// TestCausesThatHadNotBegun: of operations of unknown outcome, a step is due to one that had
// begun when the engine took it, whichever was recorded first.
func TestCausesThatHadNotBegun(t *testing.T) {
	for _, i := range []int{0, len(goodCluster().Calls)} {
		h := goodCluster()
		promote := h.first(OpPromote)
		promote.Outcome, promote.End, promote.Seen = Unknown, at(60), nil
		h.Calls = slices.Insert(h.Calls, i, &Call{ID: 99, Op: OpPromote, Span: Span{at(34).minus(-time.Second / 2), at(60)}, Outcome: Unknown})
		h.Calls = append(h.Calls, &Call{ID: 100, Worker: "looks", Op: OpReadConfig, Span: Span{at(34).minus(-time.Second / 10), at(34).minus(-time.Second / 4)},
			Outcome: OK, Seen: &Seen{Current: "C2", Reminder: 1002}})
		assert.Empty(t, Judge(h))
		assert.Same(t, promote, h.steps[2].cause)
	}
}
