package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// redis is a redis-server that listens on a unix socket and keeps nothing.
type redis struct {
	cmd    *exec.Cmd
	socket string
}

// startRedis returns when the server answers.
func startRedis(ctx context.Context, dir string) (*redis, error) {
	r := &redis{socket: filepath.Join(dir, "redis.sock")}
	r.cmd = exec.CommandContext(ctx, "redis-server", "--port", "0", "--unixsocket", r.socket, "--save", "",
		"--appendonly", "no", "--dir", dir)
	r.cmd.Stderr = os.Stderr
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start redis-server: %w", err)
	}
	for range 100 {
		if exec.CommandContext(ctx, "redis-cli", "-s", r.socket, "ping").Run() == nil {
			return r, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, errors.Join(errors.New("start redis-server: it does not answer"), r.stop())
}

// stop ends the server. That it was ended is no error.
func (r *redis) stop() error {
	if err := r.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("stop redis-server: %w", err)
	}
	_ = r.cmd.Wait()
	return nil
}

// requests makes GET requests, one at a time by each of 20 clients, and returns how many a second were answered.
func requests(ctx context.Context, m *machine, n int) (float64, error) {
	out, err := exec.CommandContext(ctx, "redis-benchmark", "-s", m.redis.socket, "-t", "get", "-c", "20",
		"-n", strconv.Itoa(n), "--csv").Output()
	if err != nil {
		return 0, fmt.Errorf("run redis-benchmark: %w", err)
	}
	rows, err := csv.NewReader(strings.NewReader(string(out))).ReadAll()
	if err != nil || len(rows) != 2 || len(rows[1]) < 2 {
		return 0, fmt.Errorf("read what redis-benchmark printed: %q: %w", out, err)
	}
	return strconv.ParseFloat(rows[1][1], 64)
}
