// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// When the pipe to the leash closes without a word, as it does when a test run
// dies of SIGKILL or its time-out, the processes and the folder go too.
func TestLeash(t *testing.T) {
	s, err := New()
	require.NoError(t, err)
	defer s.Close()
	p, err := s.start(filepath.Join(s.Dir, "log"), "sh", "-c", "sleep 600 & echo started; sleep 600")
	require.NoError(t, err)
	require.NoError(t, p.awaitLog(t.Context(), 0, "started"))

	require.NoError(t, p.held.Close())

	<-p.ended
	require.NoError(t, Eventually(t.Context(), "the folder to be removed", func() error {
		if _, err := os.Stat(s.Dir); !os.IsNotExist(err) {
			return errors.New("it is still there")
		}
		return nil
	}))
}

func TestChildren(t *testing.T) {
	s, err := New()
	require.NoError(t, err)
	defer s.Close()
	p, err := s.start(filepath.Join(s.Dir, "log"), "sh", "-c", "sleep 600 & echo $!; wait")
	require.NoError(t, err)
	require.NoError(t, p.awaitLog(t.Context(), 0, "\n"))

	own, err := children(os.Getpid())
	require.NoError(t, err)
	require.Contains(t, own, p.pid())
	grandchildren, err := children(p.pid())
	require.NoError(t, err)
	require.Len(t, grandchildren, 1)
}

func TestFreeAddresses(t *testing.T) {
	addresses, err := freeAddresses(2)
	require.NoError(t, err)
	require.Len(t, addresses, 2)
	require.NotEqual(t, addresses[0], addresses[1])
}

// A program that cannot start must not be waited for, and says why.
func TestEarlyEnd(t *testing.T) {
	s, err := New()
	require.NoError(t, err)
	defer s.Close()
	broken := filepath.Join(s.Dir, "broken")
	require.NoError(t, os.WriteFile(broken, []byte("#!/bin/sh\necho the disk is full\nexit 1\n"), 0o700))

	_, err = s.StartVault(t.Context(), broken, s.Dir)

	require.ErrorIs(t, err, errEnded)
	require.ErrorContains(t, err, "the disk is full")
}
