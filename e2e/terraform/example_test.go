// SPDX-License-Identifier: MPL-2.0

// Package terraform holds examples/terraform to what the provider has, and to its promise
// that no secret gets into a state or a plan. It needs neither Terraform nor Vault.
package terraform

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/tryfunc"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

const folder = "../../examples/terraform"

// setups are the folders that set up the engine, for one mount and for many. secret is the
// variable that no state may keep, and settings is what an apply knows and a plan doesn't.
var setups = map[string]struct{ secret, settings string }{
	folder:            {"client_secret", "terraform_data.settings.output"},
	folder + "/shops": {"client_secrets", "terraform_data.settings"}, // [each.key].output
}

// folders are those and the module for a token.
var folders = append(slices.Collect(maps.Keys(setups)), folder+"/token")

// arguments are those that the example may use of each kind of block, from
// https://github.com/hashicorp/terraform-provider-vault (5.11): vault/resource_plugin.go,
// vault/resource_mount.go, vault/resource_policy.go, internal/vault/generic and
// internal/vault/secrets/ephemeral/generic_secret.go, with the mount_id of
// internal/framework/base.
var arguments = map[string][]string{
	"resource vault_plugin":            {"type", "name", "version", "command", "sha256"},
	"resource vault_mount":             {"for_each", "path", "type", "plugin_version", "seal_wrap"},
	"resource vault_policy":            {"for_each", "name", "policy"},
	"resource terraform_data":          {"for_each", "input", "triggers_replace"},
	"ephemeral vault_generic_endpoint": {"for_each", "mount_id", "path", "data_json"},
	"ephemeral vault_generic_secret":   {"for_each", "mount_id", "path"},
}

// blocks returns the blocks of the files in a folder.
func blocks(t *testing.T, folder string) []*hclsyntax.Block {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.tf"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var found []*hclsyntax.Block
	for _, name := range files {
		file, problems := hclparse.NewParser().ParseHCLFile(name)
		require.False(t, problems.HasErrors(), problems.Error())
		found = append(found, file.Body.(*hclsyntax.Body).Blocks...)
	}
	return found
}

func kind(b *hclsyntax.Block) string {
	return strings.TrimSpace(b.Type + " " + strings.Join(b.Labels[:min(1, len(b.Labels))], ""))
}

func find(t *testing.T, in []*hclsyntax.Block, kind, name string) *hclsyntax.Block {
	t.Helper()
	i := slices.IndexFunc(in, func(b *hclsyntax.Block) bool {
		return strings.Join(append([]string{b.Type}, b.Labels...), " ") == strings.TrimSpace(kind+" "+name)
	})
	require.GreaterOrEqual(t, i, 0, "%s %s", kind, name)
	return in[i]
}

// uses tells whether an expression refers to something, such as var.mount.
func uses(expression hclsyntax.Expression, name string) bool {
	return slices.ContainsFunc(expression.Variables(), func(t hcl.Traversal) bool { return strings.HasPrefix(path(t)+".", name+".") })
}

func path(t hcl.Traversal) string {
	names := []string{t.RootName()}
	for _, step := range t[1:] {
		if attribute, ok := step.(hcl.TraverseAttr); ok {
			names = append(names, attribute.Name)
		}
	}
	return strings.Join(names, ".")
}

func TestArguments(t *testing.T) {
	for _, folder := range folders {
		for _, b := range blocks(t, folder) {
			if b.Type != "resource" && b.Type != "ephemeral" {
				continue
			}
			documented, ok := arguments[kind(b)]
			require.True(t, ok, "%s is not in the provider", kind(b))
			for name := range b.Body.Attributes {
				assert.Contains(t, documented, name, kind(b))
			}
		}
	}
}

// Terraform keeps what resources have. Only ephemeral resources get the secret, and what
// they return goes nowhere but into conditions, other ephemeral resources and an output
// that is ephemeral too.
func TestNothingSecretIsKept(t *testing.T) {
	seen := 0
	for _, folder := range folders {
		for _, b := range blocks(t, folder) {
			for name, attribute := range b.Body.Attributes {
				switch secret := uses(attribute.Expr, "var."+setups[folder].secret) || uses(attribute.Expr, "ephemeral"); {
				case !secret:
				case b.Type == "ephemeral":
					seen++
				case b.Type == "output":
					seen++
					assert.Contains(t, b.Body.Attributes, "ephemeral", "output %s", b.Labels[0])
				default:
					t.Errorf("%s: %s is kept in the state", kind(b), name)
				}
			}
			for _, inner := range b.Body.Blocks {
				assert.Contains(t, []string{"lifecycle", "required_providers", "validation"}, inner.Type, "a block in %s", kind(b))
			}
		}
	}
	assert.GreaterOrEqual(t, seen, 5)

	for folder, setup := range setups {
		refusesSecrets(t, blocks(t, folder), setup.secret)
	}
}

// refusesSecrets: the variable with the secret is not kept, and the settings, which are, don't take
// one.
func refusesSecrets(t *testing.T, all []*hclsyntax.Block, name string) {
	t.Helper()
	settings := find(t, find(t, all, "variable", "settings").Body.Blocks, "validation", "").Body.Attributes["condition"].Expr
	secret := find(t, all, "variable", name).Body.Attributes
	for _, mark := range []string{"ephemeral", "sensitive"} {
		require.Contains(t, secret, mark)
		value, _ := secret[mark].Expr.Value(nil)
		assert.Equal(t, cty.True, value, mark)
	}

	for setting, allowed := range map[string]cty.Value{"stale_if_error": cty.True, "client_secret": cty.False} {
		value, problems := settings.Value(&hcl.EvalContext{
			Variables: map[string]cty.Value{"var": cty.ObjectVal(map[string]cty.Value{"settings": cty.MapVal(map[string]cty.Value{setting: cty.StringVal("x")})})},
			Functions: map[string]function.Function{"contains": stdlib.ContainsFunc, "keys": stdlib.KeysFunc},
		})
		require.False(t, problems.HasErrors(), problems.Error())
		assert.Equal(t, allowed, value, setting)
	}
}

// A path with + or * would give policies for other mounts.
func TestPathsAreChecked(t *testing.T) {
	values := func(path string) map[string]cty.Value {
		return map[string]cty.Value{
			"mount": cty.StringVal(path), "path": cty.StringVal(path), "shops": cty.MapVal(map[string]cty.Value{path: cty.True}),
		}
	}
	for variable, where := range map[string]string{"mount": folder, "path": folder + "/shops", "shops": folder + "/shops"} {
		condition := find(t, find(t, blocks(t, where), "variable", variable).Body.Blocks, "validation", "").Body.Attributes["condition"].Expr
		for path, allowed := range map[string]bool{
			"north": true, "old-town.2_": true, "shops/north": variable != "shops",
			"": false, "+": false, "sh*p": false, "/north": false, "north/": false, "-north": false, "a\" {}": false, "a b": false, "a\nb": false,
		} {
			value, problems := condition.Value(&hcl.EvalContext{
				Variables: map[string]cty.Value{"var": cty.ObjectVal(values(path))},
				Functions: map[string]function.Function{"can": tryfunc.CanFunc, "regex": stdlib.RegexFunc, "length": stdlib.LengthFunc, "keys": stdlib.KeysFunc},
			})
			require.False(t, problems.HasErrors(), problems.Error())
			assert.Equal(t, cty.BoolVal(allowed), value, "%s = %q", variable, path)
		}
	}
}

// An ephemeral resource that depends on something not made yet is opened only if
// something uses it. So something does, and is made after the mount.
func TestFirstApplyConfigures(t *testing.T) {
	for folder, setup := range setups {
		firstApplyConfigures(t, blocks(t, folder), setup.settings)
	}
}

func firstApplyConfigures(t *testing.T, all []*hclsyntax.Block, settings string) {
	t.Helper()
	config := find(t, all, "ephemeral vault_generic_endpoint", "config").Body.Attributes
	assert.True(t, uses(config["mount_id"].Expr, "vault_mount.fuuffy"))
	for _, argument := range []string{"path", "data_json"} {
		assert.True(t, uses(config[argument].Expr, settings), "a change of %s is written when it is applied, not when it is planned", argument)
	}
	status := find(t, all, "ephemeral vault_generic_secret", "status").Body.Attributes
	assert.True(t, uses(status["mount_id"].Expr, "ephemeral.vault_generic_endpoint.config"))
	configured := find(t, all, "resource terraform_data", "configured").Body
	assert.True(t, uses(configured.Attributes["triggers_replace"].Expr, "vault_mount.fuuffy"))
	condition := find(t, find(t, configured.Blocks, "lifecycle", "").Body.Blocks, "postcondition", "").Body.Attributes["condition"].Expr
	assert.True(t, uses(condition, "ephemeral.vault_generic_secret.status"))
}

// The policies are those of examples/policies, for the mount's path.
func TestPolicies(t *testing.T) {
	all := blocks(t, folder)
	where, _ := find(t, all, "variable", "policies").Body.Attributes["default"].Expr.Value(nil)
	files, err := filepath.Glob(filepath.Join(folder, where.AsString(), "*.hcl"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 4)
	policy := find(t, all, "resource vault_policy", "fuuffy").Body.Attributes
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for mount, want := range map[string]string{
			"fuuffy": string(text),
			"shop":   strings.NewReplacer(`path "fuuffy/`, `path "shop/`, `path "sys/mounts/fuuffy"`, `path "sys/mounts/shop"`).Replace(string(text)),
		} {
			evaluated := func(name string) string {
				value, problems := policy[name].Expr.Value(scope(mount, where, filepath.Base(file)))
				require.False(t, problems.HasErrors(), problems.Error())
				return value.AsString()
			}
			assert.Equal(t, want, evaluated("policy"))
			assert.Equal(t, mount+"-"+strings.TrimSuffix(filepath.Base(file), ".hcl"), evaluated("name"))
		}
	}
}

// scope is what the expressions of a policy refer to.
func scope(mount string, policies cty.Value, file string) *hcl.EvalContext {
	read := function.New(&function.Spec{
		Params: []function.Parameter{{Name: "path", Type: cty.String}},
		Type:   function.StaticReturnType(cty.String),
		Impl: func(arguments []cty.Value, _ cty.Type) (cty.Value, error) {
			text, err := os.ReadFile(filepath.Join(folder, arguments[0].AsString()))
			return cty.StringVal(string(text)), err
		},
	})
	// Terraform's replace takes a pattern between slashes.
	replace := function.New(&function.Spec{
		Params: []function.Parameter{{Name: "text", Type: cty.String}, {Name: "pattern", Type: cty.String}, {Name: "by", Type: cty.String}},
		Type:   function.StaticReturnType(cty.String),
		Impl: func(arguments []cty.Value, _ cty.Type) (cty.Value, error) {
			pattern := arguments[1].AsString()
			if len(pattern) < 2 || pattern[0] != '/' || pattern[len(pattern)-1] != '/' {
				return stdlib.Replace(arguments[0], arguments[1], arguments[2])
			}
			return stdlib.RegexReplace(arguments[0], cty.StringVal(pattern[1:len(pattern)-1]), arguments[2])
		},
	})
	return &hcl.EvalContext{
		Variables: map[string]cty.Value{
			"var":  cty.ObjectVal(map[string]cty.Value{"mount": cty.StringVal(mount), "policies": policies}),
			"each": cty.ObjectVal(map[string]cty.Value{"key": cty.StringVal(file)}),
		},
		Functions: map[string]function.Function{"file": read, "replace": replace, "trimsuffix": stdlib.TrimSuffixFunc},
	}
}
