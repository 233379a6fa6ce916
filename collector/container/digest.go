package container

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
)

// maxDigests bounds the images whose digests are remembered.
const maxDigests = 256

// digests remembers by which digests registries have images, by image id.
type digests struct {
	mu    sync.Mutex
	known map[string][]string // REPOSITORY@DIGEST
}

// digest returns the digest by which a registry has an image that a reference named; "" when it was not pulled, or is
// not there any more.
func (e *engine) digest(ctx context.Context, imageID, reference string) (string, error) {
	e.digests.mu.Lock()
	list, ok := e.digests.known[imageID]
	e.digests.mu.Unlock()
	if !ok {
		image, err := e.ImageInspect(ctx, imageID)
		if errdefs.IsNotFound(err) {
			return "", nil
		}
		if err != nil {
			return "", fmt.Errorf("inspect image: %w", err)
		}
		list = image.RepoDigests
		e.digests.remember(imageID, list)
	}
	return pick(list, reference), nil
}

func (d *digests) remember(imageID string, list []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known == nil || len(d.known) >= maxDigests {
		d.known = make(map[string][]string)
	}
	d.known[imageID] = list
}

// pick returns the digest of a reference's repository, or of any.
func pick(list []string, reference string) string {
	first := ""
	for _, entry := range list {
		repository, digest, _ := strings.Cut(entry, "@")
		if rest, ok := strings.CutPrefix(reference, repository); ok && (rest == "" || rest[0] == ':' || rest[0] == '@') {
			return cut(digest)
		}
		if first == "" {
			first = digest
		}
	}
	return cut(first)
}
