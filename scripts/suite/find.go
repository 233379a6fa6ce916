// Package suite finds the module's tests by tier, and turns what they print into lines for people, a sum, and a table
// of the rungs that won.
//
// A test's tier is in the name of its file: *_kernel_test.go, *_container_test.go, or any other for unit.
package suite

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Tests holds tests by tier, name and the directories in which they are.
type Tests map[string]map[string][]string

var testFunction = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Example)\w*)\(`)

// Find reads the test files of a module. It fails where two tiers share a name.
func Find(root string) (Tests, error) {
	found := Tests{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := entry.Name(); entry.IsDir() && path != root && (name == "testdata" || strings.HasPrefix(name, ".")) {
			return filepath.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, match := range testFunction.FindAllSubmatch(text, -1) {
			if name := string(match[1]); name != "TestMain" {
				found.add(tierOf(path), name, filepath.Dir(path))
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find tests: %w", err)
	}
	return found, found.checkNames()
}

func tierOf(file string) string {
	for _, tier := range []string{"kernel", "container"} {
		if strings.HasSuffix(file, "_"+tier+"_test.go") {
			return tier
		}
	}
	return "unit"
}

func (t Tests) add(tier, name, dir string) {
	if t[tier] == nil {
		t[tier] = map[string][]string{}
	}
	t[tier][name] = append(t[tier][name], dir)
}

// checkNames reports names that two tiers share. Tests are chosen by name, so one of the two would run in the wrong
// tier, or in none.
func (t Tests) checkNames() error {
	first := map[string]string{}
	for _, tier := range slices.Sorted(maps.Keys(t)) {
		for name, dirs := range t[tier] {
			if other, again := first[name]; again {
				return fmt.Errorf("%s in %s (%s tier) and in %s (%s tier): rename one of them",
					name, dirs[0], tier, t[other][name][0], other)
			}
			first[name] = tier
		}
	}
	return nil
}

// Pattern matches the names of the tiers' tests, for -run and -skip; without any it matches none.
func (t Tests) Pattern(tiers ...string) string {
	var names []string
	for _, tier := range tiers {
		names = slices.AppendSeq(names, maps.Keys(t[tier]))
	}
	slices.Sort(names)
	return "^(" + strings.Join(names, "|") + ")$"
}

// Packages returns the packages that have tests of the tiers, as paths below the module's root that begin with "./".
func (t Tests) Packages(tiers ...string) []string {
	dirs := map[string]bool{}
	for _, tier := range tiers {
		for _, in := range t[tier] {
			for _, dir := range in {
				dirs["./"+dir] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(dirs))
}

// Matching returns the tests whose names a regular expression matches.
func (t Tests) Matching(re *regexp.Regexp) Tests {
	kept := Tests{}
	for tier, tests := range t {
		for name, dirs := range tests {
			if re.MatchString(name) {
				for _, dir := range dirs {
					kept.add(tier, name, dir)
				}
			}
		}
	}
	return kept
}
