// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// docs/api.md is made of what Vault tells of the mount, and of requests that are made
// here. Its layout is testdata/api.md.tmpl.
func TestAPIDocs(t *testing.T) {
	m := newMount(t, shared, fuuffytest.Config{PerMinute: -1})
	m.CreateClient(newClientID, newSecret)
	docs := &apiDocs{mount: m, spec: m.openAPI(), began: time.Now(), fields: map[string][]docField{}}

	docs.runExamples()

	var page strings.Builder
	require.NoError(t, template.Must(template.ParseFiles("testdata/api.md.tmpl")).Execute(&page, docs))
	for _, secret := range append(docs.tokens, m.secret, newSecret, m.client.Token()) {
		require.False(t, strings.Contains(page.String(), secret), "a secret is in the document")
	}
	if docs.spec.patches {
		requireGolden(t, "../docs/api.md", page.String())
		return
	}
	t.Log("lacks: `PATCH` in its OpenAPI document")
	whole, err := os.ReadFile("../docs/api.md")
	require.NoError(t, err)
	require.Subset(t, strings.Split(string(whole), "\n"), strings.Split(page.String(), "\n"), "the rest is as documented")
}

// apiDocs is what the layout is filled with.
type apiDocs struct {
	// Refused is what a read of the token answers before there is a configuration.
	Refused reply
	Paths   []*docPath

	*mount
	spec  *openAPI
	began time.Time
	// fields are those of a path's writes.
	fields map[string][]docField
	// tokens are the access tokens shown so far.
	tokens []string
}

type docPath struct {
	Path, Help string
	Operations []*docOperation
}

type docOperation struct {
	Method, ID, Title, Anchor string
	Parameters, Fields        []docField
	// ParametersOf is the operation that takes the same parameters, if it comes first.
	ParametersOf *docOperation
	// FieldsOf is the operation whose answer has the same fields, if it comes first.
	FieldsOf *docOperation
	Payload  string
	Reply    reply
	// Meaning is what the status of the reply stands for.
	Meaning string
}

type docField struct{ Name, Type, Default, Description string }

// runExamples makes each request that the mount takes, after what must come before
// it. The document has the paths, and the operations of each, in this order.
func (d *apiDocs) runExamples() {
	newCredentials := map[string]any{"client_id": newClientID, "client_secret": newSecret}
	stage := func() { d.step("rotate-root", newCredentials, "staged") }

	d.Refused = d.send(http.MethodGet, "token", nil)
	d.example(http.MethodPost, "config", d.settings(nil))
	d.example(http.MethodPatch, "config", map[string]any{"stale_if_error": true})
	d.example(http.MethodGet, "config", nil)
	token := d.example(http.MethodGet, "token", nil)["access_token"]
	d.deleteToken()
	d.example(http.MethodPost, "token", map[string]any{"rejected_token": token})
	d.example(http.MethodDelete, "token", nil)

	d.example(http.MethodGet, "rotate-root", nil)
	d.example(http.MethodPost, "rotate-root", newCredentials)
	d.example(http.MethodDelete, "rotate-root", nil)
	d.reload()
	stage()
	d.example(http.MethodPost, "rotate-root/promote", nil)
	d.example(http.MethodPost, "rotate-root/rollback", nil)
	stage()
	d.step("rotate-root/promote", nil, "promoted")
	d.RevokeClient(clientID)
	d.example(http.MethodPost, "rotate-root/complete", nil)
	d.example(http.MethodPost, "rotate-root/check", nil)
	d.example(http.MethodPost, "rotate-root/revoked", map[string]any{"client_id": newClientID})

	d.token()
	d.example(http.MethodGet, "status", nil)
	d.example(http.MethodGet, "metrics", nil)
	d.example(http.MethodDelete, "config", nil)

	require.Empty(d.t, d.spec.operations, "these have no example")
}

// example documents an operation with a request that is made, and returns the data of
// the answer. Both are held to the operation's schemas.
func (d *apiDocs) example(method, path string, payload map[string]any) map[string]any {
	d.t.Helper()
	operation := d.spec.operations[method+" "+path]
	if method == http.MethodPatch && !d.spec.patches {
		require.Nil(d.t, operation)
		r := d.send(method, path, payload)
		require.Equal(d.t, http.StatusNoContent, r.code, "the operation is there all the same")
		return r.data
	}
	require.NotNil(d.t, operation, "%s %s", method, path)
	delete(d.spec.operations, method+" "+path)
	request := d.spec.request(operation)
	requireConforms(d.t, request, payload)
	parameters := d.parameters(method, path, operation, payload)

	r := d.send(method, path, payload)
	answer := operation.Responses[r.code]
	require.NotNil(d.t, answer, "%s %s: %s", method, path, r.Status)
	schema := d.spec.schema(answer.Content)
	requireConforms(d.t, schema, r.data)
	fields := docFields(schema)

	title := strings.TrimSuffix(operation.Summary, ".")
	require.NotEmpty(d.t, title)
	documented := &docOperation{
		Method: method, ID: operation.OperationID, Title: title, Anchor: anchor(title),
		Parameters: parameters, ParametersOf: d.with(parameters, func(o *docOperation) []docField { return o.Parameters }),
		Fields: fields, FieldsOf: d.with(fields, func(o *docOperation) []docField { return o.Fields }),
		Reply: r, Meaning: answer.Description,
	}
	if payload != nil {
		documented.Payload = d.shown(indented(d.t, payload))
	}
	d.add(path, documented)
	return r.data
}

// add puts an operation with the others of its path.
func (d *apiDocs) add(path string, operation *docOperation) {
	i := slices.IndexFunc(d.Paths, func(p *docPath) bool { return p.Path == path })
	if i < 0 {
		i = len(d.Paths)
		d.Paths = append(d.Paths, &docPath{Path: path, Help: d.help(path)})
	}
	d.Paths[i].Operations = append(d.Paths[i].Operations, operation)
}

// help is the description of a path, unless a path above it has the same.
func (d *apiDocs) help(path string) string {
	help, err := d.client.HelpWithContext(d.t.Context(), d.path+"/"+path)
	require.NoError(d.t, err)
	_, description, found := strings.Cut(help.Help, "## DESCRIPTION\n\n")
	require.True(d.t, found)
	description = strings.ReplaceAll(description, d.path+"/", "fuuffy/")
	if slices.ContainsFunc(d.Paths, func(p *docPath) bool { return p.Help == description }) {
		return ""
	}
	return description
}

// only tells by how a field's description begins which method alone takes it. In Vault's
// document, all operations with a body take all fields of their path, and those without
// take none but those in the query.
var only = map[string]string{"Only for reads: ": http.MethodGet, "Only for deletes: ": http.MethodDelete}

// parameters are the fields that an operation takes. The engine must refuse the others of
// its path.
func (d *apiDocs) parameters(method, path string, operation *framework.OASOperation, payload map[string]any) []docField {
	d.t.Helper()
	if request := d.spec.request(operation); request != nil {
		d.fields[path] = docFields(request)
	} else if write := d.spec.operations[http.MethodPost+" "+path]; d.fields[path] == nil && write != nil {
		d.fields[path] = docFields(d.spec.request(write))
	}
	var taken []docField
	for _, field := range d.fields[path] {
		takenBy := ""
		for begins, method := range only {
			if description, ok := strings.CutPrefix(field.Description, begins); ok {
				takenBy, field.Description = method, strings.ToUpper(description[:1])+description[1:]
			}
		}
		switch {
		case takenBy == method:
			field.Type += ", in the query"
			taken = append(taken, field)
		case d.spec.request(operation) == nil: // The others are for writes.
		case takenBy == "":
			taken = append(taken, field)
		default:
			with := map[string]any{field.Name: map[string]any{"duration": "1m", "boolean": true}[field.Type]}
			maps.Copy(with, payload)
			refused := d.send(method, path, with)
			require.Equal(d.t, http.StatusBadRequest, refused.code, "%s %s takes %s", method, path, field.Name)
			require.Contains(d.t, refused.Body, field.Name+" is for ")
		}
	}
	return taken
}

// with is the first operation that has the same fields.
func (d *apiDocs) with(fields []docField, of func(*docOperation) []docField) *docOperation {
	for _, path := range d.Paths {
		for _, operation := range path.Operations {
			if len(fields) > 0 && slices.Equal(of(operation), fields) {
				return operation
			}
		}
	}
	return nil
}

// docFields are the fields of a schema, in the order of their names.
func docFields(schema *framework.OASSchema) []docField {
	if schema == nil {
		return nil
	}
	var fields []docField
	for _, name := range slices.Sorted(maps.Keys(schema.Properties)) {
		s := schema.Properties[name]
		field := docField{Name: name, Type: s.Type, Description: s.Description}
		switch {
		case s.Format == "date-time" || s.Format == "duration":
			field.Type = strings.TrimPrefix(s.Format, "date-")
		case s.Items != nil:
			field.Type = "list of " + s.Items.Type + "s"
		}
		if slices.Contains(schema.Required, name) {
			field.Type += ", required"
		}
		if s.DisplayAttrs != nil && s.DisplayAttrs.Sensitive {
			field.Type += ", sensitive"
		}
		if s.Default != nil {
			field.Default = fmt.Sprintf("`%v`", s.Default)
		}
		fields = append(fields, field)
	}
	return fields
}

var notInAnchors = regexp.MustCompile(`[^a-z0-9 -]`)

// anchor is the link to a heading, as GitHub makes it.
func anchor(heading string) string {
	return strings.ReplaceAll(notInAnchors.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}
