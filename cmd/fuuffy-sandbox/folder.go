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
	// Those of -agent.
	tokenFile  = "token"
	socketFile = "vault.sock"
)

// folder is where the sandbox leaves what its users need.
type folder struct {
	dir       string // absolute, as its users have other working directories
	temporary bool   // made by openFolder, and so removed by close
}

// openFolder makes dir where it is missing, or a temporary folder where it is empty.
func openFolder(dir string) (folder, error) {
	if dir == "" {
		dir, err := os.MkdirTemp("", "fuuffy-sandbox-")
		if err != nil {
			return folder{}, fmt.Errorf("create temporary folder: %w", err)
		}
		return folder{dir: dir, temporary: true}, nil
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return folder{}, fmt.Errorf("find folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return folder{}, fmt.Errorf("create folder: %w", err)
	}
	f := folder{dir: dir}
	return f, f.remove(addressesFile) // An earlier sandbox may have been killed.
}

func (f folder) path(name string) string { return filepath.Join(f.dir, name) }

// writeCredentials writes the certificate and the credentials of the first client. These have no newline at the end,
// so that they can be used as they are.
func (f folder) writeCredentials(server *fuuffytest.Server, id, secret string) error {
	for _, file := range []struct {
		name, content string
		mode          os.FileMode
	}{
		{caFile, server.CACert(), 0o644},
		{idFile, id, 0o600},
		{secretFile, secret, 0o600},
	} {
		if err := f.writeFile(file.name, file.content, file.mode); err != nil {
			return err
		}
	}
	return nil
}

// writeAddresses writes addresses.env. Its presence means that the sandbox is ready.
func (f folder) writeAddresses(server *fuuffytest.Server, adminURL string, withAgent bool) error {
	addresses := fmt.Sprintf("FUUFFY_BASE_URL=%s\nFUUFFY_CA_CERT=%s\nFUUFFY_ADMIN_URL=%s\nFUUFFY_CLIENT_ID_FILE=%s\nFUUFFY_CLIENT_SECRET_FILE=%s\n",
		quote(server.BaseURL()), quote(f.path(caFile)), quote(adminURL), quote(f.path(idFile)), quote(f.path(secretFile)))
	if withAgent {
		addresses += fmt.Sprintf("FUUFFY_TOKEN_FILE=%s\nFUUFFY_AGENT_SOCKET=%s\n", quote(f.path(tokenFile)), quote(f.path(socketFile)))
	}
	return f.writeFile(addressesFile, addresses, 0o644)
}

// writeFile replaces the file in one step, so that nobody reads half of it, nor a secret with an old file's mode.
func (f folder) writeFile(name, content string, mode os.FileMode) error {
	temp, err := os.CreateTemp(f.dir, "."+name+"-")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer os.Remove(temp.Name()) // Does nothing once it is renamed.
	_, err = temp.WriteString(content)
	if err := errors.Join(err, temp.Chmod(mode), temp.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return os.Rename(temp.Name(), f.path(name))
}

// close takes back that the sandbox is ready.
func (f folder) close() error {
	if f.temporary {
		return os.RemoveAll(f.dir)
	}
	return f.remove(addressesFile)
}

// remove removes a file that need not be there.
func (f folder) remove(name string) error {
	if err := os.Remove(f.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// quote makes one shell word of s, whatever is in it.
func quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
