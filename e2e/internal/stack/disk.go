// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// diskSize is the size of a server's disk in bytes, if it has one of its own. The disk is in memory.
// An hour of operations takes a third of it, and then Raft drops its oldest entries.
const diskSize = 128 << 20

// OwnMounts makes sure that what this program mounts is private: no other program sees it, and
// it is gone when the last process that the program started has ended. Call it first in the
// program, because unshare starts the program again, in the same process. An error says why the
// machine doesn't allow that. Then the program just continues.
func OwnMounts() error {
	const again = "E2E_OWN_MOUNTS"
	pid := strconv.Itoa(os.Getpid())
	switch os.Getenv(again) {
	case "":
	case pid:
		return os.Unsetenv(again)
	default:
		return fmt.Errorf("another program set %s", again)
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return err
	}
	command := []string{unshare, "--mount"}
	if os.Getuid() != 0 {
		command = append(command, "--user", "--map-root-user")
	}
	attempt := append(command[1:len(command):len(command)], mountAt(os.TempDir())...)
	if output, err := exec.Command(unshare, attempt...).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(output))
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(unshare, append(append(command, "--", program), os.Args[1:]...), append(os.Environ(), again+"="+pid))
}

// mountAt is the command that mounts a disk.
func mountAt(dir string) []string {
	return []string{"mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d,mode=0700", diskSize), "tmpfs", dir}
}

// mountDisk gives a server a disk for its data.
func (v *Vault) mountDisk() error {
	command := mountAt(v.data)
	if output, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("mount a disk: %w: %s", err, bytes.TrimSpace(output))
	}
	return nil
}

// unmountDisks takes the disks away, or their directories can't be removed.
func (s *Stack) unmountDisks() {
	disks, _ := filepath.Glob(filepath.Join(s.Dir, "*", "data"))
	// An error means that someone did it before.
	_ = exec.Command("umount", append([]string{"-l"}, disks...)...).Run()
}

// filler is the file that fills a server's disk. Vault doesn't know the name.
func (v *Vault) filler() string { return filepath.Join(v.data, "filler") }

// FillDisk leaves no space on the server's disk, which must be its own, until FreeDisk.
func (v *Vault) FillDisk() error {
	if !v.stack.OwnDisks {
		return errors.New("fill the disk: others use it too")
	}
	filler, err := os.OpenFile(v.filler(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("fill the disk: %w", err)
	}
	defer filler.Close()
	block := bytes.Repeat([]byte("full"), 256<<10)
	for left := diskSize; left >= 0; left -= len(block) {
		_, err := filler.Write(block)
		if errors.Is(err, syscall.ENOSPC) {
			return nil
		}
		if err != nil {
			return errors.Join(fmt.Errorf("fill the disk: %w", err), v.FreeDisk())
		}
	}
	return errors.Join(errors.New("fill the disk: it is larger than it should be"), v.FreeDisk())
}

// FreeDisk gives back the space that FillDisk took.
func (v *Vault) FreeDisk() error { return os.Remove(v.filler()) }
