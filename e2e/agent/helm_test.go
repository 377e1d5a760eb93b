// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// helmValues are the values that the examples may set, from values.yaml in
// https://github.com/hashicorp/vault-helm (v0.34.1).
type helmValues struct {
	Global struct {
		TLSDisable bool `yaml:"tlsDisable"`
	}
	Server struct {
		Image                struct{ Tag string }
		Volumes              []helmVolume
		VolumeMounts         []helmMount       `yaml:"volumeMounts"`
		ExtraInitContainers  []helmContainer   `yaml:"extraInitContainers"`
		ExtraEnvironmentVars map[string]string `yaml:"extraEnvironmentVars"`
		HA                   struct {
			Enabled bool
			Raft    struct {
				Enabled   bool
				SetNodeID bool `yaml:"setNodeId"`
				Config    string
			}
		}
	}
}

// helmVolume, helmMount and helmContainer have what the examples use of Kubernetes'.
type helmVolume struct {
	Name     string
	EmptyDir *struct{} `yaml:"emptyDir"`
	Secret   *struct {
		SecretName string `yaml:"secretName"`
	}
	Image *struct {
		Reference  string
		PullPolicy string `yaml:"pullPolicy"`
	}
}

type helmMount struct {
	Name      string
	MountPath string `yaml:"mountPath"`
	ReadOnly  bool   `yaml:"readOnly"`
}

type helmContainer struct {
	Name, Image  string
	Command      []string
	VolumeMounts []helmMount `yaml:"volumeMounts"`
}

// The init container finds the plugin where the image has it, and puts it where Vault
// looks for it.
func TestHelmValues(t *testing.T) {
	t.Parallel()
	for _, example := range []string{"vault-image-volume", "vault-init-container"} {
		t.Run(example, func(t *testing.T) {
			t.Parallel()
			decoder := yaml.NewDecoder(strings.NewReader(readExample(t, "kubernetes/"+example+".values.yaml")))
			decoder.KnownFields(true)
			var values helmValues
			require.NoError(t, decoder.Decode(&values))
			server := values.Server
			volumes := map[string]helmVolume{}
			for _, volume := range server.Volumes {
				volumes[volume.Name] = volume
			}

			require.Len(t, server.ExtraInitContainers, 1)
			copying := server.ExtraInitContainers[0]
			require.Len(t, copying.Command, 3)
			assert.Equal(t, "cp", copying.Command[0])
			from, to := copying.Command[1], copying.Command[2]
			assert.Equal(t, "vault-plugin-secrets-fuuffy", path.Base(from))
			assert.Equal(t, "vault-plugin-secrets-fuuffy-v0.1.0", path.Base(to), "versions lie beside each other")
			mounted := map[string]string{}
			for _, mount := range copying.VolumeMounts {
				mounted[mount.MountPath] = mount.Name
			}
			if example == "vault-image-volume" {
				require.NotNil(t, volumes[mounted[path.Dir(from)]].Image)
				assert.Equal(t, "ghcr.io/fuuffy/vault-plugin-secrets-fuuffy:0.1.0", volumes[mounted[path.Dir(from)]].Image.Reference)
				assert.Equal(t, "hashicorp/vault:"+server.Image.Tag, copying.Image)
			} else {
				assert.Equal(t, "/", path.Dir(from), "the root of the image")
				assert.Equal(t, "ghcr.io/fuuffy/vault-plugin-secrets-fuuffy:0.1.0-shell", copying.Image)
			}
			plugins := mounted[path.Dir(to)]
			require.NotNil(t, volumes[plugins].EmptyDir, "a volume that Vault may execute from")

			where := map[string]string{}
			for _, mount := range server.VolumeMounts {
				assert.True(t, mount.ReadOnly, mount.Name)
				assert.Contains(t, volumes, mount.Name)
				where[mount.Name] = mount.MountPath
			}
			config := server.HA.Raft.Config
			assert.Contains(t, config, `plugin_directory = "`+where[plugins]+`"`)
			assert.Contains(t, config, `tls_cert_file   = "`+where["vault-tls"]+`/tls.crt"`)
			assert.NotContains(t, config, "tls_disable")
			assert.False(t, values.Global.TLSDisable)
			assert.Contains(t, server.ExtraEnvironmentVars["VAULT_CACERT"], where["vault-tls"])
			assert.True(t, server.HA.Enabled && server.HA.Raft.Enabled && server.HA.Raft.SetNodeID)
		})
	}
}
