// Command wire prints what the recorded events take on the wire, beside what they take as NDJSON and gzip. Run it in the
// repository's root.
package main

import (
	"fmt"
	"io"
	"os"
	"text/tabwriter"
)

func main() {
	if err := run(os.Stdout, "."); err != nil {
		fmt.Fprintln(os.Stderr, "wire:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, root string) error {
	all, err := corpora(root)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "corpus\tsealed\tevents\tbatches\twire B\tB/event\tNDJSON+gzip B\tB/event\twire/NDJSON\t")
	for i := range all {
		sizes, err := measure(&all[i])
		if err != nil {
			return fmt.Errorf("measure %s: %w", all[i].name, err)
		}
		for _, s := range sizes {
			wire, ndjson := s.perEvent()
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%.1f\t%d\t%.1f\t%.2f\t\n", s.corpus, s.sealed, s.events, s.batches, s.wire, wire,
				s.ndjson, ndjson, wire/ndjson)
		}
	}
	return w.Flush()
}
