// Command cluster runs what an installation for many agents is made of on this host: a JetStream cluster of three servers
// and two endpoints that share its log, until Ctrl-C. All they keep is in a temporary folder, or in that of -dir.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/taskguard/taskguard/scripts/stack"
)

const (
	servers   = 3
	endpoints = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, args []string) (err error) {
	flags := flag.NewFlagSet("cluster", flag.ContinueOnError)
	dir := flags.String("dir", "", "folder to keep everything in; a temporary one if empty")
	bin := flags.String("bin", "bin", "folder of taskguard-endpoint; nats-server is in tools/ below it")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	if *dir == "" {
		if *dir, err = os.MkdirTemp("", "tg"); err != nil {
			return err
		}
		defer os.RemoveAll(*dir)
	}
	c, err := newCluster(*bin, filepath.Join(*bin, "tools", "nats-server"), *dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.start(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "log        %s\n", c.url())
	for _, e := range c.endpoints {
		fmt.Fprintf(out, "endpoint   https://%s  ca %s\n           taskguard-endpoint events --data %s --follow\n",
			e.Address(), e.CA(), e.Data())
	}
	<-ctx.Done()
	return nil
}

// cluster is the servers and the endpoints.
type cluster struct {
	program   string // nats-server
	dir       string
	network   string // the servers' addresses without the last number
	servers   [servers]*stack.Process
	endpoints [endpoints]*stack.Stack
	flags     []string // of the endpoints, besides what they need
}

func newCluster(bin, program, dir string) (*cluster, error) {
	// A loopback network that nobody else uses: ports can be what they are elsewhere.
	c := &cluster{program: program, dir: dir, network: fmt.Sprintf("127.%d.%d.", 1+rand.N(254), rand.N(256))}
	for i := range c.endpoints {
		folder := filepath.Join(dir, fmt.Sprint("e", i))
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, err
		}
		var err error
		if c.endpoints[i], err = stack.New(bin, "", folder); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *cluster) address(server int) string { return fmt.Sprint(c.network, 1+server) }

// url is where endpoints find the servers.
func (c *cluster) url() string {
	var urls []string
	for i := range c.servers {
		urls = append(urls, "nats://"+c.address(i)+":4222")
	}
	return strings.Join(urls, ",")
}

func (c *cluster) start(ctx context.Context) error {
	for i := range c.servers {
		if err := c.startServer(i); err != nil {
			return err
		}
	}
	for i := range c.endpoints {
		if err := c.startEndpoint(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// startServer starts a server. It is not waited for: an endpoint does that.
func (c *cluster) startServer(i int) (err error) {
	folder := filepath.Join(c.dir, fmt.Sprint("n", i))
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	var routes []string
	for peer := range c.servers {
		if peer != i {
			routes = append(routes, "nats-route://"+c.address(peer)+":6222")
		}
	}
	config := filepath.Join(folder, "nats.conf")
	text := fmt.Sprintf(`server_name: n%d
listen: "%s:4222"
max_payload: 8MB
jetstream { store_dir: %q, sync_interval: always }
cluster { name: taskguard, listen: "%s:6222", routes: [%s] }
`, i, c.address(i), folder, c.address(i), strings.Join(routes, ", "))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	c.servers[i], err = stack.Start(fmt.Sprint("server ", i), filepath.Join(c.dir, fmt.Sprintf("n%d.log", i)), nil, c.program, "-c", config)
	return err
}

func (c *cluster) startEndpoint(ctx context.Context, i int) error {
	return c.endpoints[i].StartEndpoint(ctx, append([]string{"--set", "stream.url=" + c.url()}, c.flags...)...)
}

// close ends the endpoints, and then the servers.
func (c *cluster) close() error {
	var errs []error
	for _, e := range c.endpoints {
		errs = append(errs, e.Close())
	}
	for _, s := range c.servers {
		errs = append(errs, s.Stop())
	}
	return errors.Join(errs...)
}
