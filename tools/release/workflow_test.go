// SPDX-License-Identifier: MPL-2.0

package main_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// The workflow only arranges the steps: each waits for the one before, the one that verifies gets
// no token, and the last one waits for an approval.
func TestWorkflow(t *testing.T) {
	text, err := os.ReadFile("../../.github/workflows/release.yml")
	require.NoError(t, err)
	type job struct {
		Needs       any
		Environment string
		Permissions map[string]string
		Env         map[string]string
		Steps       []struct {
			Uses      string
			Env, With map[string]any
		}
	}
	var workflow struct {
		Permissions map[string]string
		Env         map[string]string
		Jobs        map[string]job
	}
	require.NoError(t, yaml.Unmarshal(text, &workflow))
	assert.Empty(t, workflow.Permissions)
	assert.Empty(t, workflow.Env)

	write := map[string]map[string]string{
		"stage":   {"contents": "read", "packages": "write", "id-token": "write", "attestations": "write"},
		"draft":   {"contents": "write"},
		"promote": {"contents": "write", "packages": "write"},
	}
	order := []string{"notes", "test", "build", "images", "stage", "draft", "verify", "promote"}
	require.Len(t, workflow.Jobs, len(order))
	var before any
	for _, name := range order {
		j := workflow.Jobs[name]
		assert.Equal(t, before, j.Needs, name)
		before = name
		assert.Equal(t, name == "promote", j.Environment == "release", name)
		if permissions, writes := write[name]; writes {
			assert.Equal(t, permissions, j.Permissions, name)
		} else {
			assert.Equal(t, map[string]string{"contents": "read"}, j.Permissions, name)
			assert.Empty(t, j.Env, name)
			for _, step := range j.Steps {
				assert.Empty(t, step.Env, name)
				assert.NotContains(t, step.Uses, "login", name)
				assert.NotContains(t, fmt.Sprint(step.With), "token", name)
			}
		}
	}
}
