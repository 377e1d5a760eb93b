// SPDX-License-Identifier: MPL-2.0

package advice

import (
	"cmp"
	"regexp"
	"strings"
)

// Command is a vault command at a mount. It is data: only Render makes text of it.
type Command struct {
	// verb is write, read, or delete.
	verb string
	// path is below the mount.
	path string
	args []argument
}

// argument is a field and its value. A placeholder is for the operator to fill in.
type argument struct {
	name, value string
	placeholder bool
}

// Read, Write, and Delete return the command for a path below the mount.
func Read(path string) Command   { return Command{verb: "read", path: path} }
func Write(path string) Command  { return Command{verb: "write", path: path} }
func Delete(path string) Command { return Command{verb: "delete", path: path} }

// With returns the command with one more field.
func (c Command) With(name, value string) Command { return c.add(argument{name, value, false}) }

// WithPlaceholder returns the command with a field that the operator fills in, shown as
// name=<what>.
func (c Command) WithPlaceholder(name, what string) Command { return c.add(argument{name, what, true}) }

// WithSecret returns the command with a field that it reads from standard input.
func (c Command) WithSecret(name string) Command { return c.add(argument{name, "-", false}) }

func (c Command) add(a argument) Command {
	c.args = append(c.args[:len(c.args):len(c.args)], a)
	return c
}

// client adds the ID of a client. The vault program can't take every ID as a value: it reads
// standard input for - and removes the backslash of \@.
func (c Command) client(id string) Command {
	switch {
	case id == "-", strings.HasPrefix(id, `\@`):
		return c.WithPlaceholder("client_id", "client_id")
	case strings.HasPrefix(id, "@"):
		return c.With("client_id", `\`+id)
	}
	return c.With("client_id", id)
}

// defaultMount is where the documents mount the engine. Vault names the mount in each request.
const defaultMount = "fuuffy/"

// Render returns the command for a POSIX shell. mount is the mount's path with a slash at its
// end. Whatever a path or a value contains, the shell passes it on as it is.
func (c Command) Render(mount string) string {
	var flags []string
	if c.verb == "write" && len(c.args) == 0 {
		flags = []string{"-f"}
	}
	words := append([]string{"vault", c.verb}, target(cmp.Or(mount, defaultMount), c.path, flags...)...)
	for _, a := range c.args {
		if a.placeholder {
			words = append(words, a.name+"=<"+a.value+">")
		} else {
			words = append(words, quote(a.name+"="+a.value))
		}
	}
	return strings.Join(words, " ")
}

// target is the flags and the path of a command.
func target(mount, path string, flags ...string) []string {
	if namespaced(mount) {
		flags = append([]string{"-namespace="}, flags...)
	}
	if strings.HasPrefix(mount, "-") {
		flags = append(flags, "--") // The path looks like a flag.
	}
	return append(flags, quote(mount+path))
}

// namespaced tells whether the first part of a mount's path may be a namespace. Vault doesn't
// tell a plugin. The whole path is right from the root namespace only, so the command says
// that it starts there, whatever VAULT_NAMESPACE is.
func namespaced(mount string) bool { return strings.Contains(strings.TrimSuffix(mount, "/"), "/") }

var safeWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// quote makes one word of a text for a POSIX shell.
func quote(text string) string {
	if safeWord.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// Line is a sentence. If it has a command, the command stands at the end of the line.
type Line struct {
	Text    string
	Command *Command
}

// Text is what people read: sentences and commands, one per line.
type Text []Line

// Say returns a text of one line without a command.
func Say(text string) Text { return Text{{Text: text}} }

// Do returns a text of one line that ends with a command.
func Do(text string, command Command) Text { return Text{{text, &command}} }

// Then returns the text with one more line that ends with a command.
func (t Text) Then(text string, command Command) Text { return t.And(Do(text, command)) }

// And returns the text followed by another.
func (t Text) And(more Text) Text { return append(t[:len(t):len(t)], more...) }

// Render returns the text with its commands as they are typed at a mount.
func (t Text) Render(mount string) string {
	lines := make([]string, 0, len(t))
	for _, line := range t {
		text := line.Text
		if line.Command != nil {
			text = strings.TrimSpace(text + " " + line.Command.Render(mount))
		}
		lines = append(lines, text)
	}
	return strings.Join(lines, "\n")
}

var (
	helpCommand = regexp.MustCompile(`vault (read|write|delete)((?: -\S+)*) <mount>([a-z/_-]*)`)
	helpPath    = regexp.MustCompile(`<mount>([a-z/_-]*)`)
)

// RenderHelp puts the mount's path into a help text, in which <mount> stands for it.
func RenderHelp(text, mount string) string {
	mount = cmp.Or(mount, defaultMount)
	text = helpCommand.ReplaceAllStringFunc(text, func(command string) string {
		parts := helpCommand.FindStringSubmatch(command)
		return strings.Join(append([]string{"vault", parts[1]}, target(mount, parts[3], strings.Fields(parts[2])...)...), " ")
	})
	return helpPath.ReplaceAllStringFunc(text, func(path string) string {
		return quote(mount + helpPath.FindStringSubmatch(path)[1])
	})
}

// The commands that appear in more than one text.
var (
	Configure = Write("config").WithPlaceholder("client_id", "client_id").WithSecret("client_secret")
	Stage     = Write("rotate-root").WithPlaceholder("client_id", "client_id").WithSecret("client_secret")
	Emergency = Stage.With("compromised", "true")
	Promote   = Write("rotate-root/promote")
	Complete  = Write("rotate-root/complete")
	Force     = Complete.With("force", "true")
	Rollback  = Write("rotate-root/rollback")
	Discard   = Delete("rotate-root")
	Check     = Write("rotate-root/check")
	Rotation  = Read("rotate-root")
	Report    = Write("token").WithSecret("rejected_token")
)

// Mark is the command that marks a client as revoked.
func Mark(clientID string) Command { return Write("rotate-root/revoked").client(clientID) }
