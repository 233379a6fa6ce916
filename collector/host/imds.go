package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"

	"github.com/taskguard/taskguard/collector/event"
)

// What is taken from the metadata service at most.
const (
	maxAnswer     = 16 << 10 // bytes: an identity document has some 500
	maxInterfaces = 15       // the most that an instance type has on one card
	maxTags       = 50       // the most that a resource can have
	maxAddresses  = 50       // of one kind on one interface
	maxText       = 1024     // bytes of one fact
)

// identityDocument is an instance's identity document.
type identityDocument = imds.InstanceIdentityDocument

// service asks the instance metadata service.
type service struct{ client *imds.Client }

func newService(c Config) *service {
	transport := c.transport
	if transport == nil {
		// Without a proxy: the service answers this instance only.
		transport = &http.Transport{MaxIdleConns: 1, IdleConnTimeout: time.Second}
	}
	return &service{imds.New(imds.Options{
		Endpoint:       c.Endpoint,
		EnableFallback: aws.FalseTernary, // version 1 answers whoever can make the host send a request
		// A client of our own: the library's allows 500 ms for an answer, which a busy instance may exceed.
		HTTPClient: &http.Client{Transport: bounded{transport}},
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts, o.MaxBackoff = 3, 100*time.Millisecond
		}),
		DisableDefaultMaxBackoff: true, // ours is shorter
	})}
}

// document asks who this instance is.
func (s *service) document(ctx context.Context) (identityDocument, error) {
	answer, err := s.client.GetInstanceIdentityDocument(ctx, nil)
	if ctx.Err() != nil {
		return identityDocument{}, fmt.Errorf("get instance identity document: no answer in time: %w: %s", ctx.Err(), silent)
	}
	if err != nil {
		return identityDocument{}, fmt.Errorf("get instance identity document: %w%s", err, remedy(err))
	}
	d := answer.InstanceIdentityDocument
	for _, field := range []string{d.InstanceID, d.AccountID, d.Region} {
		if !isToken(field) {
			return identityDocument{}, fmt.Errorf("get instance identity document: bad field %.80q", field)
		}
	}
	d.InstanceType, d.ImageID, d.AvailabilityZone = cut(d.InstanceType), cut(d.ImageID), cut(d.AvailabilityZone)
	return d, nil
}

// silent is why the service may not answer.
const silent = "this is no EC2 instance, or its metadata service is blocked, or does not answer containers " +
	"(HttpPutResponseHopLimit)"

// remedy says what may be the reason of a refusal.
func remedy(err error) string {
	if status(err) == http.StatusForbidden {
		return ": the metadata service is off for this instance (HttpEndpoint)"
	}
	return ""
}

// status returns the HTTP status of an answer that is an error; 0 when there was none.
func status(err error) int {
	var response interface{ HTTPStatusCode() int }
	if errors.As(err, &response) {
		return response.HTTPStatusCode()
	}
	return 0
}

// get returns what the service has at a path, "" if it has nothing there.
func (s *service) get(ctx context.Context, path string) (string, error) {
	answer, err := s.client.GetMetadata(ctx, &imds.GetMetadataInput{Path: path})
	if status(err) == http.StatusNotFound {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("get instance metadata %s: %w", path, err)
	}
	defer answer.Content.Close()
	text, err := io.ReadAll(answer.Content)
	if err != nil {
		return "", fmt.Errorf("get instance metadata %s: %w", path, err)
	}
	return string(text), nil
}

// excluded reports whether the instance is tagged to be left out. Where tags are not in the metadata it is not.
func (s *service) excluded(ctx context.Context) (bool, error) {
	value, err := s.get(ctx, "tags/instance/"+ManagedTag)
	return value == "false", err
}

// complete fills in what the identity document does not say. What the service does not tell stays as it is.
func (s *service) complete(ctx context.Context, i *event.Instance) {
	_ = s.set(ctx, &i.AvailabilityZoneID, "placement/availability-zone-id") // else it stays
	if info, err := s.client.GetIAMInfo(ctx, nil); err == nil {
		i.InstanceProfileARN = cut(info.InstanceProfileArn)
	} else if status(err) == http.StatusNotFound { // it has none
		i.InstanceProfileARN = ""
	}
	if list, err := s.interfaces(ctx); err == nil {
		i.Interfaces = list
	}
	if list, err := s.tags(ctx); err == nil {
		i.Tags = list
	}
}

// set sets a fact of one line, if the service answers.
func (s *service) set(ctx context.Context, fact *string, path string) error {
	text, err := s.get(ctx, path)
	if err == nil {
		*fact = cut(strings.TrimSpace(text))
	}
	return err
}

// lines returns what the service lists at a path.
func (s *service) lines(ctx context.Context, path string, limit int) ([]string, error) {
	text, err := s.get(ctx, path)
	if err != nil {
		return nil, err
	}
	var list []string
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '\n' }) {
		if len(list) < limit {
			list = append(list, cut(line))
		}
	}
	return list, nil
}

func (s *service) interfaces(ctx context.Context) ([]event.Interface, error) {
	const all = "network/interfaces/macs/"
	macs, err := s.lines(ctx, all, maxInterfaces)
	if err != nil {
		return nil, err
	}
	list := make([]event.Interface, 0, len(macs))
	first := 0
	for _, mac := range macs {
		mac = strings.TrimSuffix(mac, "/")
		i, primary, err := s.oneInterface(ctx, all+mac+"/")
		if err != nil {
			return nil, err // half an interface would be taken for all of it
		}
		if primary {
			first = len(list)
		}
		i.MAC = mac
		list = append(list, i)
	}
	if first > 0 {
		primary := list[first]
		list = slices.Insert(slices.Delete(list, first, first+1), 0, primary)
	}
	return list, nil
}

// oneInterface returns what the service has of an interface, and whether it is the instance's first one.
func (s *service) oneInterface(ctx context.Context, at string) (i event.Interface, primary bool, err error) {
	var device string
	for _, f := range [...]struct {
		path string
		fact *string
	}{{"interface-id", &i.ID}, {"vpc-id", &i.VPCID}, {"subnet-id", &i.SubnetID}, {"device-number", &device}} {
		if err := s.set(ctx, f.fact, at+f.path); err != nil {
			return i, false, err
		}
	}
	for _, f := range [...]struct {
		path string
		list *[]netip.Addr
	}{{"local-ipv4s", &i.PrivateIPs}, {"public-ipv4s", &i.PublicIPs}, {"ipv6s", &i.IPv6s}} {
		if *f.list, err = s.addresses(ctx, at+f.path); err != nil {
			return i, false, err
		}
	}
	i.SecurityGroups, err = s.lines(ctx, at+"security-group-ids", maxTags)
	return i, device == "0", err
}

// addresses returns the addresses that the service lists at a path.
func (s *service) addresses(ctx context.Context, path string) ([]netip.Addr, error) {
	lines, err := s.lines(ctx, path, maxAddresses)
	if err != nil {
		return nil, err
	}
	var list []netip.Addr
	for _, line := range lines {
		if addr, err := netip.ParseAddr(strings.TrimSpace(line)); err == nil {
			list = append(list, addr.WithZone(""))
		}
	}
	return list, nil
}

func (s *service) tags(ctx context.Context) ([]event.Tag, error) {
	keys, err := s.lines(ctx, "tags/instance/", maxTags)
	if err != nil {
		return nil, err
	}
	var list []event.Tag
	for _, key := range keys {
		value, err := s.get(ctx, "tags/instance/"+key)
		if err != nil {
			return nil, err
		}
		list = append(list, event.Tag{Key: key, Value: cut(value)})
	}
	return list, nil
}

func cut(s string) string { return s[:min(len(s), maxText)] }

// isToken reports whether s may be an instance id, an account id or a region.
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return 0 < len(s) && len(s) <= 64
}

// bounded cuts answers at maxAnswer.
type bounded struct{ base http.RoundTripper }

func (b bounded) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := b.base.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(response.Body, maxAnswer), response.Body}
	return response, nil
}
