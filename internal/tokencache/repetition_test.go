// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Another token is better if it lives longer, the same one only if it lives longer by more than
// what is rounded off.
func TestBetterThan(t *testing.T) {
	held := placed(time.Hour, 0)
	now := held.aged(50 * time.Minute)
	for name, tt := range map[string]struct {
		value string
		life  time.Duration
		want  bool
	}{
		"another, as long":     {"sk-2", 10 * time.Minute, false},
		"another, longer":      {"sk-2", 10*time.Minute + 1, true},
		"the same, as long":    {"sk-1", 10 * time.Minute, false},
		"the same, rounded":    {"sk-1", 15 * time.Minute, false},
		"the same, for longer": {"sk-1", 15*time.Minute + 1, true},
	} {
		issued := Token{Value: tt.value, IssuedAt: now.Wall, IssuedMono: now.Mono, ExpiresAt: now.Wall.Add(tt.life)}
		assert.Equal(t, tt.want, newCached(issued, Policy{}, time.Minute, 0).betterThan(held, now), name)
	}
}

// The cache asks again when it could help.
func TestRepeatsFor(t *testing.T) {
	held := placed(time.Hour, 0)
	again := newCached(Token{Value: "sk-1"}, Policy{}, time.Minute, 0)
	other := newCached(Token{Value: "sk-2"}, Policy{}, time.Minute, 0)
	for name, tt := range map[string]struct {
		issued     *Cached
		asked, age time.Duration
		edit       func(*state)
		want       time.Duration
	}{
		"at once":                        {issued: again, asked: 10 * time.Minute, age: 10 * time.Minute, want: 5 * time.Minute},
		"almost a twelfth of its life":   {issued: again, asked: 50 * time.Minute, age: 55*time.Minute - 1, want: 1},
		"a twelfth":                      {issued: again, asked: 49 * time.Minute, age: 54 * time.Minute},
		"a worse one":                    {issued: other, asked: 50 * time.Minute, age: 51 * time.Minute, want: 4 * time.Minute},
		"in the buffer":                  {issued: again, asked: 54 * time.Minute, age: 55 * time.Minute},
		"ten seconds":                    {issued: again, asked: 54 * time.Minute, age: time.Hour - 10*time.Second},
		"less than ten seconds":          {issued: again, asked: 54 * time.Minute, age: time.Hour - 10*time.Second + 1, want: 10*time.Second - 1},
		"less than that of a worse one":  {issued: other, asked: 54 * time.Minute, age: time.Hour - time.Second},
		"expired":                        {issued: again, asked: 59 * time.Minute, age: time.Hour},
		"too short, after its end":       {asked: time.Hour, age: time.Hour + 1, want: time.Second - 1},
		"too short, a second after that": {asked: time.Hour, age: time.Hour + time.Second},
		"too short, of a repeated one": {issued: again, asked: 59 * time.Minute, age: time.Hour + 1, want: time.Second/2 - 1, edit: func(s *state) {
			s.repetition = s.repeated(nil, held.aged(time.Hour-time.Second/2))
		}},
		"suspect":           {issued: again, asked: 50 * time.Minute, age: 51 * time.Minute, edit: func(s *state) { s.token = s.token.suspected() }},
		"another token":     {issued: again, asked: 50 * time.Minute, age: 51 * time.Minute, edit: func(s *state) { s.token = other }},
		"no token":          {issued: again, asked: 50 * time.Minute, age: 51 * time.Minute, edit: func(s *state) { s.token = nil }},
		"an operator acted": {issued: again, asked: 50 * time.Minute, age: 51 * time.Minute, edit: (*state).supersede},
		"credentials were rotated": {issued: again, asked: 50 * time.Minute, age: time.Hour - time.Second, edit: func(s *state) {
			rotated := placed(time.Hour, 0)
			rotated.Superseded = true
			s.token = rotated
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &state{token: held}
			s.repetition = s.repeated(tt.issued, held.aged(tt.asked))
			if tt.edit != nil {
				tt.edit(s)
			}
			now := held.aged(tt.age)
			assert.Equal(t, tt.want, s.repeatsFor(now))
			failure, ok := errors.AsType[*RepeatedError](s.repeats(now))
			if assert.Equal(t, tt.want > 0, ok) && ok {
				assert.Equal(t, now.Wall.Add(tt.want), failure.Next)
				assert.Equal(t, held.ExpiresAt, failure.Expires)
			}
		})
	}
}

// A failure is excused at the end of a repeated token, and shortly after it.
func TestEnding(t *testing.T) {
	held := placed(time.Hour, 0)
	s := &state{token: held}
	s.repetition = s.repeated(held, held.aged(50*time.Minute))
	for age, want := range map[time.Duration]bool{
		time.Hour - 10*time.Second:     false,
		time.Hour - 10*time.Second + 1: true,
		time.Hour:                      true,
		time.Hour + 2*time.Second - 1:  true,
		time.Hour + 2*time.Second:      false,
	} {
		assert.Equal(t, want, s.ending(held.aged(age)), age)
	}
	s.repetition.token = "sk-2"
	assert.False(t, s.ending(held.aged(time.Hour)))
	assert.False(t, (&state{}).ending(held.aged(time.Hour)))
}

// What Fuuffy issues again is the same token: its whole life decides what readers may ask for, and
// it isn't young.
func TestTokenThatIsIssuedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newInterruptedCache(t)
		source := &fakeSource{request: grants("again")}
		began := time.Now()
		_, err := c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		time.Sleep(56 * time.Minute)
		source.request = func() (Token, error) {
			return Token{Value: "again", IssuedAt: time.Now(), IssuedMono: monotonic(time.Now()), ExpiresAt: began.Add(time.Hour)}, nil
		}
		r, err := c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		for range 2 {
			assert.Equal(t, 4*time.Minute, r.Token.Life())
			assert.Equal(t, 30*time.Minute, r.Token.maxMinTTL())
			assert.Zero(t, r.Token.ReplaceAge())
			assert.Equal(t, 5*time.Minute, r.Token.repetitionGap())
			require.NoError(t, c.Commit(t.Context(), source.switched)) // It is placed anew.
			r, err = c.Read(t.Context(), source.load, 0)
			require.NoError(t, err)
		}
	})
}
