// SPDX-License-Identifier: MPL-2.0

package histories

import (
	"math/rand/v2"
	"time"
)

// weather is what Fuuffy does from one round to the next.
type weather struct {
	// outage is set while no request succeeds, and repeats while each brings the token that the
	// client already has.
	outage, repeats bool
}

// makeWeather decides when the rounds are, and the weather of each.
func (w *world) makeWeather(random *rand.Rand) {
	stormy, repeats := chance(random, 0.4) || w.unattended && chance(random, 0.7), chance(random, 0.25)
	at := time.Duration(0)
	for i := range 3 + random.IntN(3) {
		w.rounds = append(w.rounds, at)
		w.weather = append(w.weather, weather{i > 0 && stormy && chance(random, 0.5), repeats && chance(random, 0.6)})
		at += []time.Duration{5 * time.Second, 15 * time.Second, 45 * time.Second, w.life * 3 / 4, w.life * 3 / 4, w.life * 19 / 20}[random.IntN(6)]
	}
}

// weatherLocked is the weather of now.
func (w *world) weatherLocked() (now weather) {
	if w.calm {
		return weather{}
	}
	for i, round := range w.rounds {
		if time.Since(w.began) >= round {
			now = w.weather[i]
		}
	}
	return now
}
