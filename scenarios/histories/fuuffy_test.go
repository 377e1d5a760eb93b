// SPDX-License-Identifier: MPL-2.0

package histories

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/history"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// transport connects a process to Fuuffy.
func (w *world) transport(n *node, p *process) http.RoundTripper {
	next := w.sandbox.RoundTripper()
	return mounttest.RoundTripFunc(func(r *http.Request) (*http.Response, error) {
		if err := r.Context().Err(); err != nil {
			return nil, err // As net/http does: nothing is sent.
		}
		a := w.arrive(r, n, p)
		defer w.leave(a)
		var before, after time.Duration
		var fault string
		w.drawFor(r.Context(), a.Client, p, func(random *rand.Rand, own, _ bool) {
			before, after = upTo(random, 900*time.Millisecond), upTo(random, 900*time.Millisecond)
			kinds := []string{"503", history.Limited, history.Rejected, "garbage", "hang", "lost"}
			if own {
				kinds = append(kinds, "panic") // The engine promises to survive one in a flight.
			}
			kind := kinds[random.IntN(len(kinds))]
			a.RetryAfter = time.Duration(1+random.IntN(20)) * time.Second
			down := []string{"503", "hang"}[random.IntN(2)]
			switch {
			case chance(random, w.fuuffyFaults) && !w.calm:
				fault = kind
			case w.weatherLocked().outage:
				fault = down
			}
		})
		if err := mounttest.Pause(r.Context(), before); err != nil {
			return nil, err
		}
		resp, err := w.answer(next, r, a, fault)
		if err != nil {
			return nil, err
		}
		if err := mounttest.Pause(r.Context(), after); err != nil {
			return nil, err
		}
		return resp, nil
	})
}

// arrive notes a token request, and how many of flights are under way beside it.
func (w *world) arrive(r *http.Request, n *node, p *process) *history.Request {
	a := &history.Request{Place: p.place()}
	if c, ok := r.Context().Value(callerKey{}).(*caller); ok {
		a.Call = c.call
	}
	body, _ := r.GetBody()
	text, _ := io.ReadAll(body)
	form, _ := url.ParseQuery(string(text))
	a.Client = form.Get("client_id")
	w.mu.Lock()
	defer w.mu.Unlock()
	a.Begin, a.End, a.Outcome = w.nowLocked(), history.Never, history.Lost
	for b, ctx := range w.inFlight {
		if a.Call == 0 && b.Call == 0 && b.Place == a.Place && ctx.Err() == nil {
			a.Beside++
		}
	}
	w.inFlight[a] = r.Context()
	w.h.Requests = append(w.h.Requests, a)
	return a
}

func (w *world) leave(a *history.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a.End = w.nowLocked()
	delete(w.inFlight, a)
}

// answer is the sandbox's, unless there is a fault.
func (w *world) answer(next http.RoundTripper, r *http.Request, a *history.Request, fault string) (*http.Response, error) {
	invalid := `{"error": {"code": "invalid_client", "message": "Client authentication failed"}}`
	outcome := func(is string) { w.mu.Lock(); a.Outcome = is; w.mu.Unlock() }
	outcome(fault)
	switch fault {
	case "503":
		return made(r, http.StatusServiceUnavailable, "", nil), nil
	case history.Limited:
		return made(r, http.StatusTooManyRequests, "", map[string]string{"Retry-After": strconv.Itoa(int(a.RetryAfter / time.Second))}), nil
	case history.Rejected:
		return made(r, http.StatusUnauthorized, invalid, nil), nil
	case "garbage":
		return made(r, http.StatusOK, "<html>", nil), nil
	case "hang":
		<-r.Context().Done()
		return nil, r.Context().Err()
	case "panic":
		panic("the transport panics")
	}
	w.mu.Lock()
	w.sandbox.SetRepeat(w.weatherLocked().repeats)
	w.mu.Unlock()
	resp, err := next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		outcome(history.Rejected)
		return made(r, resp.StatusCode, string(body), nil), nil
	}
	w.grant(a, body)
	if fault == "lost" {
		return nil, errors.New("connection lost")
	}
	return made(r, resp.StatusCode, string(body), nil), nil
}

// grant names the token that Fuuffy granted, perhaps once more.
func (w *world) grant(a *history.Request, body []byte) {
	var granted struct {
		Data struct {
			AccessToken string `json:"access_token"`
		} `json:"data"`
	}
	_ = json.Unmarshal(body, &granted)
	w.mu.Lock()
	defer w.mu.Unlock()
	name, expires := w.names[granted.Data.AccessToken], time.Since(w.began)+w.life
	if name == "" {
		name = fmt.Sprintf("T%d", len(w.names)+1)
		w.names[granted.Data.AccessToken], w.values[name] = name, granted.Data.AccessToken
	} else {
		first := slices.IndexFunc(w.h.Requests, func(r *history.Request) bool { return r.Token == name })
		expires = w.h.Requests[first].Expires
	}
	a.Token, a.Expires, a.Life = name, expires, w.life
	if a.Outcome == "" {
		a.Outcome = history.Granted
	}
}

func made(r *http.Request, status int, body string, header map[string]string) *http.Response {
	resp := &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"application/json"}}, ContentLength: int64(len(body)),
		Body: io.NopCloser(bytes.NewReader([]byte(body))),
	}
	for name, value := range header {
		resp.Header.Set(name, value)
	}
	return resp
}
