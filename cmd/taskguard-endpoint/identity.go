package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"strings"

	"github.com/taskguard/taskguard/cmd/internal/settings"
	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/auth"
)

// identityConfig says how agents prove who they are.
type identityConfig struct {
	Endpoints     []string
	STSHosts      []string
	STSAccounts   []string
	STSRoles      []string
	SigV4KeysFile string
	SigV4Service  string
	MTLSCAFile    string
}

func identitySettings() []setting {
	pattern := func(v string) (string, bool) {
		_, err := path.Match(v, "")
		return v, v != "" && err == nil
	}
	host := func(v string) (string, bool) { return v, v != "" && !strings.ContainsAny(v, "/@?#* ") }
	text := func(field func(*config) *string) func(*config, string) bool {
		return func(c *config, v string) bool {
			*field(c) = v
			return true
		}
	}
	return []setting{
		settings.List("auth.endpoints", "a host name, once", 64,
			func(c *config) *[]string { return &c.Identity.Endpoints }, host),
		settings.List("auth.sts.hosts", "a host name, once", 64,
			func(c *config) *[]string { return &c.Identity.STSHosts }, host),
		settings.List("auth.sts.accounts", "a pattern of accounts, once", 4096,
			func(c *config) *[]string { return &c.Identity.STSAccounts }, pattern),
		settings.List("auth.sts.roles", "a pattern of role names, once", 4096,
			func(c *config) *[]string { return &c.Identity.STSRoles }, pattern),
		{Key: "auth.sigv4.keys_file", Want: "a path", Set: text(func(c *config) *string { return &c.Identity.SigV4KeysFile })},
		{Key: "auth.sigv4.service", Want: "execute-api or vpc-lattice-svcs", Set: func(c *config, v string) bool {
			c.Identity.SigV4Service = v
			return v == "execute-api" || v == "vpc-lattice-svcs"
		}},
		{Key: "auth.mtls.ca_file", Want: "a path", Set: text(func(c *config) *string { return &c.Identity.MTLSCAFile })},
	}
}

// authenticator knows agents by the modes that are configured.
func (c *identityConfig) authenticator(log *slog.Logger) (*auth.Authenticator, error) {
	cfg := auth.Config{Endpoints: c.Endpoints}
	if len(c.STSHosts)+len(c.STSAccounts)+len(c.STSRoles) > 0 {
		cfg.STS = &auth.STS{Hosts: c.STSHosts, Accounts: c.STSAccounts, Roles: c.STSRoles}
	}
	if c.SigV4KeysFile != "" {
		keys, err := readKeys(c.SigV4KeysFile)
		if err != nil {
			return nil, usagef("auth.sigv4.keys_file: %w", err)
		}
		cfg.SigV4 = &auth.SigV4{Service: c.SigV4Service, Keys: keys}
	}
	if c.MTLSCAFile != "" {
		cfg.MTLS = &auth.MTLS{CAFile: c.MTLSCAFile, Logger: log}
	}
	a, err := auth.New(cfg)
	if err != nil {
		return nil, usagef("auth: %w", err)
	}
	return a, nil
}

// maxKeys bounds a file of keys in bytes.
const maxKeys = 4 << 20

// readKeys reads a file of access keys, for its owner only: ID SECRET ACCOUNT INSTANCE on each line, - where there is none.
func readKeys(name string) ([]auth.Key, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s has mode %o: it holds secrets, make it 600", name, info.Mode().Perm())
	case info.Size() > maxKeys:
		return nil, fmt.Errorf("%s has more than %d bytes", name, maxKeys)
	}
	var keys []auth.Key
	lines := bufio.NewScanner(io.LimitReader(file, maxKeys))
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) != 4 {
			return nil, fmt.Errorf("%s:%d: want ID SECRET ACCOUNT INSTANCE", name, n)
		}
		for i := range fields {
			if fields[i] == "-" {
				fields[i] = ""
			}
		}
		keys = append(keys, auth.Key{ID: fields[0], Secret: fields[1], Account: fields[2], Instance: fields[3]})
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, errors.New("no keys in " + name)
	}
	return keys, nil
}
