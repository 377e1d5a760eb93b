// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/advice"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// adviceTally counts the commands that were advised, and accepted: by name, and by field.
type adviceTally struct {
	mu       sync.Mutex
	accepted map[string]int
	refused  int
}

func (c *adviceTally) count(a advised, accepted bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !accepted {
		c.refused++
		return
	}
	for _, name := range append(slices.Collect(maps.Keys(a.Fields)), a.String()) {
		c.accepted[name]++
	}
}

// Whatever anyone does in whatever predicament: each command that the engine then advises is
// accepted in that state. It may be refused only for what the engine could not know, and the
// refusal then doesn't advise the same again.
func TestEachAdviceIsAccepted(t *testing.T) {
	seen := &adviceTally{accepted: map[string]int{}}
	t.Run("in", func(t *testing.T) {
		for _, p := range predicaments() {
			t.Run(p.String(), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { followEachAdvice(t, p, seen) })
			})
		}
	})
	for _, command := range adviceInCode(t) {
		assert.NotZero(t, seen.accepted[command], "no one was ever advised, and served by: %s", command)
	}
	t.Logf("accepted: %v; %d refused for what could not be known", seen.accepted, seen.refused)
}

func followEachAdvice(t *testing.T, p predicament, seen *adviceTally) {
	tried := map[string]bool{}
	for name := range newTrouble(t, p).adviceRequests() {
		w := newTrouble(t, p)
		w.typed = w.adviceRequests()[name]
		if w.typed.path == "config" && w.typed.operation == logical.ReadOperation && p.state == stateNotConfigured {
			continue // Nothing is there.
		}
		said, done := w.texts(w.typed)
		if !done {
			answer, accepted, asked := w.repeat(said[0])
			require.True(t, !asked || accepted || p.hides() || p.currentDead || p.fuuffy != fuuffyUp, "%s\nadvises: %s\nwhich is refused: %s", name, said, answer)
		}
		changed := done && w.typed.operation != logical.ReadOperation
		for n, text := range said {
			all := w.advisedIn(text)
			for i, a := range all {
				key := fmt.Sprint(all[:i+1])
				if changed {
					key += " after " + name
				}
				if tried[key] {
					continue
				}
				tried[key] = true
				w := newTrouble(t, p)
				said, _ := w.texts(w.adviceRequests()[name])
				require.Greater(t, len(said), n)
				answer, accepted := w.followTo(w.advisedIn(said[n]), i)
				seen.count(a, accepted)
				if accepted {
					continue
				}
				// Whether there is a token to read is up to Fuuffy.
				noToken := a.Path == "token" && (p.currentDead || p.fuuffy != fuuffyUp || p.state == stateNotConfigured)
				require.True(t, p.hides() || noToken, "%s\nadvises: %s\nwhich is refused: %s", name, text, answer)
				if p.fuuffy == fuuffyUp {
					assert.NotContains(t, answer[0], a.pasted, "%s\nadvises: %s", name, text)
				}
			}
		}
	}
}

var codePattern = regexp.MustCompile(`\b(Read|Write|Delete)\(("[\w/-]+"|\w+Key)\)|\b(?:With|WithPlaceholder|WithSecret|Setting)[({]"(\w+)"`)

// adviceInCode are the commands in the engine's texts, and their fields.
func adviceInCode(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("../*.go")
	require.NoError(t, err)
	inPackage, err := filepath.Glob("../internal/advice/*.go")
	require.NoError(t, err)
	for _, file := range append(files, inPackage...) {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		for line := range strings.Lines(string(source)) {
			if strings.HasSuffix(file, "_test.go") || slices.Contains(files, file) && !strings.Contains(line, "advice.") {
				continue
			}
			for _, match := range codePattern.FindAllStringSubmatch(line, -1) {
				path := strings.NewReplacer(`"`, "", "configKey", mounttest.ConfigKey, "tokenKey", mounttest.TokenKey).Replace(match[2])
				names = append(names, cmp.Or(match[3], strings.ToLower(match[1])+" "+path))
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	require.Greater(t, len(names), 15, "%s", names)
	return names
}

// An operator who types what the engine advised last, and nothing else, gets out of every
// predicament.
func TestAdviceLeadsOut(t *testing.T) {
	for _, p := range predicaments() {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { followUntilWell(t, p) })
		})
	}
}

func followUntilWell(t *testing.T, p predicament) {
	w := newTrouble(t, p)
	var told []string
	refused, last := 0, ""
	for range 12 {
		status := w.Do(logical.ReadOperation, "status", nil).Data
		next := status["next_step"].(string)
		if status["health"] == string(advice.OK) && strings.HasPrefix(next, "No action needed until") {
			w.Read()
			assert.LessOrEqual(t, refused, 3, "%s", strings.Join(told, "\n"))
			return
		}
		text := next
		if len(w.advisedIn(last)) > 0 {
			text = last
		}
		last = ""
		told = append(told, text)
		all := w.advisedIn(text)
		waits := len(all) == 0 || strings.HasPrefix(text, "Wait until")
		if waits || all[0].String() == "write rotate-root/check" {
			w.Sandbox.ClearFault() // The outage ends.
			time.Sleep(time.Hour)
		}
		if waits {
			_, _ = w.Handle(t.Context(), logical.ReadOperation, "token", nil)
			synctest.Wait()
			continue
		}
		accepted := true
		for i := 0; i < len(all) && accepted && (i == 0 || all[i].follows); i++ {
			var said []string
			if said, accepted = w.follow(all[i]); !accepted {
				refused++
				told = append(told, "REFUSED: "+said[0])
				if answer, again, asked := w.repeat(said[0]); asked {
					said, accepted = answer, again
				}
			}
			if !accepted {
				last = said[0]
				told = append(told, "REFUSED: "+last)
			}
		}
		if !accepted && p.fuuffy != fuuffyUp {
			w.Sandbox.ClearFault() // The outage ends.
		}
	}
	t.Errorf("still not well:\n%s", strings.Join(told, "\n"))
}
