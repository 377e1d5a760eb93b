// SPDX-License-Identifier: MPL-2.0

package robustness

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/history"
)

// TestTerms: a node takes itself for the active one until it steps down, can't start, dies,
// or is elected again.
func TestTerms(t *testing.T) {
	file := filepath.Join(t.TempDir(), "server.log")
	var log string
	for _, l := range []struct {
		at   int
		text string
	}{
		{1, "[INFO]  core: acquired lock, enabling active operation"},
		{3, "[WARN]  core: stepping down from active operation to standby"},
		{4, "[INFO]  core: pre-seal teardown complete"},
		{10, "[INFO]  core: acquired lock, enabling active operation"},
		{12, "[ERROR] core: post-unseal setup failed: error=\"no space left on device\""},
		{20, "[INFO]  core: acquired lock, enabling active operation"},
		{25, "[INFO]  core: acquired lock, enabling active operation"},
		{40, "[INFO]  core: acquired lock, enabling active operation"},
	} {
		log += fmt.Sprintf("2026-11-25T00:00:%02d.000Z %s\n", l.at, l.text)
	}
	require.NoError(t, os.WriteFile(file, []byte(log), 0o600))
	at := func(second int) history.Moment { return history.Moment{At: time.Duration(second) * time.Second} }
	c := &history.Cluster{Began: time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)}
	require.NoError(t, readLog(c, "a node", file, []history.Moment{at(30)}))
	var terms []history.Span
	for _, term := range c.Terms {
		assert.Equal(t, "a node", term.Node)
		terms = append(terms, term.Span)
	}
	assert.Equal(t, []history.Span{
		{Begin: at(1), End: at(4)}, {Begin: at(10), End: at(12)}, {Begin: at(20), End: at(25)}, {Begin: at(25), End: at(30)}, history.Open(at(40)),
	}, terms)
}
