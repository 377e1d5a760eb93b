// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/advice"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
)

func (b *backend) pathConfig() *framework.Path {
	// A write requests a token and then changes the primary's storage, so it runs on the node
	// that can do both.
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
	patch := *write
	patch.Summary = "Change some of the configuration."
	patch.DisplayAttrs = &framework.DisplayAttributes{OperationVerb: "patch", OperationSuffix: "configuration"}
	return &framework.Path{
		Pattern:        configKey,
		DisplayAttrs:   &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Fields:         configFields,
		ExistenceCheck: b.configExists,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: write,
			logical.UpdateOperation: write,
			logical.PatchOperation:  &patch,
			logical.ReadOperation: &framework.PathOperation{
				Callback:     b.readConfig,
				Summary:      "Read the configuration, without the client secret.",
				Responses:    map[int][]framework.Response{http.StatusOK: {{Description: "The configuration.", Fields: configResponseFields()}}},
				DisplayAttrs: &framework.DisplayAttributes{OperationSuffix: "configuration"},
			},
			logical.DeleteOperation: &framework.PathOperation{
				Callback:                    b.deleteConfig,
				Summary:                     "Delete the configuration, the credentials, and the cached token.",
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

// configExists doesn't decode the entry: Vault would hide the error from the user. The
// operation itself reports it.
func (b *backend) configExists(ctx context.Context, req *logical.Request, _ *framework.FieldData) (bool, error) {
	entry, err := req.Storage.Get(ctx, configKey)
	return entry != nil, err
}

func (b *backend) writeConfig(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	w := configWrite{data: d, id: rotation.NewID(), failing: b.cache.Snapshot().Failure != nil}
	t, err := b.apply(ctx, req, w.propose)
	if err != nil {
		return nil, err
	}
	if !t.Unchanged {
		b.log().Info("configuration written", "client_id", t.Next.Current.ClientID, "new_credentials", t.renewed)
	}
	if len(t.warnings) == 0 {
		return nil, nil
	}
	return &logical.Response{Warnings: t.warnings}, nil
}

// readConfig shows what is stored once it has taken effect: rotate-root and status never
// show an older configuration afterwards.
func (b *backend) readConfig(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	stored, err := b.stored(ctx, req.Storage)
	if err != nil || stored == nil {
		return nil, err
	}
	data := map[string]any{
		"client_id":   stored.Current.ClientID,
		"environment": stored.Endpoint.Environment,
		"base_url":    stored.Endpoint.BaseURL,
		"ca_cert":     stored.Endpoint.CACert,
	}
	for _, f := range settings {
		if value := f.get(stored); value != nil {
			data[f.name] = value
		}
	}
	resp := &logical.Response{Data: data}
	if m := b.due(stored); m.DueText() != "" {
		resp.AddWarning(m.DueText() + ". Read rotate-root to see what to do.")
	}
	return resp, nil
}

func (b *backend) deleteConfig(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	var deleted *storedConfig
	force := d.Get("force").(bool)
	err := b.cache.Commit(ctx, func(ctx context.Context) (effect tokencache.Effect, _ error) {
		stored, err := loadConfig(ctx, req.Storage)
		// An entry that can't be understood can still be deleted. That's the way out.
		if err != nil && !errors.Is(err, errDamaged) && !errors.Is(err, errNewer) {
			return effect, &tokencache.Refused{Err: err}
		}
		if err := refuseDelete(stored, force); err != nil {
			return effect, &tokencache.Refused{Err: err}
		}
		if err := keepLeaks(ctx, req.Storage, stored); err != nil {
			return effect, err
		}
		if err := req.Storage.Delete(ctx, configKey); err != nil {
			return effect, fmt.Errorf("delete config: %w", err)
		}
		deleted, effect.DropAll = stored, true
		return effect, eraseToken(ctx, req.Storage)
	})
	if err != nil {
		return nil, err
	}
	line := []any{}
	if deleted != nil && len(deleted.Rotation.Unrevoked) > 0 {
		line = append(line, "unrevoked", deleted.Rotation.UnrevokedText())
	}
	b.log().Info("configuration deleted", line...)
	return nil, nil
}

// refuseDelete protects what a delete would lose. stored is nil if nothing is there that can be
// read.
func refuseDelete(stored *storedConfig, force bool) error {
	if stored == nil || force {
		return nil
	}
	anyway := advice.Delete(configKey).With("force", "true")
	if state := stored.Rotation.Name(); state != rotation.Idle {
		return &textError{advice.Do("A rotation is in progress ("+state+"), and deleting the configuration loses the credentials of both clients. Nothing was deleted. To end the rotation:", advice.Rotation).
			Then("To delete it anyway:", anyway)}
	}
	m := advice.Mount{Pairs: stored.Pairs}
	if name, mark, ok := m.Leak(); ok {
		return &textError{advice.Do(fmt.Sprintf("Nothing was deleted, because %s is compromised and may still work. Revoke it in the Fuuffy dashboard, then:", name), mark).
			Then("To delete the configuration anyway:", anyway)}
	}
	return nil
}

// keepLeaks stores what must outlive a configuration, before it is deleted.
func keepLeaks(ctx context.Context, storage logical.Storage, stored *storedConfig) error {
	if stored != nil {
		return saveLeaks(ctx, storage, &stored.Rotation)
	}
	if _, err := loadLeaks(ctx, storage); errors.Is(err, errDamaged) {
		return eraseLeaks(ctx, storage)
	}
	return nil
}

const configSynopsis = `
Configure the credentials, the connection, and the policy of this mount.
`

const configDescription = `
One mount serves one client in one Fuuffy environment. Copy client_id and
client_secret from the Fuuffy dashboard. Read the secret from standard input, so that
it never appears on a command line:

    vault write <mount>config client_id=<client_id> client_secret=-

The first write needs both. The engine requests a token with the credentials before
it saves anything. It never shows the secret again. A later write changes only the
fields that it names. If it changes environment, base_url, or ca_cert, it must also
include client_secret, because these fields decide where the engine sends the secret.
Deleting the configuration also deletes the credentials and the cached token. The
engine keeps refusing credentials that are compromised.
`
