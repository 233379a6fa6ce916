package audit

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/elastic/go-libaudit/v2"
	"github.com/elastic/go-libaudit/v2/auparse"
	"github.com/elastic/go-libaudit/v2/rule"

	"github.com/taskguard/taskguard/collector/event"
)

// Key marks the rules that are ours (auditctl -F key=taskguard).
const Key = "taskguard"

// ownRule is a rule of ours in the kernel's form and in that of auditctl(8).
type ownRule struct {
	kinds []event.Kind
	wire  rule.WireFormat
	text  string
}

// draft is a rule before it is built: the calls of all kinds that share a filter.
type draft struct {
	width, filter string
	kinds         []event.Kind
	names         []string
}

// buildRules makes the rules for kinds, for programs of both widths. They leave out the process self. They are
// meant to be appended: a rule of somebody else that was there before keeps matching first.
func buildRules(wanted []event.Kind, key string, self int) ([]ownRule, error) {
	var rules []ownRule
	for _, width := range []string{"b64", "b32"} {
		for _, d := range drafts(wanted, width) {
			r, err := buildRule(d.width, d.names, d.filter, key, self)
			if err != nil {
				return nil, fmt.Errorf("build rule for %s: %w", strings.Join(d.names, ","), err)
			}
			r.kinds = d.kinds
			rules = append(rules, r)
		}
	}
	return rules, nil
}

// drafts gathers the calls of kinds by their filters: the fewer rules, the less every system call on the host costs.
func drafts(wanted []event.Kind, width string) []draft {
	var list []draft
	table := syscallNames(width)
	add := func(name, filter string, kind event.Kind) {
		i := slices.IndexFunc(list, func(d draft) bool { return d.filter == filter })
		if i < 0 {
			i, list = len(list), append(list, draft{width: width, filter: filter})
		}
		if d := &list[i]; !slices.Contains(d.names, name) {
			d.names = append(d.names, name)
		}
		if d := &list[i]; !slices.Contains(d.kinds, kind) {
			d.kinds = append(d.kinds, kind)
		}
	}
	for _, s := range watched() {
		if !slices.Contains(wanted, s.kind) || s.width != "" && s.width != width {
			continue
		}
		for _, name := range s.names {
			if table[name] {
				add(name, s.filter, s.kind)
			}
			if number, ok := socketcalls()[name]; ok && table["socketcall"] {
				add("socketcall", socketcallFilter(number, s.filter), s.kind)
			}
		}
	}
	return list
}

// socketcallFilter is the filter for a call by way of socketcall(2), whose first argument is the call's number; those
// of the call itself are in memory. Its registers have 32 bits: there is no upper half to hide in.
func socketcallFilter(number uint32, filter string) string {
	conditions := []string{fmt.Sprintf("a0=%d", number)}
	for condition := range strings.FieldsSeq(filter) {
		if !strings.HasPrefix(condition, "a") {
			conditions = append(conditions, condition)
		}
	}
	return strings.Join(conditions, " ")
}

func buildRule(width string, names []string, filter, key string, self int) (ownRule, error) {
	value := func(name, comparator, want string) rule.FilterSpec {
		return rule.FilterSpec{Type: rule.ValueFilterType, LHS: name, Comparator: comparator, RHS: want}
	}
	const operators = "=&!<>"
	filters := []rule.FilterSpec{value("arch", "=", width)}
	for condition := range strings.FieldsSeq(filter) {
		i, j := strings.IndexAny(condition, operators), strings.LastIndexAny(condition, operators)
		filters = append(filters, value(condition[:i], condition[i:j+1], condition[j+1:]))
	}
	filters = append(filters, value("pid", "!=", strconv.Itoa(self)))
	wire, err := rule.Build(&rule.SyscallRule{
		Type: rule.AppendSyscallRuleType, List: "exit", Action: "always",
		Filters: filters, Syscalls: names, Keys: []string{key},
	})
	if err != nil {
		return ownRule{}, err
	}
	text, err := rule.ToCommandLine(wire, false)
	return ownRule{wire: wire, text: text}, err
}

// syscallNames returns the names of this machine's system calls.
func syscallNames(width string) map[string]bool {
	arch := map[string]string{"amd64b64": "x86_64", "amd64b32": "i386", "arm64b64": "aarch64", "arm64b32": "arm"}
	names := map[string]bool{}
	for _, name := range auparse.AuditSyscalls[arch[runtime.GOARCH+width]] {
		names[name] = true
	}
	return names
}

// loadedRules returns the rules in the kernel that carry key and no other. Rules the library cannot read are
// somebody else's.
func loadedRules(client *libaudit.AuditClient, key string) ([]ownRule, error) {
	all, err := client.GetRules()
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	var own []ownRule
	for _, wire := range all {
		text, err := rule.ToCommandLine(wire, false)
		if err == nil && strings.HasPrefix(text, "-a always,exit ") && strings.HasSuffix(text, " -F key="+key) {
			own = append(own, ownRule{wire: wire, text: text})
		}
	}
	return own, nil
}

// installRules makes rules the only ones with their key: what a run left behind that was killed is adopted where
// it is the same, and removed where not. It returns why a kind cannot be collected, by kind.
func installRules(client *libaudit.AuditClient, rules []ownRule, key string) (map[event.Kind]error, error) {
	loaded, err := loadedRules(client, key)
	if err != nil {
		return nil, err
	}
	refused := map[event.Kind]error{}
	for _, r := range rules {
		if slices.ContainsFunc(loaded, func(l ownRule) bool { return l.text == r.text }) {
			continue
		}
		if err := client.AddRule(r.wire); err != nil && !isExist(err) {
			for _, kind := range r.kinds {
				refused[kind] = fmt.Errorf("add rule %q: %w", r.text, err)
			}
		}
	}
	stale := slices.DeleteFunc(loaded, func(l ownRule) bool {
		return slices.ContainsFunc(rules, func(r ownRule) bool { return r.text == l.text })
	})
	return refused, deleteRules(client, stale)
}

// isExist tells the library's error for EEXIST, which it does not wrap.
func isExist(err error) bool { return err.Error() == "rule exists" }

// removeRules removes every rule with key.
func removeRules(client *libaudit.AuditClient, key string) error {
	loaded, err := loadedRules(client, key)
	if err != nil || len(loaded) == 0 {
		return err
	}
	if err := deleteRules(client, loaded); err != nil {
		return err
	}
	// The library does not say whether the kernel agreed.
	loaded, err = loadedRules(client, key)
	if err == nil && len(loaded) > 0 {
		return fmt.Errorf("remove rules: %d stay in the kernel: %w", len(loaded), ErrImmutable)
	}
	return err
}

func deleteRules(client *libaudit.AuditClient, rules []ownRule) error {
	var errs []error
	for _, r := range rules {
		if err := client.DeleteRule(r.wire); err != nil {
			errs = append(errs, fmt.Errorf("remove rule %q: %w", r.text, err))
		}
	}
	return errors.Join(errs...)
}
