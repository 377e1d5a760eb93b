// SPDX-License-Identifier: MPL-2.0

package install

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fakeVault has the plugin and the mount of any file, without credentials, and notes its arguments.
const fakeVault = `#!/bin/sh
printf '%s\n' "$*" >>"$CALLS"
case "$*" in
*-field=type*) echo fuuffy ;;
*version*) echo v0.1.0 ;;
*policies*) ;;
*config*) echo 'No value found' >&2; exit 2 ;;
esac
`

// TestSetupFiles is about the files that the script reads, before it changes anything.
func TestSetupFiles(t *testing.T) {
	t.Parallel()
	script, err := filepath.Abs(filepath.Join("..", "..", "examples", "setup", "setup.sh"))
	require.NoError(t, err)
	const (
		rest  = "plugin_name=fuuffy plugin_version=v0.1.0 plugin_command=plugin plugin_sha256=1\nenvironment=testing config='' ca_cert_file='' policies=''\n"
		whole = "mount=shop\nclient_id='shop-1'\n" + rest
		// reached is what the script says of a mount that it can set up.
		reached = "setup.sh: This needs the client secret of shop-1."
	)
	for name, test := range map[string]struct {
		files    map[string]string
		argument string
		said     []string
		asked    bool // Vault was
		status   int
	}{
		"a space":        {files: map[string]string{"my shop.env": whole}, argument: "my shop.env", said: []string{reached}, asked: true},
		"a dash":         {files: map[string]string{"-shop.env": whole}, argument: "-shop.env", said: []string{reached}, asked: true},
		"odd directory":  {files: map[string]string{"-my shops/a b.env": whole, "-my shops/-c.env": strings.Replace(whole, "=shop", "=other", 1)}, argument: "-my shops", said: []string{reached, "setup.sh: These failed: -c a b\n"}, asked: true},
		"CRLF":           {files: map[string]string{"shop.env": strings.ReplaceAll(whole, "\n", "\r\n")}, argument: "shop.env", said: []string{"setup.sh: ./shop.env has Windows line ends. Remove them: tr -d '\\r'\n"}},
		"shared CRLF":    {files: map[string]string{"shops/common.env": "\r\n" + rest, "shops/shop.env": whole}, argument: "shops", said: []string{"setup.sh: shops/common.env has Windows line ends.", "These failed: shop\n"}},
		"no files":       {files: map[string]string{"shops/readme": ""}, argument: "shops", said: []string{"Usage: setup.sh "}, status: 2},
		"no mount":       {files: map[string]string{"shops/common.env": rest}, argument: "shops", said: []string{"There is no mount to set up: shops has only common.env."}},
		"a copy":         {files: map[string]string{"shops/a.env": whole, "shops/b.env": whole}, argument: "shops", said: []string{reached, "mount=shop: another file of this directory has this mount", "These failed: a b\n"}, asked: true},
		"same policies":  {files: map[string]string{"shops/a.env": "client_id=shop-1 mount=shops/x\n" + rest, "shops/b.env": "client_id=shop-1 mount=shops-x\n" + rest}, argument: "shops", said: []string{"mount=shops-x: another file of this directory has this mount, or policies of the same names."}, asked: true},
		"a secret in it": {files: map[string]string{"shop.env": whole + "config='client_secret=" + secret + "'\n"}, argument: "shop.env", said: []string{"setup.sh: config has client_id or client_secret."}},
		"another client": {files: map[string]string{"shop.env": whole + "config='client_id=shop-0'\n"}, argument: "shop.env", said: []string{"setup.sh: config has client_id or client_secret."}},
		"rehearsals":     {files: map[string]string{"shop.env": whole + "mount=fuuffy-rehearsal\n"}, argument: "shop.env", said: []string{"mount=fuuffy-rehearsal: the script uses this mount for rehearsals."}},
		"no client":      {files: map[string]string{"shop.env": "mount=shop\n" + rest}, argument: "shop.env", said: []string{"client_id: "}, asked: true, status: -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, bin := t.TempDir(), t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(bin, "vault"), []byte(fakeVault), 0o700))
			for file, content := range test.files {
				require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(file)), 0o700))
				require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600))
			}
			calls := filepath.Join(bin, "calls")
			command := exec.CommandContext(t.Context(), "sh", script, test.argument)
			command.Dir = dir
			// The environment of a pipeline has more than it should. The secret's file is a directory.
			command.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "CALLS="+calls, "client_id=shop-9", "FUUFFY_CLIENT_SECRET_FILE="+dir)
			output, err := command.CombinedOutput()
			require.Error(t, err, string(output))
			if test.status >= 0 { // What a shell says of an unset variable is its own affair.
				assert.Equal(t, max(test.status, 1), command.ProcessState.ExitCode(), string(output))
			}
			for _, said := range test.said {
				assert.Contains(t, string(output), said)
			}
			assert.NotContains(t, string(output), secret)
			called, err := os.ReadFile(calls)
			assert.Equal(t, test.asked, err == nil, "%s", called)
			assert.NotContains(t, string(called), "secrets enable")
		})
	}
}
