// SPDX-License-Identifier: MPL-2.0

package mounttest

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Update is set if a test writes the table that it prints into the file that has it.
var Update = flag.Bool("update", false, "write the tables that tests print into their files")

// root is the top of the module.
func root(t testing.TB) string {
	t.Helper()
	folder, err := os.Getwd()
	require.NoError(t, err)
	for {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			return folder
		}
		require.NotEqual(t, folder, filepath.Dir(folder), "there is no go.mod")
		folder = filepath.Dir(folder)
	}
}

// The engine's paths. All but the last are storage keys too.
const (
	ConfigKey  = "config"
	TokenKey   = "token"
	LeaksKey   = "leaks"
	RotatePath = "rotate-root"
)

// CheckInterval is how long after a check the engine refuses another.
const CheckInterval = 10 * time.Second

// Timestamp writes a time as responses do.
func Timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
