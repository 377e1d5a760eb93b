// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/hashicorp/vault/api"
)

// Engine is the name of the engine in Vault's catalog, and the type of its mounts.
const Engine = "fuuffy"

// RegisterPlugin registers a version of the engine in Vault's catalog. Vault runs the program
// to get its version, and rejects a different one.
func (v *Vault) RegisterPlugin(ctx context.Context, file, version string) error {
	return v.Register(ctx, Engine, file, version)
}

// Register registers a program of the plugin directory in Vault's catalog.
func (v *Vault) Register(ctx context.Context, name, file, version string) error {
	sum, err := SHA256(file)
	if err != nil {
		return err
	}
	err = v.Client.Sys().RegisterPluginWithContext(ctx, &api.RegisterPluginInput{
		Name:    name,
		Type:    api.PluginTypeSecrets,
		Command: filepath.Base(file),
		SHA256:  sum,
		Version: version,
	})
	if err != nil {
		return fmt.Errorf("register %s: %w", file, err)
	}
	return nil
}

// SHA256 returns the checksum of a file as Vault's catalog wants it.
func SHA256(file string) (string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("checksum: %w", err)
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:]), nil
}

// KillPlugin kills the plugin's processes and returns when they are gone. It fails if there
// are none.
func (v *Vault) KillPlugin(ctx context.Context) error {
	plugins, err := children(v.process.pid())
	if err != nil {
		return err
	}
	if len(plugins) == 0 {
		return fmt.Errorf("kill the plugin: Vault has no child process")
	}
	for _, pid := range plugins {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return fmt.Errorf("kill the plugin: %w", err)
		}
	}
	return Eventually(ctx, "the plugin's processes to be gone", func() error {
		left, err := children(v.process.pid())
		if err == nil && slices.ContainsFunc(left, func(pid int) bool { return slices.Contains(plugins, pid) }) {
			err = fmt.Errorf("of %v there are still %v", plugins, left)
		}
		return err
	})
}

// RunsPlugin tells whether the server has started a plugin that runs.
func (v *Vault) RunsPlugin() (bool, error) {
	plugins, err := children(v.process.pid())
	return len(plugins) > 0, err
}

// PluginMemory returns the resident memory of the plugin's processes, in bytes.
func (v *Vault) PluginMemory() (int64, error) {
	plugins, err := children(v.process.pid())
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, pid := range plugins {
		resident, err := residentMemory(pid)
		if err != nil {
			return 0, fmt.Errorf("read the plugin's memory: %w", err)
		}
		sum += resident
	}
	return sum, nil
}

// residentMemory returns bytes. As in processTable, Linux may lack ps.
func residentMemory(pid int) (int64, error) {
	if statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid)); err == nil {
		var size, resident int64
		_, err := fmt.Sscan(string(statm), &size, &resident)
		return resident * int64(os.Getpagesize()), err
	}
	output, err := exec.Command("ps", "-o", "rss=", "-p", fmt.Sprint(pid)).Output()
	if err != nil {
		return 0, err
	}
	var kib int64
	_, err = fmt.Sscan(string(output), &kib)
	return kib * 1024, err
}

// children returns the processes whose parent is pid.
func children(pid int) ([]int, error) {
	table, err := processTable()
	if err != nil {
		return nil, err
	}
	var found []int
	for _, line := range table {
		var own, parent int
		if _, err := fmt.Sscan(line, &own, &parent); err != nil {
			return nil, fmt.Errorf("read process table: %w", err)
		}
		if parent == pid {
			found = append(found, own)
		}
	}
	return found, nil
}

// processTable returns a line for each process, with its number and its parent's. A small
// Linux has no ps, and macOS has no /proc.
func processTable() ([]string, error) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	if len(stats) == 0 {
		output, err := exec.Command("ps", "-A", "-o", "pid=,ppid=").Output()
		if err != nil {
			return nil, fmt.Errorf("list processes: %w", err)
		}
		return strings.Split(strings.TrimSpace(string(output)), "\n"), nil
	}
	var table []string
	for _, file := range stats {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // It ended in the meantime.
		}
		// "12 (name, with anything in it) S 1 …": the parent follows the state.
		own, rest, _ := strings.Cut(string(stat), " ")
		state := strings.Fields(rest[strings.LastIndex(rest, ")")+1:])
		table = append(table, own+" "+state[1])
	}
	return table, nil
}
