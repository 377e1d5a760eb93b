// SPDX-License-Identifier: MPL-2.0

package release

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// docker answers as much of the Docker Engine's API as Vault uses. It has one image, and
// its containers are processes in a root of their own.
type docker struct {
	t         *testing.T
	image     *image
	reference string
	id        string

	mu         sync.Mutex
	containers map[string]*container
}

// container is what Vault asks for, and the process that runs it.
type container struct {
	Image      string
	Env        []string
	Entrypoint []string
	HostConfig struct {
		Runtime          string
		CapAdd, GroupAdd []string
		Mounts           []struct{ Source, Target string }
	}

	command *exec.Cmd
	logs    *io.PipeReader
	ended   chan struct{}
}

// startDocker returns the engine and the address for DOCKER_HOST.
func startDocker(t *testing.T, i *image, reference string) (engine *docker, address string) {
	t.Helper()
	engine = &docker{t: t, image: i, reference: reference, id: sum(reference), containers: map[string]*container{}}
	mux := http.NewServeMux()
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("API-Version", "1.44") })
	mux.HandleFunc("GET /{api}/images/json", engine.listImages)
	mux.HandleFunc("POST /{api}/containers/create", engine.create)
	mux.HandleFunc("POST /{api}/containers/{id}/start", engine.start)
	mux.HandleFunc("GET /{api}/containers/{id}/logs", engine.sendLogs)
	mux.HandleFunc("POST /{api}/containers/{id}/wait", engine.wait)
	mux.HandleFunc("POST /{api}/containers/{id}/stop", engine.stop)

	// A socket's path must be short.
	dir, err := os.MkdirTemp("", "docker-")
	require.NoError(t, err)
	socket := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() {
		for _, c := range engine.all() {
			c.kill()
		}
		_ = server.Close()
		_ = os.RemoveAll(dir)
	})
	return engine, "unix://" + socket
}

func (d *docker) listImages(w http.ResponseWriter, r *http.Request) {
	images := []any{}
	name, _, _ := strings.Cut(d.reference, ":")
	for _, reference := range []string{name, d.reference} {
		if strings.Contains(r.FormValue("filters"), `"`+reference+`"`) {
			images = append(images, map[string]any{"Id": "sha256:" + d.id})
		}
	}
	respond(w, http.StatusOK, images)
}

func (d *docker) create(w http.ResponseWriter, r *http.Request) {
	c := &container{ended: make(chan struct{})}
	if err := json.NewDecoder(r.Body).Decode(c); err != nil {
		refuse(w, err)
		return
	}
	if c.Image != "sha256:"+d.id {
		refuse(w, fmt.Errorf("no such image: %s", c.Image))
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	id := strconv.Itoa(len(d.containers) + 1)
	d.containers[id] = c
	respond(w, http.StatusCreated, map[string]any{"Id": id})
}

func (d *docker) start(w http.ResponseWriter, r *http.Request) {
	c := d.container(r)
	root := d.t.TempDir()
	err := os.CopyFS(root, os.DirFS(d.image.root))
	for _, mount := range c.HostConfig.Mounts {
		if err == nil {
			err = share(mount.Source, filepath.Join(root, mount.Target))
		}
	}
	if err == nil {
		err = c.run(d.image, root)
	}
	if err != nil {
		refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// share makes a folder of the host one of the container. What a mount does with rights
// that a test may not have, a link does too.
func share(host, inside string) error {
	if err := os.MkdirAll(filepath.Dir(inside), 0o755); err != nil {
		return err
	}
	if err := os.Rename(host, inside); err != nil {
		return err
	}
	return os.Symlink(inside, host)
}

func (c *container) run(i *image, root string) error {
	entrypoint := i.entrypoint
	if len(c.Entrypoint) > 0 {
		entrypoint = c.Entrypoint
	}
	groups := make([]uint32, len(c.HostConfig.GroupAdd))
	for n, group := range c.HostConfig.GroupAdd {
		if _, err := fmt.Sscan(group, &groups[n]); err != nil {
			return fmt.Errorf("read group: %w", err)
		}
	}
	logs, log := io.Pipe()
	command, err := i.command(root, entrypoint, groups)
	if err != nil {
		return err
	}
	command.Env = c.Env
	command.Stdout = stream{1, log}
	command.Stderr = stream{2, log}
	if err := command.Start(); err != nil {
		return err
	}
	c.command, c.logs = command, logs
	go func() {
		_ = command.Wait() // Vault asks only whether it has ended.
		log.Close()
		close(c.ended)
	}()
	return nil
}

// command is a process in another root, as the image's user. Who is not root may start
// one in a user namespace, which has no more than one group: Vault's.
func (i *image) command(root string, entrypoint []string, groups []uint32) (*exec.Cmd, error) {
	var uid, gid uint32
	if _, err := fmt.Sscanf(i.user, "%d:%d", &uid, &gid); err != nil {
		return nil, fmt.Errorf("the image's user %q: %w", i.user, err)
	}
	command := exec.Command(entrypoint[0], entrypoint[1:]...)
	command.Dir = "/"
	if os.Geteuid() == 0 {
		command.SysProcAttr = &syscall.SysProcAttr{
			Chroot:     root,
			Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups},
		}
		return command, nil
	}
	command.SysProcAttr = &syscall.SysProcAttr{
		Chroot:      root,
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: int(uid), HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}},
	}
	return command, nil
}

// stream marks what a process writes as Docker does.
type stream struct {
	number byte
	to     io.Writer
}

func (s stream) Write(p []byte) (int, error) {
	frame := binary.BigEndian.AppendUint32([]byte{s.number, 0, 0, 0}, uint32(len(p)))
	if _, err := s.to.Write(append(frame, p...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (d *docker) sendLogs(w http.ResponseWriter, r *http.Request) {
	c := d.container(r)
	w.WriteHeader(http.StatusOK)
	buffer := make([]byte, 32<<10)
	for {
		n, err := c.logs.Read(buffer)
		if n > 0 {
			_, _ = w.Write(buffer[:n])
		}
		_ = http.NewResponseController(w).Flush()
		if err != nil {
			return
		}
	}
}

func (d *docker) wait(w http.ResponseWriter, r *http.Request) {
	select {
	case <-d.container(r).ended:
		respond(w, http.StatusOK, map[string]any{"StatusCode": 0})
	case <-r.Context().Done():
	}
}

func (d *docker) stop(w http.ResponseWriter, r *http.Request) {
	d.container(r).kill()
	w.WriteHeader(http.StatusNoContent)
}

func (c *container) kill() {
	if c.command == nil {
		return
	}
	_ = c.command.Process.Kill()
	_ = c.logs.Close()
	<-c.ended
}

// container returns the one that a request names; Vault names no others than it made.
func (d *docker) container(r *http.Request) *container {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.containers[r.PathValue("id")]
}

// all returns the containers that there were.
func (d *docker) all() []*container {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []*container
	for _, c := range d.containers {
		all = append(all, c)
	}
	return all
}

func respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func refuse(w http.ResponseWriter, err error) {
	respond(w, http.StatusInternalServerError, map[string]any{"message": err.Error()})
}
