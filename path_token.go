// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/advice"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

func (b *backend) pathToken() *framework.Path {
	responses := map[int][]framework.Response{http.StatusOK: {{Description: "The access token.", Fields: tokenResponseFields}}}
	return &framework.Path{
		Pattern:      tokenKey,
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "token"},
		Fields: map[string]*framework.FieldSchema{
			rejectedTokenField: {
				Type:         framework.TypeString,
				Description:  "The access token that got a 401 from the API. The engine replaces it only if it is still the cached one. If you leave this out, the engine replaces whichever token is cached.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Rejected token", Sensitive: true},
			},
			minTTLField: {
				Type: framework.TypeDurationSecond, Query: true,
				Description: "Only for reads: how long the access token must live. The engine replaces a token that has less time left. At most half of the token's life.",
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:  b.readToken,
				Summary:   "Read the cached access token.",
				Responses: responses,
			},
			logical.UpdateOperation: &framework.PathOperation{
				Callback:     b.replaceToken,
				Summary:      "Report an access token that the API rejected, and get the current one.",
				Responses:    responses,
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "replace"},
				// The standby's idea of the current token may be older than the report.
				ForwardPerformanceStandby: true,
			},
			logical.DeleteOperation: &framework.PathOperation{
				Callback:                  b.deleteToken,
				Summary:                   "Clear the cached access token.",
				Responses:                 map[int][]framework.Response{http.StatusNoContent: {{Description: "The token is cleared."}}},
				ForwardPerformanceStandby: true,
			},
		},
		HelpSynopsis:    strings.TrimSpace(tokenSynopsis),
		HelpDescription: strings.TrimSpace(tokenDescription),
	}
}

var tokenResponseFields = map[string]*framework.FieldSchema{
	"access_token": {
		Type: framework.TypeString, Required: true, Description: "For the Authorization header of requests to Fuuffy.",
		DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
	},
	"token_type":          {Type: framework.TypeString, Required: true, Description: "Always Bearer."},
	"expires_at":          {Type: framework.TypeTime, Required: true, Description: "When the token expires."},
	"last_vault_rotation": {Type: framework.TypeTime, Required: true, Description: "When the engine got the token."},
	"rotation_period":     {Type: framework.TypeInt64, Required: true, Description: "Seconds from when the engine got the token to when it stops serving it."},
	"ttl":                 {Type: framework.TypeInt64, Required: true, Description: "Seconds until there is a newer token to read, spread at random over readers. At most max_read_ttl, if that is set."},
	"environment":         {Type: framework.TypeString, Required: true, Description: "The Fuuffy environment that the token is for."},
}

// rejectedTokenField is the token that an app reports.
const rejectedTokenField = "rejected_token"

// minTTLField is how long a job needs the token that it reads.
const minTTLField = "min_ttl"

// warmToken responds to a read if serving the cached token is all there is to do. It takes no
// lock and touches no storage.
func (b *backend) warmToken(data map[string]any) (*logical.Response, bool) {
	var minTTL time.Duration
	for field, value := range data {
		d, ok := wholeSeconds(value)
		if field != minTTLField || !ok {
			return nil, false // The framework knows what to make of it.
		}
		minTTL = d
	}
	r, ok := b.cache.Warm(minTTL)
	if !ok {
		return nil, false
	}
	return tokenResponse(r), true
}

// wholeSeconds parses a duration that checkInput would accept. It is fast for the usual
// notation, such as 20m.
func wholeSeconds(value any) (time.Duration, bool) {
	if text, ok := value.(string); ok {
		if d, err := time.ParseDuration(text); err == nil {
			return d, d >= 0 && d%time.Second == 0
		}
	}
	d, err := parseutil.ParseDurationSecond(value)
	return d, err == nil && d >= 0 && !hasFraction(value) && value != ""
}

func (b *backend) readToken(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	if b.cache.Snapshot().State == tokencache.InWindow && !b.mayRequestTokens() {
		return nil, tokencache.ErrForward // The active node serves the token and refreshes it.
	}
	r, err := b.cache.Read(ctx, b.load(req.Storage), time.Duration(d.Get(minTTLField).(int))*time.Second)
	if err != nil {
		return nil, err
	}
	return tokenResponse(r), nil
}

func (b *backend) replaceToken(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	if err := refuseMinTTL(d); err != nil {
		return nil, err
	}
	var rejected string
	if text, given := d.GetOk(rejectedTokenField); given {
		var err error
		if rejected, err = reportedToken(text.(string)); err != nil {
			return nil, err
		}
	}
	b.metrics.replacements.Inc()
	r, err := b.cache.Replace(ctx, b.load(req.Storage), rejected)
	if err != nil {
		return nil, err
	}
	return tokenResponse(r), nil
}

// errNoRejectedToken is for a report that names no token. It must not cost a good one.
const errNoRejectedToken = userError("rejected_token is empty, perhaps because a shell variable is unset. Nothing was replaced. Pass the token that the API rejected, or leave the field out to replace the cached one.")

// reportedToken is the token in a report. Apps have it in their Authorization header, so it may
// follow the word Bearer.
func reportedToken(text string) (string, error) {
	words := strings.Fields(text)
	if len(words) > 0 && strings.EqualFold(words[0], "Bearer") {
		words = words[1:]
	}
	token := strings.Join(words, " ")
	if token == "" {
		return "", errNoRejectedToken
	}
	if problem := upstream.TokenProblem(token); problem != "" {
		return "", userError("rejected_token is not an access token: it " + problem + ". Nothing was replaced. Pass only the token that the API rejected.")
	}
	return token, nil
}

func (b *backend) deleteToken(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	if err := refuseMinTTL(d); err != nil {
		return nil, err
	}
	err := b.cache.Commit(ctx, func(ctx context.Context) (tokencache.Effect, error) {
		erase := func(ctx context.Context) error { return eraseToken(ctx, req.Storage) }
		if c, ok := b.cache.Snapshot().Source.(*client); ok {
			erase = c.Erase
		}
		return tokencache.Effect{DropToken: true}, erase(ctx)
	})
	if err == nil {
		b.notifyToken(ctx, tokenEvent{kind: "drop", operation: "delete", modified: true})
	}
	return nil, err
}

// refuseMinTTL is for operations that would ignore it.
func refuseMinTTL(d *framework.FieldData) error {
	if _, given := d.Raw[minTTLField]; given {
		return &textError{advice.Do("min_ttl is for reads. Nothing was changed. Leave it out here, then:", advice.Read(tokenKey).WithPlaceholder(minTTLField, "duration"))}
	}
	return nil
}

func tokenResponse(r tokencache.Reading) *logical.Response {
	t := r.Token
	resp := &logical.Response{Data: maps.Clone(t.Description)}
	resp.Data["ttl"] = int64(r.TTL / time.Second)
	if t.Warning != "" {
		resp.AddWarning(t.Warning)
	}
	switch {
	case r.TooYoung:
		resp.AddWarning(fmt.Sprintf("This token is only moments old, so the engine keeps it. If Fuuffy rejects it too, check the app's base URL (production or testing), the Authorization header, and the client's permissions. The engine replaces a token %s after its issue at the earliest.", t.ReplaceAge()))
	case r.Stale:
		resp.AddWarning(fmt.Sprintf("Fuuffy issues no new token, so the engine serves this one, which expires at %s (stale_if_error): %s", t.ExpiresAt.UTC().Format(time.RFC3339), r.Failure))
	case r.Failure != nil && !t.Suspect:
		resp.AddWarning(fmt.Sprintf("Token refresh is failing. The engine serves this one until %s: %s", t.ServedUntil().UTC().Format(time.RFC3339), r.Failure))
	}
	if t.Suspect && !r.TooYoung {
		until := t.ServedUntil()
		if r.Stale {
			until = t.ExpiresAt
		}
		resp.AddWarning(fmt.Sprintf("An app reported that Fuuffy rejected this token, and Fuuffy hasn't issued another yet. The engine serves it until %s.", until.UTC().Format(time.RFC3339)))
	}
	return resp
}

const tokenSynopsis = `
Read the cached Fuuffy access token.
`

const tokenDescription = `
Read an access token for the Authorization header of requests to the Fuuffy API. It
is valid for at least five more minutes (token_expiry_buffer). The engine requests one
from Fuuffy only if it has no valid one. Read again after "ttl" seconds, as Vault
Agent and the Vault Secrets Operator do automatically: by then there is a newer one.
There is no lease to renew or revoke.

If a job runs longer, request a token that lives at least that long:

    vault read <mount>token min_ttl=20m

If the API responds 401 to the token, report it and retry once with the one you get:

    vault write <mount>token rejected_token=-

The engine replaces it only if it is still the cached one. If many applications report
the same token, the engine sends Fuuffy one request.

To clear the cache, delete the token. The next read requests another.
`
