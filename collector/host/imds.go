package host

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
)

// maxDocument bounds an answer of the metadata service in bytes: a document has some 500.
const maxDocument = 16 << 10

// identityDocument asks the instance metadata service who this instance is.
func identityDocument(ctx context.Context, c Config) (imds.InstanceIdentityDocument, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	transport := c.transport
	if transport == nil {
		// Without a proxy: the service answers this instance only. Without kept connections: there are two requests.
		transport = &http.Transport{DisableKeepAlives: true}
	}
	client := imds.New(imds.Options{
		Endpoint:       c.Endpoint,
		EnableFallback: aws.FalseTernary, // version 1 answers whoever can make the host send a request
		// A client of our own: the library's allows 500 ms for an answer, which a busy instance may exceed.
		HTTPClient: &http.Client{Transport: bounded{transport}},
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts, o.MaxBackoff = 3, 100*time.Millisecond
		}),
		DisableDefaultMaxBackoff: true, // ours is shorter
	})
	document, err := client.GetInstanceIdentityDocument(ctx, nil)
	if ctx.Err() != nil {
		return imds.InstanceIdentityDocument{}, fmt.Errorf("get instance identity document: no answer within %v: %w",
			c.Timeout, ctx.Err())
	}
	if err != nil {
		return imds.InstanceIdentityDocument{}, fmt.Errorf("get instance identity document: %w", err)
	}
	for _, field := range []string{document.InstanceID, document.AccountID, document.Region} {
		if !isToken(field) {
			return imds.InstanceIdentityDocument{}, fmt.Errorf("get instance identity document: bad field %.80q", field)
		}
	}
	return document.InstanceIdentityDocument, nil
}

// isToken reports whether s may be an instance id, an account id or a region.
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return 0 < len(s) && len(s) <= 64
}

// bounded cuts answers at maxDocument.
type bounded struct{ base http.RoundTripper }

func (b bounded) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := b.base.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(response.Body, maxDocument), response.Body}
	return response, nil
}
