// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// noMounts says why the tests can't mount anything, nil if they can.
var noMounts error

func TestMain(m *testing.M) {
	noMounts = OwnMounts()
	os.Exit(m.Run())
}

// withDisk returns a server without a program that has a disk of its own, nil where the machine
// doesn't allow that.
func withDisk(t *testing.T) *Vault {
	t.Helper()
	if noMounts != nil {
		t.Logf("this machine lets the test mount no disk: %v", noMounts)
		return nil
	}
	s, err := New()
	require.NoError(t, err)
	t.Cleanup(s.Close)
	s.OwnDisks = true
	v := &Vault{stack: s, data: filepath.Join(s.Dir, "vault-1", "data")}
	require.NoError(t, os.MkdirAll(v.data, 0o700))
	require.NoError(t, v.mountDisk())
	return v
}

// Nothing can be stored on a full disk, and everything again once it has space.
func TestFullDisk(t *testing.T) {
	v := withDisk(t)
	if v == nil {
		return
	}
	stored := filepath.Join(v.data, "stored")

	require.NoError(t, v.FillDisk())
	require.ErrorIs(t, os.WriteFile(stored, []byte{1}, 0o600), syscall.ENOSPC)
	require.NoError(t, v.FreeDisk())
	require.NoError(t, os.WriteFile(stored, []byte{1}, 0o600))

	v.stack.Close()
	require.NoDirExists(t, v.stack.Dir)
}

// The disk of the machine is never filled.
func TestSharedDiskStaysFree(t *testing.T) {
	v := &Vault{stack: &Stack{}, data: t.TempDir()}
	require.ErrorContains(t, v.FillDisk(), "others use it too")
	require.NoFileExists(t, v.filler())
}

// Whoever sets the variable by hand doesn't make the mounts of the machine private.
func TestOwnMountsIsNotFooled(t *testing.T) {
	t.Setenv("E2E_OWN_MOUNTS", "yes")
	require.ErrorContains(t, OwnMounts(), "E2E_OWN_MOUNTS")
}

// A test run that dies leaves no disk behind.
func TestLeashRemovesDisks(t *testing.T) {
	v := withDisk(t)
	if v == nil {
		return
	}
	s := v.stack
	p, err := s.start(filepath.Join(s.Dir, "log"), "sleep", "600")
	require.NoError(t, err)

	require.NoError(t, p.held.Close())

	<-p.ended
	require.NoError(t, Eventually(t.Context(), "the directory to be removed", func() error {
		if _, err := os.Stat(s.Dir); !os.IsNotExist(err) {
			return errors.New("it is still there")
		}
		return nil
	}))
}
