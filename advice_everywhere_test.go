// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"net/http"
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

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// predicament is a state that a mount can be in, with what is wrong around it.
type predicament struct {
	state                  string
	currentDead, otherDead bool // other is the staged or the previous client.
	fuuffy                 string
	// knows is how the engine found out: not yet, by a read, by a check, or by a read
	// whose last token is in its buffer.
	knows string
}

const (
	stateNotConfigured = "not configured"
	stateDue           = "due"
	stateUnrevoked     = "unrevoked"
	stateCompromised   = "compromised"

	fuuffyUp               = "up"
	fuuffyElsewhere        = "elsewhere"
	fuuffyUnknownAuthority = "unknown authority"

	knowsNothing = "nothing"
	knowsByCheck = "check"
)

var fuuffyFaults = map[string]fuuffytest.Fault{
	fuuffyUp: {}, "down": faultUnavailable, "rate limited": faultRateLimited, "malformed": faultMalformed,
	fuuffyElsewhere: {}, fuuffyUnknownAuthority: {},
}

func (p predicament) String() string {
	return fmt.Sprintf("%s, current dead %t, other dead %t, fuuffy %s, knows %s", p.state, p.currentDead, p.otherDead, p.fuuffy, p.knows)
}

// hides tells whether something is wrong that the engine can't know yet. Only then may it
// advise a command that is refused.
func (p predicament) hides() bool {
	anyDead := p.currentDead || p.otherDead
	switch {
	case p.fuuffy != fuuffyUp:
		return anyDead || p.knows == knowsNothing
	case p.knows == knowsNothing:
		return anyDead
	case p.knows == knowsByCheck:
		return false
	}
	// A reader has tried the credentials in force, and after promote those before them.
	return p.otherDead && !(p.currentDead && p.state == statePromoted)
}

// predicaments are all of them. While something else than Fuuffy answers, dead credentials and
// a check make no difference to advice.
func predicaments() (all []predicament) {
	for _, state := range []string{stateNotConfigured, stateIdle, stateDue, stateUnrevoked, stateStaged, statePromoted, stateCompromised} {
		for fuuffy := range fuuffyFaults {
			answers := slices.Contains([]string{fuuffyUp, "down", "rate limited"}, fuuffy)
			for _, knows := range []string{knowsNothing, "read", knowsByCheck, "buffer"} {
				for _, dead := range [][2]bool{{false, false}, {true, false}, {false, true}, {true, true}} {
					p := predicament{state, dead[0], dead[1], fuuffy, knows}
					hasOther := state == stateStaged || state == statePromoted || state == stateCompromised
					switch {
					case state == stateNotConfigured && (dead[0] || knows != knowsNothing), dead[1] && !hasOther:
					case (dead[0] || dead[1] || !answers) && knows == "buffer", (dead[0] || dead[1] || knows == knowsByCheck) && !answers:
					default:
						all = append(all, p)
					}
				}
			}
		}
	}
	return all
}

// trouble is a mount in a predicament, and an operator who knows the clients' secrets.
type trouble struct {
	*mount
	predicament
	secrets map[string]string
	// typed is the command that was typed last.
	typed adviceRequest
}

const rightHost = "right.example.com"

// newTrouble makes a predicament. The mount's path is not the usual one, so that advice with a
// fixed path shows.
func newTrouble(t *testing.T, p predicament) *trouble {
	t.Helper()
	w := &trouble{mount: newMount(t), predicament: predicament{fuuffy: fuuffyUp}, secrets: map[string]string{testClientID: testSecret, newClientID: newSecret}}
	w.path = "shops/eu/"
	w.sandbox.CreateClient(newClientID, newSecret)
	w.b.newTransport = func(caCert string) (http.RoundTripper, error) {
		return roundTripFunc(func(r *http.Request) (*http.Response, error) {
			switch {
			case w.fuuffy == fuuffyElsewhere && r.URL.Host != rightHost:
				return &http.Response{StatusCode: http.StatusNotFound, Body: io.NopCloser(strings.NewReader("<html>")), Request: r}, nil
			case w.fuuffy == fuuffyUnknownAuthority && caCert == "":
				return nil, &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}
			}
			return w.sandbox.RoundTripper().RoundTrip(r)
		}), nil
	}
	if p.state != stateNotConfigured {
		w.configure()
	}
	switch p.state {
	case stateDue:
		w.write("config", "credentials_created", w.b.now().AddDate(0, 0, -80).Format(time.DateOnly))
	case stateUnrevoked:
		w.rotateTo(statePromoted)
		w.write("rotate-root/rollback")
	default:
		w.rotateTo(p.state)
	}
	if p.state != stateNotConfigured {
		w.read()
	}
	current, other := testClientID, newClientID
	if p.state == statePromoted || p.state == stateCompromised {
		current, other = other, current
	}
	if p.currentDead {
		w.sandbox.RevokeClient(current)
	}
	if p.otherDead {
		w.sandbox.RevokeClient(other)
	}
	w.predicament = p
	if fault := fuuffyFaults[p.fuuffy]; fault.Kind != "" {
		w.sandbox.SetFault(fault)
	}
	switch p.knows {
	case "read":
		w.loseToken()
		_, _ = w.handle(t.Context(), logical.ReadOperation, "token", nil)
	case "buffer":
		time.Sleep(57 * time.Minute)
		_, _ = w.handle(t.Context(), logical.ReadOperation, "token", nil)
	case knowsByCheck:
		w.write("rotate-root/check")
	}
	time.Sleep(checkInterval)
	return w
}

// request is what an operator or an app sends.
type adviceRequest struct {
	operation logical.Operation
	path      string
	data      map[string]any
}

// adviceRequests are everything that people do at a mount.
func (w *trouble) adviceRequests() map[string]adviceRequest {
	w.sandbox.CreateClient("shop-3", "third-secret")
	third := pairs("client_id", "shop-3", "client_secret", "third-secret")
	leaked := pairs("client_id", "shop-3", "client_secret", "third-secret", "compromised", true)
	return map[string]adviceRequest{
		"status":              {logical.ReadOperation, "status", nil},
		"rotation":            {logical.ReadOperation, "rotate-root", nil},
		"config":              {logical.ReadOperation, "config", nil},
		"token":               {logical.ReadOperation, "token", nil},
		"report":              {logical.UpdateOperation, "token", nil},
		"report with min_ttl": {logical.UpdateOperation, "token", pairs("min_ttl", "20m")},
		"check":               {logical.UpdateOperation, "rotate-root/check", nil},
		"stage third":         {logical.UpdateOperation, "rotate-root", third},
		"stage current":       {logical.UpdateOperation, "rotate-root", pairs("client_id", testClientID, "client_secret", testSecret)},
		"stage new":           {logical.UpdateOperation, "rotate-root", w.newPair()},
		"third, compromised":  {logical.UpdateOperation, "rotate-root", leaked},
		"new, compromised":    {logical.UpdateOperation, "rotate-root", w.newPair("compromised", true)},
		"promote":             {logical.UpdateOperation, "rotate-root/promote", nil},
		"complete":            {logical.UpdateOperation, "rotate-root/complete", nil},
		"force":               {logical.UpdateOperation, "rotate-root/complete", pairs("force", true)},
		"rollback":            {logical.UpdateOperation, "rotate-root/rollback", nil},
		"discard":             {logical.DeleteOperation, "rotate-root", nil},
		"write config":        {logical.UpdateOperation, "config", third},
		"write other address": {logical.UpdateOperation, "config", pairs("environment", "testing", "client_secret", testSecret)},
		"delete config":       {logical.DeleteOperation, "config", nil},
	}
}

// texts sends a request and returns all that it tells people. What an operator fills in is
// filled in.
func (w *trouble) texts(r adviceRequest) (said []string, accepted bool) {
	w.t.Helper()
	for name, value := range map[string]func() string{
		"base_url": func() string { return "https://" + rightHost + "/v1" },
		"ca_cert":  func() string { return newAuthority(w.t) },
		"min_ttl":  func() string { return "20m" },
	} {
		if _, ok := r.data[name]; ok {
			r.data[name] = value()
		}
	}
	resp, err := w.handle(w.t.Context(), r.operation, r.path, r.data)
	if err != nil || resp.IsError() {
		_, text := refusal(w.t, resp, err)
		return []string{text}, false
	}
	if resp != nil {
		said = slices.Clone(resp.Warnings)
		if next, ok := resp.Data["next_step"].(string); ok {
			said = append(said, next)
		}
	}
	return said, true
}

var (
	commandPattern = regexp.MustCompile(`vault (read|write|delete)(?: -f)? (shops/eu/|fuuffy/|<mount>)([\w/-]+)((?: \w+=(?:https://…|@[\w.]+|[\w-]+|…|-)?)*)`)
	revokePattern  = regexp.MustCompile(`(?i)(do not )?revoke (?:client|the old secret of client) ([\w-]+)`)
	repeatPattern  = regexp.MustCompile(`repeat this command with (\w+)=(https://…|@[\w.]+|[\w-]+)`)
	sentenceEnd    = regexp.MustCompile(`\. |\n`)
	sequence       = regexp.MustCompile(`(?i)\bthen\b`)
)

// advised is a command that a text advises.
type advised struct {
	command []string // The match of commandPattern.
	revoke  string   // The client that its sentence has the operator revoke before.
	follows bool     // Whether the command before it comes first.
}

func advisedIn(text string) (all []advised) {
	end := 0
	for _, at := range commandPattern.FindAllStringSubmatchIndex(text, -1) {
		before := text[end:at[0]]
		a := advised{command: commandPattern.FindStringSubmatch(text[at[0]:at[1]]), follows: len(all) > 0 && sequence.MatchString(before)}
		sentences := sentenceEnd.Split(before, -1)
		if match := revokePattern.FindStringSubmatch(sentences[len(sentences)-1]); match != nil && match[1] == "" {
			a.revoke = match[2]
		}
		all, end = append(all, a), at[1]
	}
	return all
}

// name is a command without its fields.
func (a advised) name() string { return a.command[1] + " " + a.command[3] }

// follow types a command as it was advised, and returns what is said to it.
func (w *trouble) follow(a advised) (said []string, accepted bool) {
	w.t.Helper()
	require.Equal(w.t, w.path, a.command[2], "the path of the mount in %s", a.command[0])
	if a.revoke != "" {
		w.sandbox.RevokeClient(a.revoke)
	}
	operation := map[string]logical.Operation{"read": logical.ReadOperation, "write": logical.UpdateOperation, "delete": logical.DeleteOperation}[a.command[1]]
	data := map[string]any{}
	for _, field := range strings.Fields(a.command[4]) {
		name, value, _ := strings.Cut(field, "=")
		data[name] = value
	}
	if data["client_id"] == "…" {
		id := fmt.Sprintf("shop-%d", 10+len(w.secrets))
		w.secrets[id] = "secret-of-" + id
		w.sandbox.CreateClient(id, w.secrets[id])
		data["client_id"] = id
	}
	if data["client_secret"] == "-" {
		id, ok := data["client_id"].(string)
		if !ok {
			id = w.readConfig()["client_id"].(string)
		}
		data["client_secret"] = w.secrets[id]
	}
	w.typed = adviceRequest{operation, a.command[3], data}
	return w.texts(w.typed)
}

// repeat types a command again with the field that its refusal asks for, if it does.
func (w *trouble) repeat(refusal string) (said []string, accepted, asked bool) {
	w.t.Helper()
	field := repeatPattern.FindStringSubmatch(refusal)
	if field == nil {
		return nil, false, false
	}
	w.typed.data = maps.Clone(w.typed.data)
	w.typed.data[field[1]] = field[2]
	said, accepted = w.texts(w.typed)
	return said, accepted, true
}

// followTo follows the advice up to one command, those that come before it included.
func (w *trouble) followTo(all []advised, i int) (said []string, accepted bool) {
	w.t.Helper()
	first := i
	for all[first].follows {
		first--
	}
	for _, a := range all[first:i] {
		_, accepted := w.follow(a)
		require.True(w.t, accepted, "the command before: %s", a.command[0])
	}
	return w.follow(all[i])
}

// adviceTally is which commands were advised and accepted.
type adviceTally struct {
	mu       sync.Mutex
	accepted map[string]int
	refused  int
}

func (c *adviceTally) count(a advised, accepted bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if accepted {
		c.accepted[a.name()]++
	} else {
		c.refused++
	}
}

// Whatever anybody does in whatever predicament: each command that the engine then advises is
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
	for _, command := range commandsInCode(t) {
		assert.NotZero(t, seen.accepted[command], "nobody was ever advised, and served by: %s", command)
	}
	t.Logf("%d commands accepted, %d refused for what could not be known", sum(seen.accepted), seen.refused)
}

func sum(counts map[string]int) (all int) {
	for _, n := range counts {
		all += n
	}
	return all
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
			all := advisedIn(text)
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
				time.Sleep(checkInterval)
				answer, accepted := w.followTo(advisedIn(said[n]), i)
				seen.count(a, accepted)
				if accepted {
					continue
				}
				// Whether there is a token to read is up to Fuuffy.
				noToken := a.name() == "read token" && (p.currentDead || p.fuuffy != fuuffyUp || p.state == stateNotConfigured)
				require.True(t, p.hides() || noToken, "%s\nadvises: %s\nwhich is refused: %s", name, text, answer)
				if p.fuuffy == fuuffyUp {
					assert.NotContains(t, answer[0], a.command[0], "%s\nadvises: %s", name, text)
				}
			}
		}
	}
}

// commandsInCode are the commands in the engine's texts, but for help.
func commandsInCode(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, match := range commandPattern.FindAllStringSubmatch(string(source), -1) {
			if match[2] == "<mount>" {
				names = append(names, match[1]+" "+match[3])
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	require.Greater(t, len(names), 10)
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
		status := w.do(logical.ReadOperation, "status", nil).Data
		next := status["next_step"].(string)
		if status["health"] == healthOK && strings.HasPrefix(next, "Nothing until") {
			w.read()
			assert.LessOrEqual(t, refused, 3, "%s", strings.Join(told, "\n"))
			return
		}
		text := next
		if len(advisedIn(last)) > 0 {
			text = last
		}
		last = ""
		told = append(told, text)
		all := advisedIn(text)
		if len(all) == 0 || all[0].name() == "write rotate-root/check" {
			w.sandbox.ClearFault() // The outage ends.
			time.Sleep(time.Hour)
		}
		if len(all) == 0 {
			_, _ = w.handle(t.Context(), logical.ReadOperation, "token", nil)
			synctest.Wait()
			continue
		}
		time.Sleep(checkInterval)
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
			w.sandbox.ClearFault() // The outage ends.
		}
	}
	t.Errorf("still not well:\n%s", strings.Join(told, "\n"))
}
