// SPDX-License-Identifier: MPL-2.0

package monitoring

import (
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

var (
	programs stack.Programs
	watched  *Watched
)

func TestMain(m *testing.M) {
	os.Exit(stack.RunTests(m, func(p stack.Programs, s *stack.Stack) (err error) {
		if err := p.NeedPrometheus(); err != nil {
			return err
		}
		programs = p
		watched, err = Watch(context.Background(), s, p, fuuffytest.Config{})
		return err
	}))
}

func readExample(t *testing.T, name string) string {
	t.Helper()
	text, err := example(name)
	require.NoError(t, err)
	return text
}
