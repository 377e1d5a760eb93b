// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// documentedFields are the fields that the examples may use of custom resources, with
// their types. They are from the definitions of the projects: config/crd/bases in
// https://github.com/hashicorp/vault-secrets-operator (v1.4.1) and
// https://github.com/external-secrets/external-secrets (v2.9.0), and for the last one
// what internal/config/config.go of https://github.com/hashicorp/vault-csi-provider
// (v1.7.4) reads. A [] stands for each item of a list.
var documentedFields = map[string]map[string]string{
	"secrets.hashicorp.com/v1beta1/VaultAuth": {
		"spec.allowedNamespaces[]":               "string",
		"spec.appRole.roleId":                    "string",
		"spec.appRole.secretRef":                 "string",
		"spec.kubernetes.audiences[]":            "string",
		"spec.kubernetes.role":                   "string",
		"spec.kubernetes.serviceAccount":         "string",
		"spec.kubernetes.tokenExpirationSeconds": "int",
		"spec.method":                            "string",
		"spec.mount":                             "string",
		"spec.namespace":                         "string",
		"spec.vaultConnectionRef":                "string",
	},
	"secrets.hashicorp.com/v1beta1/VaultConnection": {
		"spec.address":         "string",
		"spec.caCertSecretRef": "string",
	},
	"secrets.hashicorp.com/v1beta1/VaultDynamicSecret": {
		"spec.allowStaticCreds":                      "bool",
		"spec.destination.create":                    "bool",
		"spec.destination.name":                      "string",
		"spec.destination.overwrite":                 "bool",
		"spec.destination.transformation.excludeRaw": "bool",
		"spec.destination.transformation.excludes[]": "string",
		"spec.destination.transformation.includes[]": "string",
		"spec.destination.type":                      "string",
		"spec.mount":                                 "string",
		"spec.namespace":                             "string",
		"spec.path":                                  "string",
		"spec.refreshAfter":                          "string",
		"spec.rolloutRestartTargets[].kind":          "string",
		"spec.rolloutRestartTargets[].name":          "string",
		"spec.syncConfig.instantUpdates":             "bool", // Since #1295.
		"spec.vaultAuthRef":                          "string",
	},
	"generators.external-secrets.io/v1alpha1/VaultDynamicSecret": {
		"spec.getParameters.min_ttl[]": "string",
		"spec.method":                  "string",
		"spec.path":                    "string",
		"spec.provider.auth.kubernetes.mountPath":                     "string",
		"spec.provider.auth.kubernetes.role":                          "string",
		"spec.provider.auth.kubernetes.serviceAccountRef.audiences[]": "string",
		"spec.provider.auth.kubernetes.serviceAccountRef.name":        "string",
		"spec.provider.caProvider.key":                                "string",
		"spec.provider.caProvider.name":                               "string",
		"spec.provider.caProvider.type":                               "string",
		"spec.provider.server":                                        "string",
		"spec.resultType":                                             "string",
	},
	"external-secrets.io/v1/ExternalSecret": {
		"spec.dataFrom[].sourceRef.generatorRef.apiVersion": "string",
		"spec.dataFrom[].sourceRef.generatorRef.kind":       "string",
		"spec.dataFrom[].sourceRef.generatorRef.name":       "string",
		"spec.refreshInterval":                              "string",
		"spec.target.name":                                  "string",
		"spec.target.template.data.access_token":            "string",
		"spec.target.template.engineVersion":                "string",
		"spec.target.template.mergePolicy":                  "string",
	},
	"secrets-store.csi.x-k8s.io/v1/SecretProviderClass": {
		"spec.parameters.audience":           "string",
		"spec.parameters.objects":            "string",
		"spec.parameters.roleName":           "string",
		"spec.parameters.vaultAddress":       "string",
		"spec.parameters.vaultAuthMountPath": "string",
		"spec.parameters.vaultCACertPath":    "string",
		"spec.provider":                      "string",
	},
}

var requiredFields = map[string][]string{
	"secrets.hashicorp.com/v1beta1/VaultAuth":                    {"spec.method", "spec.mount"},
	"secrets.hashicorp.com/v1beta1/VaultConnection":              {"spec.address"},
	"secrets.hashicorp.com/v1beta1/VaultDynamicSecret":           {"spec.destination.name", "spec.mount", "spec.path"},
	"generators.external-secrets.io/v1alpha1/VaultDynamicSecret": {"spec.path", "spec.provider.server"},
	"external-secrets.io/v1/ExternalSecret":                      {"spec.target.name", "spec.dataFrom[].sourceRef.generatorRef.kind"},
	"secrets-store.csi.x-k8s.io/v1/SecretProviderClass":          {"spec.provider", "spec.parameters.objects", "spec.parameters.roleName"},
}

// injectorAnnotations are those that the example may use, and what their values must
// parse as, from agent-inject/agent/annotations.go in
// https://github.com/hashicorp/vault-k8s and
// https://developer.hashicorp.com/vault/docs/deploy/kubernetes/injector/annotations.
// A name that ends with a dash takes the name of a secret after it.
var injectorAnnotations = map[string]string{
	"agent-inject": "bool",
	"role":         "string",
	"tls-secret":   "string",
	"ca-cert":      "string",
	"agent-service-account-token-volume-name": "string",
	"agent-inject-secret-":                    "string",
	"agent-inject-template-":                  "string",
	"agent-inject-file-":                      "string",
	"agent-inject-perms-":                     "mode",
	"agent-run-as-same-user":                  "bool",
	"template-config-exit-on-retry-failure":   "bool",
	"agent-cache-enable":                      "bool",
	"agent-cache-use-auto-auth-token":         "bool",
	"agent-cache-listener-port":               "int",
}

// manifest is a Kubernetes resource: its leaves by their paths.
type manifest struct {
	kind, apiVersion string
	leaves           map[string]any
}

func readManifests(t *testing.T, example string) map[string]manifest {
	t.Helper()
	return parseManifests(t, readExample(t, example))
}

func parseManifests(t *testing.T, text string) map[string]manifest {
	t.Helper()
	found := map[string]manifest{}
	decoder := yaml.NewDecoder(strings.NewReader(text))
	for {
		var document map[string]any
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return found
		}
		require.NoError(t, err)
		m := manifest{leaves: map[string]any{}}
		m.collect("", document)
		m.kind, _ = m.leaves["kind"].(string)
		m.apiVersion, _ = m.leaves["apiVersion"].(string)
		found[m.kind] = m
	}
}

func (m manifest) collect(at string, value any) {
	switch value := value.(type) {
	case map[string]any:
		for name, inner := range value {
			m.collect(strings.TrimPrefix(at+"\x00"+name, "\x00"), inner)
		}
	case []any:
		for _, inner := range value {
			m.collect(at+"[]", inner)
		}
	default:
		m.leaves[strings.ReplaceAll(at, "\x00", ".")] = value
	}
}

// The custom resources have no field that their projects don't have, and are about the
// same app: in one namespace, with one identity.
func TestManifests(t *testing.T) {
	t.Parallel()
	for example, kinds := range map[string]int{
		"vault-secrets-operator":         4,
		"vault-secrets-operator-approle": 1,
		"external-secrets":               2,
		"csi-provider":                   2,
		"agent-injector":                 1,
	} {
		t.Run(example, func(t *testing.T) {
			t.Parallel()
			manifests := readManifests(t, "kubernetes/"+example+".yaml")
			assert.Len(t, manifests, kinds)
			for _, m := range manifests {
				assert.Equal(t, "shop", m.leaves["metadata.namespace"])
				if m.kind == "Deployment" {
					assert.Equal(t, "shop", m.leaves["spec.template.spec.serviceAccountName"])
					continue
				}
				name := m.apiVersion + "/" + m.kind
				require.Contains(t, documentedFields, name)
				for field, value := range m.leaves {
					if strings.HasPrefix(field, "spec.") {
						assert.Equal(t, documentedFields[name][field], fmt.Sprintf("%T", value), "%s: %s", name, field)
					}
				}
				for _, field := range requiredFields[name] {
					assert.NotEmpty(t, m.leaves[field], "%s: %s", name, field)
				}
			}
		})
	}
}

// The parts of an example refer to each other, and the app finds the token in its file.
func TestManifestsFitTogether(t *testing.T) {
	t.Parallel()
	const volume, container = "spec.template.spec.volumes[].", "spec.template.spec.containers[]."
	operator := readManifests(t, "kubernetes/vault-secrets-operator.yaml")
	secret, auth, app := operator["VaultDynamicSecret"].leaves, operator["VaultAuth"].leaves, operator["Deployment"].leaves
	assert.Equal(t, true, secret["spec.allowStaticCreds"])
	assert.Equal(t, auth["metadata.name"], secret["spec.vaultAuthRef"])
	assert.Equal(t, operator["VaultConnection"].leaves["metadata.name"], auth["spec.vaultConnectionRef"])
	assert.Equal(t, "kubernetes", auth["spec.method"])
	assert.Equal(t, secret["spec.destination.name"], app[volume+"secret.secretName"])
	file := app[container+"env[].value"].(string)
	assert.Equal(t, app[container+"volumeMounts[].mountPath"], path.Dir(file))
	assert.Regexp(t, regexp.MustCompile(secret["spec.destination.transformation.includes[]"].(string)), path.Base(file))

	approle := readManifests(t, "kubernetes/vault-secrets-operator-approle.yaml")["VaultAuth"].leaves
	assert.Equal(t, "appRole", approle["spec.method"])
	assert.Equal(t, auth["metadata.name"], approle["metadata.name"])
	assert.Equal(t, auth["spec.vaultConnectionRef"], approle["spec.vaultConnectionRef"])

	external := readManifests(t, "kubernetes/external-secrets.yaml")
	generator, synced := external["VaultDynamicSecret"], external["ExternalSecret"].leaves
	assert.Equal(t, generator.apiVersion, synced["spec.dataFrom[].sourceRef.generatorRef.apiVersion"])
	assert.Equal(t, generator.kind, synced["spec.dataFrom[].sourceRef.generatorRef.kind"])
	assert.Equal(t, generator.leaves["metadata.name"], synced["spec.dataFrom[].sourceRef.generatorRef.name"])
	assert.Equal(t, app[volume+"secret.secretName"], synced["spec.target.name"])
	interval, err := time.ParseDuration(synced["spec.refreshInterval"].(string))
	require.NoError(t, err)
	const life, delivery = 5 * time.Minute, 2 * time.Minute // What docs/apps.md promises, and says of the kubelet.
	assert.LessOrEqual(t, 2*interval+delivery, life, "the token survives a refresh that is skipped")

	csi := readManifests(t, "kubernetes/csi-provider.yaml")
	app = csi["Deployment"].leaves
	assert.Equal(t, csi["SecretProviderClass"].leaves["metadata.name"], app[volume+"csi.volumeAttributes.secretProviderClass"])
	assert.Equal(t, path.Join(app[container+"volumeMounts[].mountPath"].(string), csiObject(t).Name), app[container+"env[].value"])

	injected := readManifests(t, "kubernetes/agent-injector.yaml")["Deployment"].leaves
	assert.Equal(t, injected[volume+"name"], injected["spec.template.metadata.annotations.vault.hashicorp.com/agent-service-account-token-volume-name"])

	// All trust one authority, at one address.
	for _, authority := range []any{operator["VaultConnection"].leaves["spec.caCertSecretRef"], generator.leaves["spec.provider.caProvider.name"], injected["spec.template.metadata.annotations.vault.hashicorp.com/tls-secret"]} {
		assert.Equal(t, "vault-ca", authority)
	}
	for _, address := range []any{operator["VaultConnection"].leaves["spec.address"], generator.leaves["spec.provider.server"], csi["SecretProviderClass"].leaves["spec.parameters.vaultAddress"]} {
		assert.Equal(t, "https://vault.vault.svc:8200", address)
	}

	// All log in as one role, which takes tokens for one audience.
	for _, role := range []any{auth["spec.kubernetes.role"], generator.leaves["spec.provider.auth.kubernetes.role"], csi["SecretProviderClass"].leaves["spec.parameters.roleName"], injected["spec.template.metadata.annotations.vault.hashicorp.com/role"]} {
		assert.Equal(t, "fuuffy-app", role)
	}
	for _, audience := range []any{auth["spec.kubernetes.audiences[]"], generator.leaves["spec.provider.auth.kubernetes.serviceAccountRef.audiences[]"], csi["SecretProviderClass"].leaves["spec.parameters.audience"], injected[volume+"projected.sources[].serviceAccountToken.audience"]} {
		assert.Equal(t, "vault", audience)
	}
}

// object is what the CSI provider puts into a file.
type object struct {
	Name string `yaml:"objectName"`
	Path string `yaml:"secretPath"`
	Key  string `yaml:"secretKey"`
}

func csiObject(t *testing.T) object {
	t.Helper()
	text := readManifests(t, "kubernetes/csi-provider.yaml")["SecretProviderClass"].leaves["spec.parameters.objects"].(string)
	decoder := yaml.NewDecoder(strings.NewReader(text))
	decoder.KnownFields(true)
	var objects []object
	require.NoError(t, decoder.Decode(&objects))
	require.Len(t, objects, 1)
	return objects[0]
}

// TestKubernetesReads reads what each manifest says, with the policy for apps, as its
// project does, and takes from the answer what would get into the pod.
func TestKubernetesReads(t *testing.T) {
	t.Parallel()
	m := newMount(t, "kubernetes-reads", fuuffytest.Config{}, nil)
	client := m.clientWith("app")
	read := func(path any, parameters map[string][]string) map[string]any {
		ours := strings.Replace(path.(string), "fuuffy/", m.path+"/", 1)
		require.NotEqual(t, path, ours)
		answer, err := client.Logical().ReadWithDataWithContext(t.Context(), ours, parameters)
		require.NoError(t, err)
		require.NotNil(t, answer)
		assert.Empty(t, answer.LeaseID)
		return answer.Data
	}

	operator := readManifests(t, "kubernetes/vault-secrets-operator.yaml")["VaultDynamicSecret"].leaves
	included := regexp.MustCompile(operator["spec.destination.transformation.includes[]"].(string))
	answer := read(path.Join(operator["spec.mount"].(string), operator["spec.path"].(string)), nil)
	maps.DeleteFunc(answer, func(field string, _ any) bool { return !included.MatchString(field) })
	assert.Equal(t, []string{"access_token"}, slices.Collect(maps.Keys(answer)), "the keys of the operator's Secret")
	token := answer["access_token"].(string)
	assert.True(t, m.TokenAlive(token))

	external := readManifests(t, "kubernetes/external-secrets.yaml")
	generator := external["VaultDynamicSecret"].leaves
	assert.Equal(t, "GET", generator["spec.method"])
	secret := template.Must(template.New("").Parse(external["ExternalSecret"].leaves["spec.target.template.data.access_token"].(string)))
	var rendered strings.Builder
	require.NoError(t, secret.Execute(&rendered, read(generator["spec.path"], nil)))
	assert.True(t, token == rendered.String(), "the token in the Secret of the External Secrets Operator")

	object := csiObject(t)
	answer = read(object.Path, nil)
	assert.NotContains(t, answer, "data", "the provider would look for the token in it")
	assert.True(t, token == answer[object.Key], "the token in the file of the CSI provider")

	assert.Equal(t, 1, m.requests(), "token requests")
}

// What the operator's manifest has as a comment works once it is none.
func TestOperatorInstantUpdates(t *testing.T) {
	t.Parallel()
	const file, field = "kubernetes/vault-secrets-operator.yaml", "spec.syncConfig.instantUpdates"
	text := readExample(t, file)
	assert.NotContains(t, parseManifests(t, text)["VaultDynamicSecret"].leaves, field)
	on := regexp.MustCompile(`(?m)^  # (syncConfig:|  instantUpdates:)`).ReplaceAllString(text, "  $1")
	assert.Equal(t, true, parseManifests(t, on)["VaultDynamicSecret"].leaves[field])
}

func TestInjectorAnnotations(t *testing.T) {
	t.Parallel()
	const prefix = "spec.template.metadata.annotations.vault.hashicorp.com/"
	app := readManifests(t, "kubernetes/agent-injector.yaml")["Deployment"].leaves
	used := 0
	for field, value := range app {
		name, ok := strings.CutPrefix(field, prefix)
		if !ok {
			continue
		}
		used++
		text, ok := value.(string)
		require.True(t, ok, "%s: Kubernetes takes only strings as annotations", name)
		name = strings.TrimSuffix(name, "fuuffy-token")
		switch injectorAnnotations[name] {
		case "string":
			assert.NotEmpty(t, text, name)
		case "bool":
			_, err := strconv.ParseBool(text)
			assert.NoError(t, err, name)
		case "int":
			_, err := strconv.Atoi(text)
			assert.NoError(t, err, name)
		case "mode":
			assert.Regexp(t, `^0[0-7]{3}$`, text, name)
		default:
			t.Errorf("%s is no annotation of the injector", name)
		}
	}
	assert.GreaterOrEqual(t, used, 5)
	assert.Equal(t, "fuuffy/token", app[prefix+"agent-inject-secret-fuuffy-token"])
	// The template is the one that the Agents of the other tests run.
	template := strings.NewReplacer("{{- ", "{{ ", " -}}", " }}").Replace(strings.TrimSpace(app[prefix+"agent-inject-template-fuuffy-token"].(string)))
	assert.Contains(t, strings.ReplaceAll(readExample(t, "agent/token-file.hcl"), `\"`, `"`), template)
}
