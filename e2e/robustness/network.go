// SPDX-License-Identifier: MPL-2.0

package robustness

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// network carries what the nodes of a cluster send each other, through a proxy in front
// of the cluster address of each. It can cut a node off, and slow it down.
type network struct {
	mu sync.Mutex
	// links are the proxies, by the address of the node behind each.
	links map[string]net.Listener
	// owner returns the cluster address of the node whose process opened a connection
	// from a port, empty if that is not known. It is asked only during a cut.
	owner func(port int) string
	// cut is the node that is cut off, by its cluster address, and slow the one to which
	// messages, and their answers, take delay longer.
	cut, slow string
	delay     time.Duration
	// healed is closed when the node that is cut off is back.
	healed chan struct{}
	conns  map[net.Conn]bool
	closed bool
}

func newNetwork() *network {
	return &network{links: map[string]net.Listener{}, conns: map[net.Conn]bool{}}
}

// advertise starts the proxy in front of a cluster address and returns the proxy's.
func (n *network) advertise(address string) (string, error) {
	link, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listen in front of a cluster address: %w", err)
	}
	n.mu.Lock()
	n.links[address] = link
	n.mu.Unlock()
	go func() {
		for {
			from, err := link.Accept()
			if err != nil {
				return // The network is closed.
			}
			go n.carry(from, address)
		}
	}()
	return link.Addr().String(), nil
}

// carry connects a node with the one at address until either hangs up.
func (n *network) carry(from net.Conn, address string) {
	defer from.Close()
	route := &route{to: address, port: from.RemoteAddr().(*net.TCPAddr).Port}
	if !n.passes(route) {
		return
	}
	to, err := net.Dial("tcp", address)
	if err != nil {
		return // The node is down.
	}
	defer to.Close()
	if !n.hold(from, to) {
		return
	}
	defer n.release(from, to)
	go func() {
		n.copy(to, from, route)
		from.Close()
	}()
	n.copy(from, to, route)
}

// route is a connection from one node to another.
type route struct {
	// to is the cluster address of one node, and port the other's.
	to   string
	port int
	// from is the cluster address of the other once it is known. Guarded by network.mu.
	from string
}

func (n *network) hold(conns ...net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range conns {
		n.conns[c] = true
	}
	return !n.closed
}

func (n *network) release(conns ...net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range conns {
		delete(n.conns, c)
	}
}

// copy forwards what is read from one connection to the other. What was sent while one
// of the two was cut off is lost, and the connection with it.
func (n *network) copy(to, from net.Conn, route *route) {
	defer to.Close()
	buffer := make([]byte, 64<<10)
	for {
		read, err := from.Read(buffer)
		if read > 0 {
			if !n.passes(route) {
				return
			}
			if _, err := to.Write(buffer[:read]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// passes waits as long as a message takes. It returns false if the message is lost, but
// only once the cut is over: no one is told of it.
func (n *network) passes(r *route) bool {
	n.mu.Lock()
	lost, healed := false, n.healed
	if n.cut != "" {
		if r.from == "" {
			r.from = n.owner(r.port)
		}
		lost = r.to == n.cut || r.from == n.cut
	}
	delay := time.Duration(0)
	if n.slow != "" && r.to == n.slow {
		delay = n.delay
	}
	n.mu.Unlock()
	if lost {
		<-healed
		return false
	}
	time.Sleep(delay)
	return true
}

// cutOff loses all messages from and to a node until heal.
func (n *network) cutOff(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut, n.healed = address, make(chan struct{})
}

// slowDown makes each message on connections to a node take longer until heal.
func (n *network) slowDown(address string, delay time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.slow, n.delay = address, delay
}

// heal ends all disturbances.
func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut != "" {
		close(n.healed)
	}
	n.cut, n.slow = "", ""
}

// close ends the proxies and all connections.
func (n *network) close() {
	n.heal()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	for _, link := range n.links {
		link.Close()
	}
	for c := range n.conns {
		c.Close()
	}
}

var errNoProcessOfPort = errors.New("no process has this port")

// processOfPort returns which of some processes has a connection from a local port. It
// reads /proc, and so finds none where there is no such thing.
func processOfPort(port int, pids []int) (int, error) {
	inode, err := inodeOfPort(port)
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, file := range files {
			if target, err := os.Readlink(file); err == nil && target == "socket:["+inode+"]" {
				return pid, nil
			}
		}
	}
	return 0, errNoProcessOfPort
}

func inodeOfPort(port int) (string, error) {
	table, err := os.Open("/proc/net/tcp")
	if err != nil {
		return "", err
	}
	defer table.Close()
	text, err := io.ReadAll(table)
	if err != nil {
		return "", err
	}
	local := fmt.Sprintf(":%04X", port)
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) > 9 && strings.HasSuffix(fields[1], local) {
			if _, err := strconv.ParseUint(fields[9], 10, 64); err == nil && fields[9] != "0" {
				return fields[9], nil
			}
		}
	}
	return "", errNoProcessOfPort
}
