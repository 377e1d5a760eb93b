// SPDX-License-Identifier: MPL-2.0

package fuuffytest

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// window allows limit requests in each length of time. It starts with the first request after the previous window
// ended, because X-RateLimit-Reset names one moment when the full limit is available again.
type window struct {
	limit  int
	length time.Duration
	used   int
	reset  time.Time
}

func (w *window) remaining() int { return w.limit - w.used }

// newLimits returns the windows of cfg, without unlimited ones.
func newLimits(cfg Config) []*window {
	var limits []*window
	for _, w := range []*window{
		{limit: cmp.Or(cfg.PerMinute, defaultPerMinute), length: time.Minute},
		{limit: cmp.Or(cfg.PerHour, defaultPerHour), length: time.Hour},
	} {
		if w.limit > 0 {
			limits = append(limits, w)
		}
	}
	return limits
}

// takeRequest subtracts one request from all limits, unless one of them is used up, and reports whether it did. A
// refused request subtracts nothing: otherwise a client that keeps retrying would never succeed again. The headers
// describe the limit that will stop the client first. If both stop it now, they describe the one that lasts longer.
func takeRequest(limits []*window, now time.Time, header http.Header) bool {
	if len(limits) == 0 {
		return true
	}
	allowed := true
	for _, w := range limits {
		if !now.Before(w.reset) {
			w.used, w.reset = 0, now.Add(w.length)
		}
		allowed = allowed && w.remaining() > 0
	}
	if allowed {
		for _, w := range limits {
			w.used++
		}
	}
	tightest := slices.MinFunc(limits, func(a, b *window) int {
		return cmp.Or(cmp.Compare(a.remaining(), b.remaining()), b.reset.Compare(a.reset))
	})
	// Round up to whole seconds, so that a client that waits as told succeeds.
	reset := tightest.reset.Add(time.Second - 1).Unix()
	header.Set("X-RateLimit-Limit", strconv.Itoa(tightest.limit))
	header.Set("X-RateLimit-Remaining", strconv.Itoa(tightest.remaining()))
	header.Set("X-RateLimit-Reset", strconv.FormatInt(reset, 10))
	if !allowed {
		wait := (tightest.reset.Sub(now) + time.Second - 1) / time.Second
		header.Set("Retry-After", strconv.FormatInt(int64(wait), 10))
	}
	return allowed
}
