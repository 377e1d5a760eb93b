// SPDX-License-Identifier: MPL-2.0

package history

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Read returns a history that was kept.
func Read(file string) (*History, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	h := new(History)
	if err := json.Unmarshal(text, h); err != nil {
		return nil, fmt.Errorf("decode the history: %w", err)
	}
	return h, nil
}

// Keep writes the history to a file, and porcupine's drawing beside it if there is one. It
// returns what it wrote.
func (h *History) Keep(file string) (written []string, err error) {
	text, err := json.MarshalIndent(h, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encode the history: %w", err)
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, text, 0o644)); err != nil {
		return nil, fmt.Errorf("keep the history: %w", err)
	}
	if h.drawing == nil {
		return []string{file}, nil
	}
	drawing := strings.TrimSuffix(file, ".json") + ".html"
	return []string{file, drawing}, h.drawing(drawing)
}
