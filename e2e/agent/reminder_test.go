// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// reminder runs examples/reminder/fuuffy-reminder.sh as the user that watches.
type reminder struct {
	*mount
	t *testing.T
	// login stands for /etc/fuuffy-monitor.
	login  string
	script string
	posted []string
}

func newReminder(t *testing.T, m *mount) *reminder {
	r := &reminder{mount: m, t: t, login: t.TempDir()}
	roleID, secretID := m.newIdentityWith(m.path+"-reminder", "monitor")
	require.NoError(t, os.WriteFile(filepath.Join(r.login, "role_id"), []byte(roleID), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(r.login, "secret_id"), []byte(secretID), 0o600))
	r.script = filepath.Join(t.TempDir(), "fuuffy-reminder.sh")
	text := strings.Replace(readExample(t, "reminder/fuuffy-reminder.sh"), "login=/etc/fuuffy-monitor", "login="+r.login, 1)
	require.NoError(t, os.WriteFile(r.script, []byte(text), 0o700))
	return r
}

// run returns what the script prints, and what it says is wrong.
func (r *reminder) run(environment []string, mounts ...string) (printed, wrong string, err error) {
	r.t.Helper()
	command := exec.CommandContext(r.t.Context(), r.script, mounts...)
	command.Env = append(os.Environ(), vault.Environment()...)
	command.Env = append(append(command.Env, "VAULT_TOKEN="), environment...)
	var output, problems bytes.Buffer
	command.Stdout, command.Stderr = &output, &problems
	err = command.Run()
	return output.String(), problems.String(), err
}

func (r *reminder) says(mounts ...string) string {
	r.t.Helper()
	printed, wrong, err := r.run(nil, mounts...)
	require.NoError(r.t, err, wrong)
	return printed
}

func TestReminder(t *testing.T) {
	t.Parallel()
	quiet := newMount(t, "not-reminded", fuuffytest.Config{}, nil)
	assert.Empty(t, newReminder(t, quiet).says("not-reminded"), "nothing is to be done")

	m := newMount(t, "reminded", fuuffytest.Config{}, map[string]any{"credentials_created": time.Now().UTC().AddDate(0, 0, -80).Format(time.DateOnly)})
	m.CreateClient("shop-2", "second-secret")
	r := newReminder(t, m)
	assert.Equal(t, "reminded/, days left: 10\n  Rotate now: create new credentials in the Fuuffy dashboard, then: vault write reminded/rotate-root client_id=<client_id> client_secret=-\n", r.says("reminded"))

	m.call("write", "rotate-root", map[string]any{"client_id": "shop-2", "client_secret": "second-secret"})
	assert.Equal(t, "reminded/, days left: 10\n"+
		"  Promote client shop-2: vault write -f reminded/rotate-root/promote\n"+
		"  Or discard it: vault delete reminded/rotate-root\n", r.says("reminded"), "every line of the next step")

	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		var message struct{ Text string }
		body, _ := io.ReadAll(request.Body)
		if err := json.Unmarshal(body, &message); err != nil {
			message.Text = err.Error()
		}
		r.posted = append(r.posted, request.URL.Path+" "+message.Text)
	}))
	defer hook.Close()
	address := filepath.Join(r.login, "reminder_url")
	require.NoError(t, os.WriteFile(address, []byte(hook.URL+"/hooks/T0\n"), 0o600))
	printed, wrong, err := r.run([]string{"FUUFFY_REMINDER_URL_FILE=" + address}, "reminded")
	require.NoError(t, err, wrong)
	assert.Equal(t, []string{"/hooks/T0 " + printed}, r.posted)

	_, wrong, err = r.run([]string{"FUUFFY_REMINDER_URL_FILE=" + address + ".missing"}, "reminded")
	assert.Error(t, err, "it can't post")
	assert.Contains(t, wrong, "reminder_url.missing")

	printed, wrong, err = r.run(nil, "not-reminded", "reminded")
	assert.Error(t, err, "the state of one mount is unknown")
	assert.Contains(t, wrong, "permission denied")
	assert.Contains(t, printed, "not-reminded/: Vault doesn't return the state of the rotation.\nreminded/, days left:", "the others are looked at all the same")
}

// The timer starts the service of its name, and that the script, under its name.
func TestReminderUnits(t *testing.T) {
	t.Parallel()
	service := readExample(t, "reminder/fuuffy-reminder.service")
	assert.Contains(t, service, "ExecStart=/usr/local/bin/fuuffy-reminder.sh fuuffy\n")
	assert.Contains(t, service, "Type=oneshot\n")
	timer := readExample(t, "reminder/fuuffy-reminder.timer")
	assert.Regexp(t, `(?m)^OnCalendar=\S`, timer)
	assert.NotContains(t, timer, "Unit=")
}
