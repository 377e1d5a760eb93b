// SPDX-License-Identifier: MPL-2.0

package rotation

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

var noon = time.Date(2026, 2, 1, 12, 0, 0, 0, time.UTC)

func TestStandingAfter(t *testing.T) {
	before := noon.Add(-time.Hour)
	nothing := Standing{}
	worked := Standing{Succeeded: before}
	failed := Standing{Succeeded: before, Failed: before}
	rejected := Standing{Succeeded: before, Failed: before, Rejected: true}
	revoked := Standing{Succeeded: before, Failed: before, Rejected: true, Revoked: true}
	for name, c := range map[string]struct {
		before Standing
		answer Answer
		after  Standing
	}{
		"unknown, no answer":  {nothing, NoAnswer, Standing{Failed: noon}},
		"unknown, accepted":   {nothing, Accepted, Standing{Succeeded: noon}},
		"unknown, rejected":   {nothing, Rejected, Standing{Failed: noon, Rejected: true}},
		"unknown, revoked":    {nothing, Revoked, Standing{Failed: noon, Rejected: true, Revoked: true}},
		"worked, no answer":   {worked, NoAnswer, Standing{Succeeded: before, Failed: noon}},
		"worked, accepted":    {worked, Accepted, Standing{Succeeded: noon}},
		"worked, rejected":    {worked, Rejected, Standing{Succeeded: before, Failed: noon, Rejected: true}},
		"worked, revoked":     {worked, Revoked, Standing{Succeeded: before, Failed: noon, Rejected: true, Revoked: true}},
		"failed, no answer":   {failed, NoAnswer, Standing{Succeeded: before, Failed: noon}},
		"failed, accepted":    {failed, Accepted, Standing{Succeeded: noon}},
		"rejected, no answer": {rejected, NoAnswer, Standing{Succeeded: before, Failed: noon, Rejected: true}},
		"rejected, accepted":  {rejected, Accepted, Standing{Succeeded: noon}},
		"rejected, revoked":   {rejected, Revoked, Standing{Succeeded: before, Failed: noon, Rejected: true, Revoked: true}},
		// A page of a firewall takes no proof back. Only a token does.
		"revoked, no answer": {revoked, NoAnswer, Standing{Succeeded: before, Failed: noon, Rejected: true, Revoked: true}},
		"revoked, rejected":  {revoked, Rejected, Standing{Succeeded: before, Failed: noon, Rejected: true, Revoked: true}},
		"revoked, accepted":  {revoked, Accepted, Standing{Succeeded: noon}},
	} {
		t.Run(name, func(t *testing.T) { assert.Equal(t, c.after, c.before.After(c.answer, noon)) })
	}
}

func TestStandingWorks(t *testing.T) {
	for name, c := range map[string]struct {
		standing Standing
		works    bool
	}{
		"nothing is known":   {Standing{}, false},
		"a later success":    {Standing{Succeeded: noon.Add(time.Second)}, true},
		"a success then":     {Standing{Succeeded: noon}, true},
		"an earlier success": {Standing{Succeeded: noon.Add(-time.Nanosecond)}, false},
		"a failure after it": {Standing{Succeeded: noon, Failed: noon}, false},
		"only a failure":     {Standing{Failed: noon}, false},
	} {
		t.Run(name, func(t *testing.T) { assert.Equal(t, c.works, c.standing.Works(noon)) })
	}
	assert.False(t, Standing{}.Works(time.Time{}), "nothing is no success, however long ago")
}
