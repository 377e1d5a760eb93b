// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/advice"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// userError is the caller's mistake. Its text says how to fix it.
type userError string

func (e userError) Error() string { return string(e) }

// textError is a userError whose text has commands.
type textError struct{ text advice.Text }

func (e *textError) Error() string { return e.text.Render("") }

// maxTextLength bounds, in bytes, each text that is not a PEM bundle.
const maxTextLength = 4096

// textField reads a text field, empty if the write doesn't name it. It removes surrounding
// white space, which comes from a paste or a file, and warns.
func textField(d *framework.FieldData, field string) (value, warning string, err error) {
	// Enter and @file add one newline. That is no one's mistake.
	raw := strings.TrimSuffix(strings.TrimSuffix(d.Get(field).(string), "\n"), "\r")
	value = strings.TrimSpace(raw)
	if value != raw {
		warning = fmt.Sprintf("%s had white space around it; the engine removed it", field)
	}
	return value, warning, checkText(field, value)
}

// checkText rejects white space and invisible characters, which are there by mistake. It
// doesn't quote the value, which may be a secret.
func checkText(field, value string) error {
	if len(value) > maxTextLength {
		return userError(fmt.Sprintf("%s is longer than %d bytes", field, maxTextLength))
	}
	if !utf8.ValidString(value) {
		return userError(fmt.Sprintf("%s is not valid UTF-8 text: copy it again", field))
	}
	position := 0
	for _, r := range value {
		position++
		if !unicode.IsGraphic(r) || unicode.IsSpace(r) {
			return userError(fmt.Sprintf("%s has white space or an invisible character inside (character %d): copy it again", field, position))
		}
	}
	return nil
}

// checkBaseURL accepts an https address with a host, and optionally a port and a path. It
// doesn't quote the address, which may contain a password.
func checkBaseURL(address string) error {
	if address == "" {
		return nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return userError("base_url is not a URL: write it like https://gateway.example.com/v1")
	}
	port, portErr := strconv.ParseUint(u.Port(), 10, 16)
	switch {
	case u.Scheme != "https":
		return userError("base_url must begin with https:// : Fuuffy serves nothing else, and the client secret must not travel in clear text")
	case u.User != nil:
		return userError("base_url must not have a user name or password in it")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(address, "#"):
		return userError("base_url must not have a query or fragment: end it before the ? or #")
	case u.Hostname() == "":
		return userError("base_url has no host: write it like https://gateway.example.com/v1")
	case strings.ContainsFunc(u.Host, func(r rune) bool { return r > unicode.MaxASCII || r == '%' }):
		return userError("base_url must name its host in ASCII letters, without a zone (write an international name in its xn-- form)")
	case strings.HasSuffix(u.Host, ":"), u.Port() != "" && (portErr != nil || port == 0):
		return userError("base_url has no valid port: leave it out or write one from 1 to 65535")
	case strings.Contains(u.EscapedPath(), "%"), strings.Contains(u.Path+"/", "/../"), strings.Contains(u.Path+"/", "/./"), strings.Contains(u.Path, "//"):
		return userError("base_url must have a plain path: no % and no empty, . or .. segment")
	}
	return nil
}

// lowerCaseHost puts the scheme and host of an address that checkBaseURL accepts in lower case.
// They mean the same in either case, but a path may not.
func lowerCaseHost(address string) string {
	scheme, rest, found := strings.Cut(address, "://")
	if !found {
		return address
	}
	host, path, hasPath := strings.Cut(rest, "/")
	address = strings.ToLower(scheme) + "://" + strings.ToLower(host)
	if hasPath {
		address += "/" + path
	}
	return address
}

var writes = []logical.Operation{logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation}

// checkInput returns the request as its sender meant it. It rejects fields that a path doesn't
// have, and values that are not of their field's type. The framework would only warn of the
// first, and either convert the second (a number loses digits on its way into a text, an empty
// text is false) or quote it in its error. A value may be a secret or huge, and Vault's audit log
// keeps error texts in clear text.
func (b *backend) checkInput(req *logical.Request) (*logical.Request, error) {
	if len(req.Data) == 0 {
		return req, nil
	}
	path := b.Route(req.Path)
	if path == nil {
		return req, nil
	}
	if _, ok := path.Operations[req.Operation]; ok && slices.Contains(writes, req.Operation) {
		if err := refuseUnknown(req.Data, path.Fields); err != nil {
			return req, err
		}
	}
	d := framework.FieldData{Raw: req.Data, Schema: path.Fields}
	for _, field := range slices.Sorted(maps.Keys(path.Fields)) {
		if err := checkValue(&d, field); err != nil {
			return req, err
		}
	}
	return withoutNulls(req), nil
}

// checkValue rejects a value that is not of its field's type.
func checkValue(d *framework.FieldData, field string) error {
	value := d.Raw[field]
	if value == nil {
		if _, given := d.Raw[field]; given && field == rejectedTokenField {
			return errNoRejectedToken
		}
		return nil
	}
	kind := d.Schema[field].Type
	text, isText := value.(string)
	if kind != framework.TypeString && isText && strings.TrimSpace(text) == "" {
		return userError(fmt.Sprintf("%s is empty, perhaps because a shell variable is unset. Leave it out, or set it to %s.", field, typeNames[kind]))
	}
	_, _, err := d.GetOkErr(field)
	right := err == nil
	switch kind {
	case framework.TypeString:
		right = isText
	case framework.TypeBool: // The framework takes any number but 0 for true.
		_, err := strconv.ParseBool(fmt.Sprint(value))
		right = err == nil
	}
	switch {
	case !right:
		return userError(field + " must be " + typeNames[kind])
	case kind == framework.TypeDurationSecond && hasFraction(value):
		return userError(field + " must be whole seconds")
	}
	return nil
}

// withoutNulls leaves out the fields that are null, in a copy: Vault's audit log has the
// request as it was sent.
func withoutNulls(req *logical.Request) *logical.Request {
	isNull := func(_ string, value any) bool { return value == nil }
	data := maps.Clone(req.Data)
	if maps.DeleteFunc(data, isNull); len(data) == len(req.Data) {
		return req
	}
	given := *req
	given.Data = data
	return &given
}

// maxUnknown is how many unknown fields an error names: Vault's audit log keeps it.
const maxUnknown = 5

// refuseUnknown rejects fields that the path doesn't have. Otherwise a mistyped option would
// pass as one that was left out.
func refuseUnknown(data map[string]any, fields map[string]*framework.FieldSchema) error {
	var unknown []string
	for _, field := range slices.Sorted(maps.Keys(data)) {
		if _, ok := fields[field]; !ok {
			unknown = append(unknown, upstream.Printable(field))
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	if more := len(unknown) - maxUnknown; more > 0 {
		unknown = append(unknown[:maxUnknown], fmt.Sprintf("and %d more", more))
	}
	return userError(fmt.Sprintf("unknown field %s; nothing was changed. This path takes: %s",
		strings.Join(unknown, ", "), cmp.Or(strings.Join(slices.Sorted(maps.Keys(fields)), ", "), "no fields")))
}

// typeNames are the types of this engine's fields, for people.
var typeNames = map[framework.FieldType]string{
	framework.TypeString:         "a string (in JSON, put it in quotes)",
	framework.TypeBool:           "true or false",
	framework.TypeDurationSecond: "a duration like 5m, or a whole number of seconds",
}

// hasFraction tells whether a written duration has a fraction of a second, which the framework
// would drop silently.
func hasFraction(raw any) bool {
	switch raw := raw.(type) {
	case float64:
		return raw != math.Trunc(raw)
	case string:
		d, err := time.ParseDuration(raw)
		return err == nil && d%time.Second != 0
	}
	return false
}
