// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
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

	fuuffyUp               = "up"
	fuuffyElsewhere        = "elsewhere"
	fuuffyLoginPage        = "a login page"
	fuuffyUnknownAuthority = "unknown authority"

	knowsNothing = "nothing"
	knowsByCheck = "check"
)

var fuuffyFaults = map[string]fuuffytest.Fault{
	fuuffyUp: {}, "down": mounttest.FaultUnavailable, "rate limited": mounttest.FaultRateLimited,
	"malformed":     {Kind: fuuffytest.FaultBody, Body: `{"data": {"access_token": "sk 1", "token_type": "Bearer", "expires_in": 3600}}`},
	fuuffyElsewhere: {}, fuuffyLoginPage: {}, fuuffyUnknownAuthority: {},
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
	// A reader has tried the current credentials, and after promote those before them.
	return p.otherDead && !(p.currentDead && p.state == rotation.Promoted)
}

// predicaments are all of them. While something else than Fuuffy answers, dead credentials and
// a check make no difference to advice.
func predicaments() (all []predicament) {
	for _, state := range []string{stateNotConfigured, rotation.Idle, stateDue, stateUnrevoked, rotation.Staged, rotation.Promoted, mounttest.StateCompromised} {
		for fuuffy := range fuuffyFaults {
			answers := slices.Contains([]string{fuuffyUp, "down", "rate limited"}, fuuffy)
			for _, knows := range []string{knowsNothing, "read", knowsByCheck, "buffer"} {
				for _, dead := range [][2]bool{{false, false}, {true, false}, {false, true}, {true, true}} {
					p := predicament{state, dead[0], dead[1], fuuffy, knows}
					hasOther := state == rotation.Staged || state == rotation.Promoted || state == mounttest.StateCompromised
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
	*mounttest.Mount
	predicament
	secrets map[string]string
	// typed is the command that was typed last.
	typed adviceRequest
}

const (
	rightHost = "right.example.com"
	// timeToType is what an operator takes for a command: the engine limits its requests.
	timeToType = 30 * time.Second
)

// newTrouble makes a predicament. The mount's path is not the usual one, so that advice with a
// fixed path shows.
func newTrouble(t *testing.T, p predicament) *trouble {
	t.Helper()
	w := &trouble{Mount: mounttest.New(t), predicament: predicament{fuuffy: fuuffyUp}, secrets: map[string]string{mounttest.ClientID: mounttest.Secret, mounttest.NewClientID: mounttest.NewSecret}}
	w.Path = "shops/eu/"
	w.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
	pages := map[string]int{fuuffyElsewhere: http.StatusNotFound, fuuffyLoginPage: http.StatusOK}
	w.Transport = func(caCert string) (http.RoundTripper, error) {
		return mounttest.RoundTripFunc(func(r *http.Request) (*http.Response, error) {
			switch status, ok := pages[w.fuuffy]; {
			case ok && r.URL.Host != rightHost:
				return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {mounttest.HTMLType}}, Body: io.NopCloser(strings.NewReader("<html>")), Request: r}, nil
			case w.fuuffy == fuuffyUnknownAuthority && caCert == "":
				return nil, &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}
			}
			return w.Sandbox.RoundTripper().RoundTrip(r)
		}), nil
	}
	if p.state != stateNotConfigured {
		w.Configure()
	}
	switch p.state {
	case stateDue:
		w.Write("config", "credentials_created", w.Now().AddDate(0, 0, -80).Format(time.DateOnly))
	case stateUnrevoked:
		w.RotateTo(rotation.Promoted)
		w.Write("rotate-root/rollback")
	default:
		w.RotateTo(p.state)
	}
	if p.state != stateNotConfigured {
		w.Read()
	}
	current, other := mounttest.ClientID, mounttest.NewClientID
	if p.state == rotation.Promoted || p.state == mounttest.StateCompromised {
		current, other = other, current
	}
	if p.currentDead {
		w.Sandbox.RevokeClient(current)
	}
	if p.otherDead {
		w.Sandbox.RevokeClient(other)
	}
	w.predicament = p
	time.Sleep(timeToType)
	if fault := fuuffyFaults[p.fuuffy]; fault.Kind != "" {
		w.Sandbox.SetFault(fault)
	}
	switch p.knows {
	case "read":
		w.LoseToken()
		_, _ = w.Handle(t.Context(), logical.ReadOperation, "token", nil)
	case "buffer":
		time.Sleep(55 * time.Minute)
		_, _ = w.Handle(t.Context(), logical.ReadOperation, "token", nil)
	case knowsByCheck:
		w.Write("rotate-root/check")
	}
	time.Sleep(timeToType)
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
	w.Sandbox.CreateClient("shop-3", "third-secret")
	third := mounttest.Pairs("client_id", "shop-3", "client_secret", "third-secret")
	leaked := mounttest.Pairs("client_id", "shop-3", "client_secret", "third-secret", "compromised", true)
	return map[string]adviceRequest{
		"status":              {logical.ReadOperation, "status", nil},
		"rotation":            {logical.ReadOperation, "rotate-root", nil},
		"config":              {logical.ReadOperation, "config", nil},
		"token":               {logical.ReadOperation, "token", nil},
		"report":              {logical.UpdateOperation, "token", nil},
		"report with min_ttl": {logical.UpdateOperation, "token", mounttest.Pairs("min_ttl", "20m")},
		"check":               {logical.UpdateOperation, "rotate-root/check", nil},
		"stage third":         {logical.UpdateOperation, "rotate-root", third},
		"stage current":       {logical.UpdateOperation, "rotate-root", mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret)},
		"stage new":           {logical.UpdateOperation, "rotate-root", mounttest.NewPair()},
		"third, compromised":  {logical.UpdateOperation, "rotate-root", leaked},
		"new, compromised":    {logical.UpdateOperation, "rotate-root", mounttest.NewPair("compromised", true)},
		"promote":             {logical.UpdateOperation, "rotate-root/promote", nil},
		"complete":            {logical.UpdateOperation, "rotate-root/complete", nil},
		"force":               {logical.UpdateOperation, "rotate-root/complete", mounttest.Pairs("force", true)},
		"rollback":            {logical.UpdateOperation, "rotate-root/rollback", nil},
		"discard":             {logical.DeleteOperation, "rotate-root", nil},
		"write config":        {logical.UpdateOperation, "config", third},
		"write other address": {logical.UpdateOperation, "config", mounttest.Pairs("environment", "testing", "client_secret", mounttest.Secret)},
		"delete config":       {logical.DeleteOperation, "config", nil},
	}
}

// texts sends a request and returns all that it tells people. What an operator fills in is
// filled in.
func (w *trouble) texts(r adviceRequest) (said []string, accepted bool) {
	w.T.Helper()
	for name, value := range map[string]func() string{
		"base_url":       func() string { return "https://" + rightHost + "/v1" },
		"ca_cert":        func() string { return mounttest.NewAuthority(w.T) },
		"min_ttl":        func() string { return "20m" },
		"rejected_token": func() string { return "sk-of-an-app" },
	} {
		if _, ok := r.data[name]; ok {
			r.data[name] = value()
		}
	}
	resp, err := w.Handle(w.T.Context(), r.operation, r.path, r.data)
	return mounttest.ToldBy(w.T, resp, err), err == nil && !resp.IsError()
}

var (
	revokePattern = regexp.MustCompile(`(?:^|[.:] |After that, )[Rr]evoke (?:it|(?:client|the \w+ secret of client) ([\w-]+))`)
	clientPattern = regexp.MustCompile(`client ([\w-]+)`)
	repeatPattern = regexp.MustCompile(`Repeat this command with (\w+)=`)
)

// advised is a command that a text advises.
type advised struct {
	mounttest.Typed
	pasted  string   // The command as it stands there.
	revoke  []string // The clients that the operator revokes before.
	follows bool     // Whether the command before it comes first.
}

// advisedIn are the commands of a text. What a line without a command has the operator revoke comes
// before all that follow.
func (w *trouble) advisedIn(text string) (all []advised) {
	w.T.Helper()
	var first []string
	for line := range strings.Lines(text) {
		pasted := mounttest.TypedPattern.FindString(line)
		revoke := append(slices.Clone(first), revokedIn(strings.TrimSuffix(line, pasted))...)
		if pasted == "" {
			first = revoke
		}
		for _, c := range w.Commands(line) {
			all = append(all, advised{c, pasted, revoke, strings.HasPrefix(line, "Then")})
		}
	}
	return all
}

// revokedIn are the clients that a line tells the operator to revoke, not those that it says not to.
func revokedIn(line string) (clients []string) {
	for _, at := range revokePattern.FindAllStringSubmatchIndex(line, -1) {
		if at[2] >= 0 {
			clients = append(clients, line[at[2]:at[3]])
		} else if named := clientPattern.FindAllStringSubmatch(line[:at[0]], -1); len(named) > 0 {
			clients = append(clients, named[len(named)-1][1])
		}
	}
	return clients
}

// follow types a command as it was advised, and returns what is said to it.
func (w *trouble) follow(a advised) (said []string, accepted bool) {
	w.T.Helper()
	time.Sleep(timeToType)
	for _, id := range a.revoke {
		w.Sandbox.RevokeClient(id)
	}
	data := map[string]any{}
	for name, value := range a.Fields {
		data[name] = value
	}
	if data["client_id"] == "client_id" { // The placeholder.
		id := fmt.Sprintf("shop-%d", 10+len(w.secrets))
		w.secrets[id] = "secret-of-" + id
		w.Sandbox.CreateClient(id, w.secrets[id])
		data["client_id"] = id
	}
	if data["client_secret"] == "-" {
		id, ok := data["client_id"].(string)
		if !ok {
			id = w.ReadConfig()["client_id"].(string)
		}
		data["client_secret"] = w.secrets[id]
	}
	operation := map[string]logical.Operation{"read": logical.ReadOperation, "write": logical.UpdateOperation, "delete": logical.DeleteOperation}[a.Verb]
	w.typed = adviceRequest{operation, a.Path, data}
	return w.texts(w.typed)
}

// repeat types a command again with the field that its refusal asks for, if it does.
func (w *trouble) repeat(refusal string) (said []string, accepted, asked bool) {
	w.T.Helper()
	field := repeatPattern.FindStringSubmatch(refusal)
	if field == nil {
		return nil, false, false
	}
	w.typed.data = maps.Clone(w.typed.data)
	w.typed.data[field[1]] = "" // What is filled in.
	said, accepted = w.texts(w.typed)
	return said, accepted, true
}

// followTo follows the advice up to one command, those that come before it included.
func (w *trouble) followTo(all []advised, i int) (said []string, accepted bool) {
	w.T.Helper()
	first := i
	for all[first].follows {
		first--
	}
	for _, a := range all[first:i] {
		_, accepted := w.follow(a)
		require.True(w.T, accepted, "the command before: %s", a.pasted)
	}
	return w.follow(all[i])
}
