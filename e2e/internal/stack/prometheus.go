// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/prometheus/client_golang/api"
	prometheus "github.com/prometheus/client_golang/api/prometheus/v1"
)

// Prometheus is a running Prometheus server.
type Prometheus struct {
	API prometheus.API

	logFile string
}

// listening is how Prometheus logs the port that the system chose.
var listening = regexp.MustCompile(`"Listening on".* address=(127\.0\.0\.1:\d+)`)

// StartPrometheus starts a Prometheus with a configuration file, and returns when it
// is ready.
func (s *Stack) StartPrometheus(ctx context.Context, binary, config string) (*Prometheus, error) {
	p := &Prometheus{logFile: filepath.Join(s.Dir, "prometheus.log")}
	process, err := s.start(p.logFile, binary,
		"--config.file="+config,
		"--storage.tsdb.path="+filepath.Join(s.Dir, "prometheus"),
		"--web.listen-address=127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	if err := process.awaitLog(ctx, 0, "Server is ready to receive web requests"); err != nil {
		return nil, fmt.Errorf("start Prometheus: %w\n%s", err, p.LogTail())
	}
	log, err := os.ReadFile(p.logFile)
	if err != nil {
		return nil, fmt.Errorf("read Prometheus' log: %w", err)
	}
	address := listening.FindSubmatch(log)
	if address == nil {
		return nil, fmt.Errorf("start Prometheus: it does not say where it listens\n%s", p.LogTail())
	}
	client, err := api.NewClient(api.Config{Address: "http://" + string(address[1])})
	if err != nil {
		return nil, fmt.Errorf("make a client of Prometheus: %w", err)
	}
	p.API = prometheus.NewAPI(client)
	return p, nil
}

// LogTail returns the last lines of its log.
func (p *Prometheus) LogTail() string { return logTail(p.logFile, 25) }
