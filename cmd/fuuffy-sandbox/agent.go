// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	fuuffy "github.com/fuuffy/vault-plugin-secrets-fuuffy"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

const (
	// enginePath is the token path of an engine that is mounted at fuuffy/.
	enginePath = "/v1/fuuffy/token"
	// maxReport limits an app's report, in bytes.
	maxReport = 64 << 10
	// retryInterval is how long the agent waits after a failed read before it reads again.
	retryInterval = time.Second
)

// agent stands in for Vault and Vault Agent, as an app sees them: it keeps a token in a file, and accepts reports of
// rejected tokens over HTTP. It runs the real secrets engine with storage in memory.
type agent struct {
	engine  logical.Backend
	storage logical.Storage
	files   directory
	server  *http.Server
	stop    context.CancelFunc
	running sync.WaitGroup
}

// startAgent returns an agent whose engine gets tokens from the sandbox. The token file and the socket exist when it
// returns.
func startAgent(server *fuuffytest.Server, files directory, id, secret string) (*agent, error) {
	ctx, stop := context.WithCancel(context.Background())
	a := &agent{storage: &logical.InmemStorage{}, files: files, stop: stop}
	a.server = &http.Server{Handler: a, ReadHeaderTimeout: 10 * time.Second}
	var err error
	a.engine, err = fuuffy.Factory(ctx, &logical.BackendConfig{
		StorageView: a.storage,
		System:      &logical.StaticSystemView{VersionString: "sandbox"},
		Logger:      hclog.NewNullLogger(),
	})
	if err != nil {
		stop()
		return nil, err
	}
	_, err = a.handle(ctx, logical.CreateOperation, "config", map[string]any{
		"client_id": id, "client_secret": secret, "base_url": server.LocalURL(), "ca_cert": server.CACert(),
	})
	var again time.Duration
	if err == nil {
		again, err = a.writeToken(ctx)
	}
	var socket net.Listener
	if err == nil {
		socket, err = a.listen()
	}
	if err != nil {
		return nil, errors.Join(err, a.close())
	}
	a.running.Go(func() { _ = a.server.Serve(socket) }) // Ends with http.ErrServerClosed at close.
	a.running.Go(func() { a.keepToken(ctx, again) })
	return a, nil
}

// close stops the agent and removes its token and its socket.
func (a *agent) close() error {
	a.stop()
	err := a.server.Close()
	a.running.Wait()
	a.engine.Cleanup(context.Background())
	return errors.Join(err, a.files.remove(tokenFile), a.files.remove(socketFile))
}

// handle sends one request to the engine. The error is for the app, and has the status that Vault would return.
func (a *agent) handle(ctx context.Context, operation logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	req := &logical.Request{Operation: operation, Path: path, MountPoint: "fuuffy/", Storage: a.storage, Data: data}
	resp, err := a.engine.HandleRequest(ctx, req)
	if status, err := logical.RespondErrorCommon(req, resp, err); err != nil {
		return nil, logical.CodedError(status, err.Error())
	}
	return resp, nil
}

// writeToken reads the token, writes it to its file, and returns how long to wait before the next read.
func (a *agent) writeToken(ctx context.Context) (again time.Duration, err error) {
	resp, err := a.handle(ctx, logical.ReadOperation, "token", nil)
	if err != nil {
		return retryInterval, err
	}
	ttl := time.Duration(resp.Data["ttl"].(int64)) * time.Second
	return ttl + time.Second, a.files.writeFile(tokenFile, resp.Data["access_token"].(string), 0o600)
}

// keepToken keeps the file up to date until ctx is done. If a read fails, it retries, and the file keeps the last
// token, as with Vault Agent.
func (a *agent) keepToken(ctx context.Context, again time.Duration) {
	for {
		select {
		case <-time.After(again):
			again, _ = a.writeToken(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// listen opens the agent's socket, in place of one that a killed sandbox left.
func (a *agent) listen() (net.Listener, error) {
	if err := a.files.remove(socketFile); err != nil {
		return nil, err
	}
	return net.Listen("unix", a.files.path(socketFile))
}

// ServeHTTP responds as Vault does, through an Agent with require_request_header. Like the policy for apps, it allows
// reading the token and reporting it, and nothing else.
func (a *agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("X-Vault-Request") != "true" {
		refuse(w, http.StatusPreconditionFailed, "missing 'X-Vault-Request' header")
		return
	}
	operation, data := logical.Operation(logical.ReadOperation), map[string]any{}
	for name, values := range r.URL.Query() {
		data[name] = values[0]
	}
	switch {
	case r.URL.Path == enginePath && r.Method == http.MethodGet:
	case r.URL.Path == enginePath && (r.Method == http.MethodPost || r.Method == http.MethodPut):
		operation = logical.UpdateOperation
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxReport)).Decode(&data)
		if err != nil && err != io.EOF {
			refuse(w, http.StatusBadRequest, "error parsing JSON")
			return
		}
	default:
		refuse(w, http.StatusForbidden, "permission denied")
		return
	}
	resp, err := a.handle(r.Context(), operation, "token", data)
	if err != nil {
		status := http.StatusInternalServerError
		if coded, ok := errors.AsType[logical.HTTPCodedError](err); ok {
			status = coded.Code()
		}
		refuse(w, status, err.Error())
		return
	}
	send(w, http.StatusOK, logical.LogicalResponseToHTTPResponse(resp))
}

func refuse(w http.ResponseWriter, status int, text string) {
	send(w, status, map[string][]string{"errors": {text}})
}

// send writes JSON. It ignores a write error: the app is gone, so there is no one to tell.
func send(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
