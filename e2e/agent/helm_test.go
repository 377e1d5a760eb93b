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
// https://github.com/hashicorp/vault-helm (v0.34.1) and
// https://github.com/openbao/openbao-helm (v0.29.2). They have no image: the chart chooses
// the server. `make charts` renders the examples with the charts.
type helmValues struct {
	Global struct {
		TLSDisable bool `yaml:"tlsDisable"`
	}
	Server struct {
		NodeSelector         map[string]string `yaml:"nodeSelector"`
		Volumes              []helmVolume
		VolumeMounts         []helmMount       `yaml:"volumeMounts"`
		ExtraInitContainers  []helmContainer   `yaml:"extraInitContainers"`
		ExtraEnvironmentVars map[string]string `yaml:"extraEnvironmentVars"`
		Resources            map[string]any
		StatefulSet          struct {
			SecurityContext map[string]any `yaml:"securityContext"`
		} `yaml:"statefulSet"`
		HA struct {
			Enabled bool
			Raft    struct {
				Enabled   bool
				SetNodeID bool `yaml:"setNodeId"`
				Config    string
			}
		}
	}
	Injector struct {
		Resources       map[string]any
		SecurityContext map[string]any `yaml:"securityContext"`
	}
}

// helmVolume, helmMount and helmContainer have what the examples use of Kubernetes'.
type helmVolume struct {
	Name     string
	EmptyDir *struct{} `yaml:"emptyDir"`
	Secret   *struct {
		SecretName string `yaml:"secretName"`
	}
}

type helmMount struct {
	Name      string
	MountPath string `yaml:"mountPath"`
	ReadOnly  bool   `yaml:"readOnly"`
}

type helmContainer struct {
	Name, Image     string
	Command         []string
	VolumeMounts    []helmMount `yaml:"volumeMounts"`
	Resources       map[string]any
	SecurityContext map[string]any `yaml:"securityContext"`
}

// The init container puts the plugin where the server looks for it, and the server finds
// its certificate.
func TestHelmValues(t *testing.T) {
	t.Parallel()
	for server, variable := range map[string]string{"vault": "VAULT_CACERT", "openbao": "BAO_CACERT"} {
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			decoder := yaml.NewDecoder(strings.NewReader(readExample(t, "kubernetes/"+server+".values.yaml")))
			decoder.KnownFields(true)
			var values helmValues
			require.NoError(t, decoder.Decode(&values))
			volumes := map[string]helmVolume{}
			for _, volume := range values.Server.Volumes {
				volumes[volume.Name] = volume
			}

			require.Len(t, values.Server.ExtraInitContainers, 1)
			copying := values.Server.ExtraInitContainers[0]
			require.Len(t, copying.Command, 3)
			assert.Equal(t, "cp", copying.Command[0])
			assert.Equal(t, "/vault-plugin-secrets-fuuffy", copying.Command[1], "the root of the image")
			assert.Equal(t, "vault-plugin-secrets-fuuffy-v0.1.0", path.Base(copying.Command[2]), "versions lie beside each other")
			assert.Equal(t, "ghcr.io/fuuffy/vault-plugin-secrets-fuuffy:0.1.0-shell", copying.Image)
			require.Len(t, copying.VolumeMounts, 1)
			plugins := copying.VolumeMounts[0]
			assert.Equal(t, plugins.MountPath, path.Dir(copying.Command[2]))
			require.NotNil(t, volumes[plugins.Name].EmptyDir, "a volume that the server may execute from")

			mounts := map[string]helmMount{}
			for _, mount := range values.Server.VolumeMounts {
				assert.Contains(t, volumes, mount.Name)
				assert.Equal(t, mount.Name != "tmp", mount.ReadOnly, mount.Name)
				mounts[mount.Name] = mount
			}
			tls := mounts[server+"-tls"].MountPath
			assert.Equal(t, "/"+server+"/userconfig/"+volumes[server+"-tls"].Secret.SecretName, tls)
			assert.Equal(t, map[string]string{variable: tls + "/ca.crt"}, values.Server.ExtraEnvironmentVars)
			config := values.Server.HA.Raft.Config
			assert.Contains(t, config, `plugin_directory = "`+mounts[plugins.Name].MountPath+`"`)
			assert.Contains(t, config, `tls_cert_file   = "`+tls+`/tls.crt"`)
			assert.Equal(t, 3, strings.Count(config, `leader_ca_cert_file = "`+tls+`/ca.crt"`))
			assert.NotContains(t, config, "tls_disable")
			assert.False(t, values.Global.TLSDisable)
			raft := values.Server.HA.Raft
			assert.True(t, values.Server.HA.Enabled && raft.Enabled && raft.SetNodeID)
		})
	}
}
