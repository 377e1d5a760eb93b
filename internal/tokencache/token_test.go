// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

const nearlyOne = 1 - 1e-9

func placed(life time.Duration, random float64) *Cached {
	issued := time.Unix(1_800_000_000, 0)
	t := Token{Value: "sk-1", IssuedAt: issued, ExpiresAt: issued.Add(life)}
	return newCached(t, Policy{Buffer: 5 * time.Minute, Window: 5 * time.Minute}, time.Minute, random)
}

func (t *Cached) aged(age time.Duration) Instant {
	return Instant{Wall: t.IssuedAt.Add(age), Mono: age}
}

// The states follow each other at exact ages, for Fuuffy's hour and for tokens so short
// that the windows shrink.
func TestStates(t *testing.T) {
	for life, want := range map[time.Duration]struct{ opens, served time.Duration }{
		time.Hour:        {50 * time.Minute, 55 * time.Minute},
		10 * time.Minute: {225 * time.Second, 5 * time.Minute},
		20 * time.Second: {7500 * time.Millisecond, 10 * time.Second},
	} {
		c := placed(life, 0)
		assert.Equal(t, want.served, c.ServedFor)
		assert.Equal(t, c.IssuedAt.Add(want.served), c.ServedUntil())
		for _, step := range []struct {
			age           time.Duration
			before, after TokenState
		}{{want.opens, Fresh, InWindow}, {want.served, InWindow, InBuffer}, {life, InBuffer, Expired}} {
			assert.Equal(t, step.before, c.state(c.aged(step.age-1)), "%s of %s", step.age, life)
			assert.Equal(t, step.after, c.state(c.aged(step.age)), "%s of %s", step.age, life)
		}
	}
	early := placed(time.Hour, nearlyOne)
	assert.Equal(t, Fresh, early.state(early.aged(49*time.Minute+29*time.Second)))
	assert.Equal(t, InWindow, early.state(early.aged(49*time.Minute+31*time.Second)), "a tenth of the window early at most")
}

// Either clock makes a token older.
func TestAgeIsTheOlderOfBothClocks(t *testing.T) {
	c := placed(time.Hour, 0)
	assert.Equal(t, Expired, c.state(Instant{Wall: c.IssuedAt.Add(time.Hour), Mono: 0}))
	assert.Equal(t, Expired, c.state(Instant{Wall: c.IssuedAt.Add(-time.Hour), Mono: time.Hour}))

	// The monotonic clock counts from the start of the process. A token may be older or, if the
	// wall clock was wrong, from the future.
	const up = 5 * time.Hour
	for age, mono := range map[time.Duration]time.Duration{0: 0, 20 * time.Minute: 20 * time.Minute, -2 * time.Minute: 0} {
		stored, ok := fromStorage(c.Token, Policy{Buffer: 5 * time.Minute}, Instant{Wall: c.IssuedAt.Add(age), Mono: up})
		assert.True(t, ok)
		c := newCached(stored, Policy{}, time.Minute, 0)
		back := c.IssuedAt.Add(-time.Hour)
		assert.Equal(t, Fresh, c.state(Instant{Wall: back, Mono: up}), age)
		assert.NotEqual(t, Expired, c.state(Instant{Wall: back, Mono: up + time.Hour - mono - 1}), age)
		assert.Equal(t, Expired, c.state(Instant{Wall: back, Mono: up + time.Hour - mono}), age)
	}
}

// When a reader should come back: not before the token is certainly replaced, not after
// it is served, a second earlier than that for the Agent's own.
func TestTTL(t *testing.T) {
	for name, tt := range map[string]struct {
		life, age     time.Duration
		minTTL        time.Duration
		soon, failing bool
		least, most   time.Duration
	}{
		"fresh":             {life: time.Hour, age: 0, least: 51*time.Minute + 15*time.Second, most: 54*time.Minute + 58*time.Second},
		"in its window":     {life: time.Hour, age: 52 * time.Minute, least: time.Second, most: 2*time.Minute + 58*time.Second},
		"at its end":        {life: time.Hour, age: 55 * time.Minute, least: time.Second, most: time.Second},
		"soon":              {life: time.Hour, age: 0, soon: true, least: time.Second, most: 59 * time.Second},
		"failing":           {life: time.Hour, age: 54*time.Minute + 59*time.Second, failing: true, least: 15 * time.Second, most: 29 * time.Second},
		"failing, 2 min":    {life: 2 * time.Minute, age: time.Minute, failing: true, least: 6 * time.Second, most: 11 * time.Second},
		"failing, 10 s":     {life: 10 * time.Second, age: 5 * time.Second, failing: true, least: time.Second, most: time.Second},
		"10 s, fresh":       {life: 10 * time.Second, age: 0, least: 3 * time.Second, most: 3 * time.Second},
		"short, fresh":      {life: 20 * time.Second, age: 0, least: 7 * time.Second, most: 7 * time.Second},
		"short, its window": {life: 20 * time.Second, age: 8 * time.Second, least: 0, most: 0},
		"short, it opens":   {life: 20 * time.Second, age: 7500 * time.Millisecond, least: 0, most: time.Second},
		"14 min, fresh":     {life: 14 * time.Minute, age: 0, least: 6*time.Minute + 45*time.Second, most: 8*time.Minute + 56*time.Second},
		"15 min, fresh":     {life: 15 * time.Minute, age: 0, least: 8*time.Minute + 45*time.Second, most: 9*time.Minute + 58*time.Second},
		"a job":             {life: time.Hour, age: 10 * time.Minute, minTTL: 25 * time.Minute, least: 25 * time.Minute, most: 26*time.Minute - time.Second},
		"a job, no other":   {life: time.Hour, age: 10 * time.Minute, minTTL: time.Minute, least: 41*time.Minute + 15*time.Second, most: 44*time.Minute + 58*time.Second},
		"a job, at its end": {life: time.Hour, age: 35 * time.Minute, minTTL: 25 * time.Minute, least: time.Second, most: 59 * time.Second},
		"4 min, fresh":      {life: 4 * time.Minute, age: 0, least: 90 * time.Second, most: 116 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			c := placed(tt.life, 0)
			assert.Equal(t, tt.least, c.ttl(c.aged(tt.age), ttlInput{delay: time.Second, minTTL: tt.minTTL, soon: tt.soon, failing: tt.failing}), "least")
			assert.Equal(t, tt.most, c.ttl(c.aged(tt.age), ttlInput{delay: time.Second, random: nearlyOne, minTTL: tt.minTTL, soon: tt.soon, failing: tt.failing}), "most")
		})
	}
}

// A limit brings readers back sooner, spread over its second half, and never later.
func TestMaxReadTTL(t *testing.T) {
	for name, tt := range map[string]struct {
		limit, life, age time.Duration
		minTTL           time.Duration
		soon, failing    bool
		least, most      time.Duration
	}{
		"fresh":            {limit: 2 * time.Minute, life: time.Hour, least: time.Minute, most: 2*time.Minute - time.Second},
		"an odd limit":     {limit: 11 * time.Second, life: time.Hour, least: 5 * time.Second, most: 10 * time.Second},
		"a job":            {limit: 2 * time.Minute, life: time.Hour, minTTL: 25 * time.Minute, least: time.Minute, most: 2*time.Minute - time.Second},
		"failing":          {limit: 10 * time.Second, life: time.Hour, age: 52 * time.Minute, failing: true, least: 5 * time.Second, most: 9 * time.Second},
		"soon":             {limit: 10 * time.Second, life: time.Hour, soon: true, least: time.Second, most: 9 * time.Second},
		"at its end":       {limit: 10 * time.Minute, life: time.Hour, age: 54 * time.Minute, least: time.Second, most: 58 * time.Second},
		"longer than life": {limit: 24 * time.Hour, life: time.Hour, least: 51*time.Minute + 15*time.Second, most: 54*time.Minute + 58*time.Second},
		"short":            {limit: 10 * time.Second, life: 20 * time.Second, least: 5 * time.Second, most: 7 * time.Second},
		"short, its end":   {limit: 10 * time.Second, life: 20 * time.Second, age: 8 * time.Second, least: 0, most: 0},
	} {
		t.Run(name, func(t *testing.T) {
			routine := placed(tt.life, 0)
			limited := newCached(routine.Token, Policy{Buffer: 5 * time.Minute, Window: 5 * time.Minute, MaxReadTTL: tt.limit}, time.Minute, 0)
			ttl := func(c *Cached, random float64) time.Duration {
				return c.ttl(c.aged(tt.age), ttlInput{delay: time.Second, random: random, minTTL: tt.minTTL, soon: tt.soon, failing: tt.failing})
			}
			assert.Equal(t, tt.least, ttl(limited, 0), "least")
			assert.Equal(t, tt.most, ttl(limited, nearlyOne), "most")
			for _, random := range []float64{0, 0.25, 0.5, 0.75, nearlyOne} {
				assert.LessOrEqual(t, ttl(limited, random), ttl(routine, random), "%v", random)
				assert.LessOrEqual(t, ttl(limited, random), tt.limit, "%v", random)
			}
		})
	}
}

func TestReplaceAge(t *testing.T) {
	for life, want := range map[time.Duration]time.Duration{time.Hour: 30 * time.Second, 5 * time.Minute: 30 * time.Second, time.Minute: 6 * time.Second, 10 * time.Second: time.Second} {
		assert.Equal(t, want, placed(life, 0).ReplaceAge(), life)
	}
}

// The clock of the node that stored a token may have been ahead. The buffer allows for that, and
// where it is short, up to a twentieth of the life.
func TestAgeOfAStoredToken(t *testing.T) {
	for name, tt := range map[string]struct{ life, buffer, want time.Duration }{
		"an hour":        {time.Hour, 5 * time.Minute, 0},
		"a short buffer": {time.Hour, 90 * time.Second, 30 * time.Second},
		"a short life":   {7 * time.Minute, 5 * time.Second, 21 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			const age, up = time.Minute, 5 * time.Hour
			issued := placed(tt.life, 0).Token
			stored, ok := fromStorage(issued, Policy{Buffer: tt.buffer}, Instant{Wall: issued.IssuedAt.Add(age), Mono: up})
			assert.True(t, ok)
			assert.Equal(t, age+tt.want, up-stored.IssuedMono)
		})
	}
}
