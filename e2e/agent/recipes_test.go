// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// TestJWTRecipes types the commands of docs/recipes.md that make roles, and logs in with
// JWTs such as the platforms give to their jobs. Another signer stands for the platform.
func TestJWTRecipes(t *testing.T) {
	t.Parallel()
	m := newMount(t, "recipes", fuuffytest.Config{}, nil)
	m.clientWith("app") // Writes the policy.
	signer, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	for platform, job := range map[string]struct {
		claims map[string]any
		// wrong are claims of jobs that must not get in.
		wrong map[string]string
	}{
		"jwt-github": {
			claims: map[string]any{"aud": "https://vault.example.com:8200", "repository": "example/shop", "ref": "refs/heads/main"},
			wrong:  map[string]string{"aud": "https://vault.example.org", "repository": "mallory/shop", "ref": "refs/heads/other"},
		},
		"jwt-gitlab": {
			claims: map[string]any{"aud": "https://vault.example.com:8200", "project_path": "example/shop", "project_id": "42", "ref": "main", "ref_type": "branch", "ref_protected": "true"},
			wrong:  map[string]string{"aud": "https://vault.example.org", "project_id": "43", "ref": "other", "ref_type": "tag", "ref_protected": "false"},
		},
		"jwt-nomad": {
			claims: map[string]any{"aud": "vault.io", "nomad_namespace": "default", "nomad_job_id": "shop"},
			wrong:  map[string]string{"aud": "nomadproject.io", "nomad_namespace": "other", "nomad_job_id": "other"},
		},
	} {
		t.Run(platform, func(t *testing.T) {
			m.enableJWT(t, platform, &signer.PublicKey)
			m.typeRecipe(t, "vault write auth/"+platform+"/role/")

			login := func(claims map[string]any) (*api.Secret, error) {
				return vault.Client.Logical().WriteWithContext(t.Context(), "auth/"+platform+"/login", map[string]any{"role": "fuuffy-app", "jwt": sign(t, signer, claims)})
			}
			answer, err := login(job.claims)
			require.NoError(t, err)
			client, err := vault.Client.Clone()
			require.NoError(t, err)
			client.SetToken(answer.Auth.ClientToken)
			read, err := client.Logical().ReadWithContext(t.Context(), m.path+"/token")
			require.NoError(t, err)
			assert.True(t, m.TokenAlive(read.Data["access_token"].(string)))

			for claim, value := range job.wrong {
				claims := maps.Clone(job.claims)
				claims[claim] = value
				_, err := login(claims)
				assert.Error(t, err, "a job with another %s", claim)
			}
		})
	}

	claims := map[string]any{"aud": "https://vault.example.com:8200", "project_path": "example/shop", "project_id": "42", "ref": "main", "ref_type": "branch", "ref_protected": "true"}
	assert.True(t, m.TokenAlive(m.runGitLabJob(t, sign(t, signer, claims))), "what the GitLab job got")
}

func readRecipes(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "recipes.md"))
	require.NoError(t, err)
	return string(page)
}

// enableJWT does what the recipe does before it makes a role, with a key in place of
// the platform's address.
func (m *mount) enableJWT(t *testing.T, path string, key *rsa.PublicKey) {
	t.Helper()
	require.NoError(t, vault.Client.Sys().EnableAuthWithOptionsWithContext(t.Context(), path, &api.EnableAuthOptions{Type: "jwt"}))
	der, err := x509.MarshalPKIXPublicKey(key)
	require.NoError(t, err)
	_, err = vault.Client.Logical().WriteWithContext(t.Context(), "auth/"+path+"/config", map[string]any{
		"jwt_validation_pubkeys": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
	})
	require.NoError(t, err)
}

// typeRecipe runs a command of the page that begins so, with its input.
func (m *mount) typeRecipe(t *testing.T, beginning string) {
	t.Helper()
	_, rest, found := strings.Cut(readRecipes(t), "    "+beginning)
	require.True(t, found, beginning)
	command, _, found := strings.Cut(beginning+rest, "\n    EOF\n")
	require.True(t, found, beginning)
	command = strings.ReplaceAll(command, "\n    ", "\n") + "\nEOF\n"
	m.shell(t, strings.ReplaceAll(command, `"token_policies": ["fuuffy-app"]`, `"token_policies": ["`+m.path+`-app"]`))
}

// runGitLabJob runs the script of the job in the recipe, and returns the token it got.
func (m *mount) runGitLabJob(t *testing.T, jwt string) string {
	t.Helper()
	_, rest, _ := strings.Cut(readRecipes(t), "In `.gitlab-ci.yml`:\n\n```yaml\n")
	text, _, found := strings.Cut(rest, "```")
	require.True(t, found)
	var jobs map[string]struct{ Script []string }
	require.NoError(t, yaml.Unmarshal([]byte(text), &jobs))
	script := strings.Join(jobs["report"].Script, "\n")
	require.Contains(t, script, "./report.sh")
	script = strings.NewReplacer("fuuffy/token", m.path+"/token", "./report.sh", `printf %s "$FUUFFY_ACCESS_TOKEN"`).Replace(script)
	return m.shell(t, script, "VAULT_TOKEN=", "VAULT_ID_TOKEN="+jwt)
}

func (m *mount) shell(t *testing.T, script string, environment ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "sh", "-euc", script)
	command.Env = append(append(os.Environ(), vault.Environment()...), environment...)
	output, err := command.Output()
	require.NoError(t, err, script)
	return string(output)
}

// sign returns a JWT that is good for a minute.
func sign(t *testing.T, key *rsa.PrivateKey, claims map[string]any) string {
	t.Helper()
	claims = maps.Clone(claims)
	claims["sub"], claims["exp"], claims["iat"] = "job", time.Now().Add(time.Minute).Unix(), time.Now().Unix()
	encode := func(part any) string {
		text, err := json.Marshal(part)
		require.NoError(t, err)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	signed := encode(map[string]string{"alg": "RS256", "typ": "JWT"}) + "." + encode(claims)
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	require.NoError(t, err)
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// Nomad renders with the same code as Vault Agent, and the recipe has the template that
// the Agents of other tests run.
func TestNomadTemplate(t *testing.T) {
	t.Parallel()
	_, rest, found := strings.Cut(readRecipes(t), "data        = ")
	require.True(t, found)
	template, _, _ := strings.Cut(rest, "\n")
	assert.Contains(t, readExample(t, "agent/token-file.hcl"), template)
}
