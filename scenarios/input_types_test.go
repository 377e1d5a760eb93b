// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// reception is what a write comes to.
type reception struct {
	kind string
	// value, of the field's own type, is what the write is taken for.
	value any
}

var (
	// okay is a success.
	okay = reception{kind: "okay"}
	// denied is an error that names the field, and no change.
	denied = reception{kind: "denied"}
	// undone is an error about something else, and no change.
	undone = reception{kind: "undone"}
	// absent is the same as if the field was left out.
	absent = reception{kind: "absent"}
)

// as is a success that is the same as with this value.
func as(value any) reception { return reception{"as", value} }

// takes is what a field takes, by type of JSON. text is a text that is right for the field.
type takes struct {
	text string

	leftOut, null, empty, good, words, one, thirty, huge, boolean, list, object reception
}

// written is a write, good in itself, with what each of its fields takes.
type written struct {
	prepare func(*mounttest.Mount)
	data    map[string]any
	fields  map[string]takes
}

// configTakes is by hand, as are all others. Columns: a good text; left out, null, "", the good
// text, other text, 1, 30, 9007199254740993, true, a list, an object.
var configTakes = map[string]takes{
	"client_id":            {"shop-7", okay, absent, denied, as("shop-7"), denied, denied, denied, denied, denied, denied, denied},
	"client_secret":        {"secret-7", denied, absent, denied, as("secret-7"), denied, denied, denied, denied, denied, denied, denied},
	"environment":          {"testing", okay, absent, denied, as("testing"), denied, denied, denied, denied, denied, denied, denied},
	"base_url":             {"https://a.example.com", okay, absent, as(""), as("https://a.example.com"), denied, denied, denied, denied, denied, denied, denied},
	"ca_cert":              {typesAuthority, okay, absent, as(""), as(typesAuthority), denied, denied, denied, denied, denied, denied, denied},
	"credentials_created":  {"1999-12-02", okay, absent, denied, as("1999-12-02"), denied, denied, denied, denied, denied, denied, denied},
	"request_timeout":      {"15s", okay, absent, denied, as(15), denied, as(1), as(30), denied, denied, denied, denied},
	"token_expiry_buffer":  {"10m", okay, absent, denied, as(600), denied, denied, as(30), denied, denied, denied, denied},
	"token_refresh_window": {"600", okay, absent, denied, as(600), denied, denied, as(30), denied, denied, denied, denied},
	"rotation_period":      {"30d", okay, absent, denied, as(30 * 24 * 3600), denied, denied, denied, denied, denied, denied, denied},
	"rotation_reminder":    {"1h", okay, absent, denied, as(3600), denied, as(1), as(30), denied, denied, denied, denied},
	"max_read_ttl":         {"2m", okay, absent, denied, as(120), denied, denied, as(30), denied, denied, denied, denied},
	"stale_if_error":       {"false", okay, absent, denied, as(false), denied, as(true), denied, denied, as(true), denied, denied},
	"verify_connection":    {"false", okay, absent, denied, as(false), denied, as(true), denied, denied, as(true), denied, denied},
	"force":                {"false", okay, absent, denied, denied, denied, denied, denied, denied, denied, denied, denied},
}

// firstConfigTakes differs in what only the first write needs.
var firstConfigTakes = func() map[string]takes {
	first := maps.Clone(configTakes)
	first["client_id"] = takes{"shop-7", denied, absent, denied, as("shop-7"), denied, denied, denied, denied, denied, denied, denied}
	return first
}()

var allWritten = map[string]written{
	"create config": {func(*mounttest.Mount) {}, typesPair("verify_connection", false), firstConfigTakes},
	"update config": {configureForTypes, typesPair("verify_connection", false), configTakes},
	"patch config":  {configureForTypes, typesPair("verify_connection", false), configTakes},
	"update token": {readForTypes, nil, map[string]takes{
		"rejected_token": {"sk-another", okay, denied, denied, as("sk-another"), denied, denied, denied, denied, denied, denied, denied},
		"min_ttl":        {"10m", okay, absent, denied, denied, denied, denied, denied, denied, denied, denied, denied},
	}},
	"update rotate-root": {configureForTypes, typesPair(), map[string]takes{
		"client_id":     {"shop-7", denied, absent, denied, as("shop-7"), denied, denied, denied, denied, denied, denied, denied},
		"client_secret": {mounttest.NewSecret, denied, absent, denied, as(mounttest.NewSecret), denied, denied, denied, denied, denied, denied, denied},
		"compromised":   {"true", okay, absent, denied, as(true), denied, as(true), denied, denied, as(true), denied, denied},
	}},
	"update rotate-root/complete": {promoteForTypes, mounttest.Pairs("force", true), map[string]takes{
		"force": {"true", undone, absent, denied, as(true), denied, as(true), denied, denied, as(true), denied, denied},
	}},
	"update rotate-root/revoked": {discardForTypes, mounttest.Pairs("client_id", mounttest.NewClientID), map[string]takes{
		"client_id": {mounttest.NewClientID, denied, absent, denied, as(mounttest.NewClientID), denied, denied, denied, denied, denied, denied, denied},
	}},
}

func typesPair(more ...any) map[string]any {
	data := mounttest.NewPair()
	maps.Copy(data, mounttest.Pairs(more...))
	return data
}

// configureForTypes sets everything to something else than its default.
func configureForTypes(m *mounttest.Mount) {
	m.Configure("verify_connection", false, "base_url", "https://gateway.example.com/v1", "ca_cert", typesAuthority+"\n"+typesAuthority,
		"request_timeout", 7, "token_expiry_buffer", 400, "token_refresh_window", 200, "rotation_period", "100d", "rotation_reminder", "2h", "max_read_ttl", "1h", "stale_if_error", true)
}

func readForTypes(m *mounttest.Mount) {
	configureForTypes(m)
	m.Read()
	time.Sleep(10 * time.Minute)
}

func promoteForTypes(m *mounttest.Mount) {
	configureForTypes(m)
	m.Stage()
	m.Promote()
}

func discardForTypes(m *mounttest.Mount) {
	configureForTypes(m)
	m.Stage()
	m.Do(logical.DeleteOperation, "rotate-root", nil)
}

// outcome is all that a write shows and changes.
type outcome struct {
	Refusal  string
	Status   int
	Warnings []string
	Changed  bool // The stored configuration, whatever of it.
	Replaced bool // The cached token.
	Requests int
	Config   map[string]any
	Secret   string
	Rotation map[string]any
}

// typesOutcome sends a write to a mount of its own, with these values changed.
func typesOutcome(t *testing.T, operation logical.Operation, path string, w written, change func(data map[string]any)) (o outcome) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.New(t)
		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
		m.Sandbox.CreateClient("shop-7", mounttest.NewSecret)
		w.prepare(m)
		storage := m.UseFaultyStorage()
		stored := func() string {
			if entry, err := storage.Storage.Get(t.Context(), mounttest.ConfigKey); err == nil && entry != nil {
				return string(entry.Value)
			}
			return ""
		}
		token := func() string { return storage.Stored(t, mounttest.TokenKey) }
		before, held, requests := stored(), token(), m.Requests()
		data := maps.Clone(w.data)
		if data == nil {
			data = map[string]any{}
		}
		change(data)

		resp, err := m.Handle(t.Context(), operation, path, data)
		if err != nil || resp.IsError() {
			o.Status, o.Refusal = mounttest.Refusal(t, resp, err)
		} else if resp != nil {
			o.Warnings = resp.Warnings
		}
		o.Changed, o.Replaced, o.Requests = stored() != before, token() != held, m.Requests()-requests
		if secret := m.StoredPairs().Current.ClientSecret; secret != "" {
			o.Config, o.Secret, o.Rotation = m.ReadConfig(), secret, m.Rotation()
		}
	})
	return o
}

// Each field of each path takes each type of JSON as the table says: as which value, as if it
// was left out, or not at all. A field or a path that the table doesn't have fails the test.
func TestEachTypeOfEachField(t *testing.T) {
	t.Parallel()
	var inCode []string
	for _, path := range mounttest.New(t).Framework().Paths {
		for _, operation := range []logical.Operation{logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation} {
			if _, ok := path.Operations[operation]; !ok || len(path.Fields) == 0 {
				continue
			}
			literal := strings.Trim(path.Pattern, "^$")
			name := string(operation) + " " + literal
			inCode = append(inCode, name)
			w := allWritten[name]
			assert.Equal(t, slices.Sorted(maps.Keys(path.Fields)), slices.Sorted(maps.Keys(w.fields)), "the fields of %s in the table", name)
			for field, row := range w.fields {
				t.Run(name+" "+field, func(t *testing.T) {
					checkTypes(t, operation, literal, w, field, row)
				})
			}
		}
	}
	assert.ElementsMatch(t, slices.Collect(maps.Keys(allWritten)), inCode)
}

func checkTypes(t *testing.T, operation logical.Operation, path string, w written, field string, row takes) {
	send := func(value any) outcome {
		return typesOutcome(t, operation, path, w, func(data map[string]any) { data[field] = value })
	}
	leftOut := typesOutcome(t, operation, path, w, func(data map[string]any) { delete(data, field) })
	check := func(what string, got outcome, want reception) {
		refused := got.Refusal != ""
		switch want.kind {
		case okay.kind:
			assert.False(t, refused, "%s: %s", what, got.Refusal)
		case absent.kind:
			assert.Equal(t, leftOut, got, what)
		case denied.kind, undone.kind:
			assert.Equal(t, http.StatusBadRequest, got.Status, "%s is refused", what)
			assert.False(t, got.Changed || got.Replaced, "%s changes nothing", what)
			if want == denied {
				assert.Contains(t, got.Refusal, field, what)
				assert.Zero(t, got.Requests, "%s is refused before anything is tried", what)
			}
			assert.NotContains(t, got.Refusal, "9007199254", what)
		default:
			require.False(t, refused, "%s: %s", what, got.Refusal)
			assert.Equal(t, send(want.value), got, "%s is taken as %v", what, want.value)
			if shown, ok := got.Config[field]; ok && path == mounttest.ConfigKey {
				assert.EqualValues(t, want.value, shown, what)
			}
		}
	}
	check("left out", leftOut, row.leftOut)
	for _, column := range []struct {
		name   string
		want   reception
		values []any // A number is a json.Number in Vault's process, and a float64 in the plugin's.
	}{
		{"null", row.null, []any{nil}},
		{"empty", row.empty, []any{""}},
		{"good text", row.good, []any{row.text}},
		{"other text", row.words, []any{"two words"}},
		{"1", row.one, []any{json.Number("1"), 1.0}},
		{"30", row.thirty, []any{json.Number("30"), 30.0}},
		{"huge number", row.huge, []any{json.Number("9007199254740993"), 9007199254740993.0}},
		{"true", row.boolean, []any{true}},
		{"list", row.list, []any{[]any{}, []any{row.text}, []any{row.text, 1.0}}},
		{"object", row.object, []any{map[string]any{}, map[string]any{row.text: row.text}}},
	} {
		for _, value := range column.values {
			check(fmt.Sprintf("%s (%T)", column.name, value), send(value), column.want)
		}
	}
}

// The shortcut of a warm read takes a min_ttl for what any other read takes it for.
func TestWarmReadTakesWhatAnyReadTakes(t *testing.T) {
	taken := 0
	for _, value := range []any{
		nil, "", " ", "10m", "600", "600s", "0", "1d", "soon", "5.5", "1.5s", "-1s", json.Number("600"), json.Number("0"), json.Number("1.5"), json.Number("9007199254740993"),
		600.0, 600.5, 0.0, -1.0, 9007199254740993.0, 1e300, true, false, []any{}, []any{"10m"}, map[string]any{},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := mounttest.NewConfigured(t)
			m.Sandbox.SetTokenLifetime(100 * time.Hour)
			resp, err := m.Handle(t.Context(), logical.ReadOperation, "token", mounttest.Pairs("min_ttl", value)) // Not a warm one yet.
			accepted := err == nil && !resp.IsError()
			m.Read()
			warm, ok := m.Warm(mounttest.Pairs("min_ttl", value))
			assert.Equal(t, accepted, ok, "%#v", value)
			if ok {
				taken++
				assert.Equal(t, resp.Data["access_token"], warm.Data["access_token"])
			} else if assert.True(t, resp.IsError(), "%#v", value) {
				assert.Contains(t, resp.Error().Error(), "min_ttl", "%#v", value)
			}
		})
	}
	assert.Equal(t, 10, taken)
}

// typesAuthority is a certificate, as the engine stores it.
const typesAuthority = `-----BEGIN CERTIFICATE-----
MIIBUjCB+aADAgECAgEBMAoGCCqGSM49BAMCMBkxFzAVBgNVBAMTDlRlc3QgYXV0
aG9yaXR5MB4XDTI2MTEyODA1NTQ1M1oXDTI3MTEyODA1NTQ1M1owGTEXMBUGA1UE
AxMOVGVzdCBhdXRob3JpdHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQd7xMS
I9drcAkrSy4bLD6yQB1MRjsTRN4v2RfxvEjGhrqmouIMtxqGWK3hge204eflvZav
TE77ZooHBm5jFMe7ozIwMDAPBgNVHRMBAf8EBTADAQH/MB0GA1UdDgQWBBQPxH20
smkEJ2a3M18x4MBgO9UkjDAKBggqhkjOPQQDAgNIADBFAiApDzN2F6qDBFfYCofc
mV31fIn9nnSuc1cNxCrjV8A8NAIhAKmSXwq+Aw4NfE+3I7xT5bsMsiBXSEWGxh8b
nBhh4X7i
-----END CERTIFICATE-----`
