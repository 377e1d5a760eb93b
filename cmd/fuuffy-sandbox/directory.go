// SPDX-License-Identifier: MPL-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

const (
	caFile        = "ca.pem"
	idFile        = "client_id"
	secretFile    = "client_secret"
	addressesFile = "addresses.env"
	// Only with -agent:
	tokenFile  = "token"
	socketFile = "vault.sock"
)

// directory holds the files that the sandbox writes for its users.
type directory struct {
	dir       string // absolute, because users work in other directories
	temporary bool   // close removes the directory
}

// openDirectory creates dir if it doesn't exist, or a temporary directory if dir is the empty string.
func openDirectory(dir string) (directory, error) {
	if dir == "" {
		dir, err := os.MkdirTemp("", "fuuffy-sandbox-")
		if err != nil {
			return directory{}, fmt.Errorf("create temporary directory: %w", err)
		}
		return directory{dir: dir, temporary: true}, nil
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return directory{}, fmt.Errorf("resolve directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return directory{}, fmt.Errorf("create directory: %w", err)
	}
	d := directory{dir: dir}
	return d, d.remove(addressesFile) // A killed sandbox leaves its file.
}

func (d directory) path(name string) string { return filepath.Join(d.dir, name) }

// writeCredentials writes the certificate and the credentials of the first client. The credentials don't end with a
// newline, so that vault and curl can read them with @.
func (d directory) writeCredentials(server *fuuffytest.Server, id, secret string) error {
	for _, file := range []struct {
		name, content string
		mode          os.FileMode
	}{
		{caFile, server.CACert(), 0o644},
		{idFile, id, 0o600},
		{secretFile, secret, 0o600},
	} {
		if err := d.writeFile(file.name, file.content, file.mode); err != nil {
			return err
		}
	}
	return nil
}

// writeAddresses writes addresses.env. Its presence means that the sandbox is ready.
func (d directory) writeAddresses(server *fuuffytest.Server, adminURL string, withAgent bool) error {
	addresses := fmt.Sprintf("FUUFFY_BASE_URL=%s\nFUUFFY_CA_CERT=%s\nFUUFFY_ADMIN_URL=%s\nFUUFFY_CLIENT_ID_FILE=%s\nFUUFFY_CLIENT_SECRET_FILE=%s\n",
		quote(server.BaseURL()), quote(d.path(caFile)), quote(adminURL), quote(d.path(idFile)), quote(d.path(secretFile)))
	if withAgent {
		addresses += fmt.Sprintf("FUUFFY_TOKEN_FILE=%s\nFUUFFY_AGENT_SOCKET=%s\n", quote(d.path(tokenFile)), quote(d.path(socketFile)))
	}
	return d.writeFile(addressesFile, addresses, 0o644)
}

// writeFile replaces the file in one step. So no one reads half of it, and a secret never gets an old file's mode.
func (d directory) writeFile(name, content string, mode os.FileMode) error {
	temp, err := os.CreateTemp(d.dir, "."+name+"-")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer os.Remove(temp.Name()) // Does nothing after the rename.
	_, err = temp.WriteString(content)
	if err := errors.Join(err, temp.Chmod(mode), temp.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return os.Rename(temp.Name(), d.path(name))
}

// close removes the sign that the sandbox is ready.
func (d directory) close() error {
	if d.temporary {
		return os.RemoveAll(d.dir)
	}
	return d.remove(addressesFile)
}

// remove removes a file, if it exists.
func (d directory) remove(name string) error {
	if err := os.Remove(d.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// quote returns s as one shell word, whatever characters it has.
func quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
