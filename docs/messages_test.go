// SPDX-License-Identifier: MPL-2.0

package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// speakers are the calls by which the engine tells people something.
var speakers = map[string]bool{
	"userError": true, "textError": true, "refuse": true, "ErrorResponse": true, "CodedError": true, "AddWarning": true,
	"Warn": true, "Error": true, "explainedError": true, "add": true,
}

// wordsFile has refusals and notices. Each text that begins there is a message. Elsewhere, a text
// says what to do next, and needs no page.
const wordsFile = "../internal/advice/words.go"

// describing are the functions whose strings are all messages, or parts of one.
var describing = map[string]bool{"describe": true, "waitFor": true}

// TestTroubleshootingHasEveryMessage holds docs/troubleshooting.md to the code: each
// error, warning and log line of the engine is in it, with … for what varies.
func TestTroubleshootingHasEveryMessage(t *testing.T) {
	content, err := os.ReadFile("troubleshooting.md")
	require.NoError(t, err)
	page := strings.Join(strings.Fields(string(content)), " ")
	messages := messagesInCode(t)
	assert.Greater(t, len(messages), 50)
	for _, message := range messages {
		assert.True(t, strings.Contains(page, message), "docs/troubleshooting.md does not have: %s", message)
	}
}

// messagesInCode returns the beginnings of all messages, up to where they go on to
// explain themselves.
func messagesInCode(t *testing.T) []string {
	t.Helper()
	files := []string{"../internal/advice/mount.go", wordsFile}
	for _, folder := range []string{"..", "../internal/tokencache", "../internal/upstream"} {
		inFolder, err := filepath.Glob(filepath.Join(folder, "*.go"))
		require.NoError(t, err)
		files = append(files, inFolder...)
	}
	var messages []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		require.NoError(t, err)
		ast.Inspect(parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if describing[n.Name.Name] {
					messages = append(messages, literals(n.Body)...)
				}
			case *ast.CallExpr:
				name := calledName(n.Fun)
				if speakers[name] || file == wordsFile && (name == "Say" || name == "Do") {
					messages = append(messages, texts(n.Args)...)
				}
			case *ast.CompositeLit:
				if speakers[calledName(n.Type)] {
					messages = append(messages, texts(n.Elts)...)
				}
			}
			return true
		})
	}
	return messages
}

func calledName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

// rendered are the calls that make a message of their first string.
var rendered = map[string]bool{"Sprintf": true, "Say": true, "Do": true, "Then": true, "Render": true}

var (
	verb       = regexp.MustCompile(`%(\[\d+\])?[a-z]`)
	sentenceOf = regexp.MustCompile(`^(.{12,}?)(: |; |\. |\n|, so | \()`)
)

// texts returns the first string in each argument that is long enough to be a message.
func texts(args []ast.Expr) []string {
	var found []string
	for _, arg := range args {
		ast.Inspect(arg, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && !rendered[calledName(call.Fun)] {
				return false
			}
			if message := messageOf(n); message != "" && len(found) == 0 {
				found = append(found, message)
			}
			return true
		})
	}
	return found
}

// literals returns all strings below a node that are long enough to be a message, and don't begin
// with one.
func literals(node ast.Node) (found []string) {
	ast.Inspect(node, func(n ast.Node) bool {
		if message := messageOf(n); message != "" && !strings.HasPrefix(message, "…") {
			found = append(found, message)
		}
		return true
	})
	return found
}

// messageOf returns the beginning of a string, or nothing if it is only a piece of a message.
func messageOf(n ast.Node) string {
	literal, ok := n.(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return ""
	}
	text, err := strconv.Unquote(literal.Value)
	if err != nil {
		return ""
	}
	message := beginning(text)
	if len(strings.Trim(message, "…: ")) <= 13 {
		return ""
	}
	return message
}

func beginning(message string) string {
	message = verb.ReplaceAllString(message, "…")
	if match := sentenceOf.FindStringSubmatch(message); match != nil {
		message = match[1]
	}
	return strings.Trim(strings.Join(strings.Fields(message), " "), " :.(")
}
