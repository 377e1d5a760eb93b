// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const operationPrefix = "fuuffy"

func (b *backend) pathConfig() *framework.Path {
	// The storage is the primary's, and each write asks Fuuffy first: both belong on
	// the node that can finish the job.
	write := &framework.PathOperation{
		Callback: b.writeConfig,
		Summary:  "Write the configuration, or change some of it.",
		Responses: map[int][]framework.Response{
			http.StatusNoContent: {{Description: "The configuration is saved."}},
			http.StatusOK:        {{Description: "The configuration is saved, and there are warnings."}},
		},
		DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "configure"},
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
	}
	return &framework.Path{
		Pattern:        configKey,
		DisplayAttrs:   &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Fields:         configFields,
		ExistenceCheck: b.configExists,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: write,
			logical.UpdateOperation: write,
			logical.ReadOperation: &framework.PathOperation{
				Callback:     b.readConfig,
				Summary:      "Read the configuration, without the client secret.",
				Responses:    map[int][]framework.Response{http.StatusOK: {{Description: "The configuration.", Fields: configResponseFields()}}},
				DisplayAttrs: &framework.DisplayAttributes{OperationSuffix: "configuration"},
			},
			logical.DeleteOperation: &framework.PathOperation{
				Callback:                    b.deleteConfig,
				Summary:                     "Delete the configuration, the credentials and the cached token.",
				Responses:                   map[int][]framework.Response{http.StatusNoContent: {{Description: "Everything is deleted."}}},
				DisplayAttrs:                &framework.DisplayAttributes{OperationSuffix: "configuration"},
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
			},
		},
		HelpSynopsis:    strings.TrimSpace(configSynopsis),
		HelpDescription: strings.TrimSpace(configDescription),
	}
}

// configExists does not read what is stored: Vault would hide from the user what is
// wrong with it, which the operation itself says.
func (b *backend) configExists(ctx context.Context, req *logical.Request, _ *framework.FieldData) (bool, error) {
	entry, err := req.Storage.Get(ctx, configKey)
	return entry != nil, err
}

func (b *backend) writeConfig(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	stored, err := loadConfig(ctx, req.Storage)
	if err != nil {
		return answer(req, err)
	}
	change, err := proposeChange(stored, d, b.cache.wallClock())
	if err != nil {
		return answer(req, err)
	}
	live, err := b.build(&change.config)
	if err != nil {
		return answer(req, err)
	}
	var proof *accessToken
	if change.credentials {
		if d.Get("verify_connection").(bool) {
			if proof, err = b.prove(ctx, live, &change.config.Current); err != nil {
				live.client.close()
				return answer(req, &explainedError{"Nothing was saved: the new settings were tried first, and got no access token.", err})
			}
		} else {
			change.warn("the credentials were saved without being tried (verify_connection=false)")
		}
	}
	if err := b.commitConfig(ctx, req.Storage, stored, live, proof); err != nil {
		live.client.close()
		return answer(req, err)
	}
	return change.response(), nil
}

// commitConfig saves a change and puts it in force. based is what the change was
// made from, nil for none: if it is no longer what is stored, nothing is saved.
func (b *backend) commitConfig(ctx context.Context, storage logical.Storage, based *storedConfig, live *liveConfig, proof *accessToken) error {
	b.changes.Lock()
	defer b.changes.Unlock()
	if _, err := reload(ctx, storage, based); err != nil {
		return err
	}
	return b.saveAndEnforce(ctx, storage, live, proof)
}

func (b *backend) readConfig(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	stored, err := loadConfig(ctx, req.Storage)
	if err != nil {
		return answer(req, err)
	}
	if stored == nil {
		return nil, nil
	}
	data := map[string]any{
		"client_id":      stored.Current.ClientID,
		"environment":    stored.Endpoint.Environment,
		"base_url":       stored.Endpoint.BaseURL,
		"ca_cert":        stored.Endpoint.CACert,
		"stale_if_error": stored.StaleIfError,
	}
	for _, f := range durationFields {
		data[f.name] = int64(*f.in(stored) / time.Second)
	}
	resp := &logical.Response{Data: data}
	stored.warnIfDue(resp, b.cache.wallClock(), req.MountPoint)
	return resp, nil
}

func (b *backend) deleteConfig(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	b.changes.Lock()
	defer b.changes.Unlock()
	if err := req.Storage.Delete(ctx, configKey); err != nil {
		return answer(req, fmt.Errorf("delete config: %w", err))
	}
	b.forget(true)
	if err := b.eraseToken(ctx, req.Storage); err != nil {
		return answer(req, err)
	}
	return nil, nil
}

const configSynopsis = `
Configure the credentials, the connection and the policy of this mount.
`

const configDescription = `
One mount serves one client of one Fuuffy environment. Copy client_id and
client_secret from the Fuuffy dashboard; the secret is best read from standard
input, so that it is on no command line:

    vault write fuuffy/config client_id=… client_secret=-

The first write needs both. The credentials are tried with a token request before
anything is saved. The secret is never shown again. A later write changes just what
it names; one that changes environment, base_url or ca_cert must bring
client_secret along, since it decides where the secret is sent. Deleting the
configuration deletes the credentials and the cached token too.
`
