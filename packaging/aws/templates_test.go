// Package aws has the tests of the CloudFormation templates in its folder.
package aws

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// kind is what a resource type has: properties that may be set, and attributes for GetAtt.
type kind struct{ properties, attributes string }

// kinds has the types that templates use, by the CloudFormation reference: what is not here is a mistake or new.
func kinds() map[string]kind {
	return map[string]kind{
		"AWS::AutoScaling::AutoScalingGroup": {"MinSize MaxSize VPCZoneIdentifier LaunchTemplate TargetGroupARNs " +
			"HealthCheckType HealthCheckGracePeriod", ""},
		"AWS::EC2::LaunchTemplate":                  {"LaunchTemplateData", "LatestVersionNumber"},
		"AWS::EC2::SecurityGroup":                   {"GroupDescription VpcId SecurityGroupIngress SecurityGroupEgress", "GroupId"},
		"AWS::EC2::VPCEndpoint":                     {"VpcEndpointType VpcId SubnetIds ServiceName PrivateDnsEnabled SecurityGroupIds PolicyDocument", "DnsEntries"},
		"AWS::EC2::VPCEndpointService":              {"AcceptanceRequired NetworkLoadBalancerArns", "ServiceId"},
		"AWS::EC2::VPCEndpointServicePermissions":   {"ServiceId AllowedPrincipals", ""},
		"AWS::ElasticLoadBalancingV2::Listener":     {"LoadBalancerArn Protocol Port DefaultActions", "ListenerArn"},
		"AWS::ElasticLoadBalancingV2::LoadBalancer": {"Type Scheme Subnets LoadBalancerAttributes", "DNSName"},
		"AWS::ElasticLoadBalancingV2::TargetGroup": {"VpcId Protocol Port TargetType HealthCheckProtocol HealthCheckPath " +
			"HealthCheckIntervalSeconds TargetGroupAttributes", "TargetGroupArn"},
		"AWS::Events::Rule":         {"Description EventBusName EventPattern Targets", "Arn"},
		"AWS::IAM::InstanceProfile": {"Roles", "Arn"},
		"AWS::IAM::Role":            {"RoleName AssumeRolePolicyDocument Policies", "Arn RoleId"},
		"AWS::IAM::RolePolicy":      {"RoleName PolicyName PolicyDocument", ""},
		"AWS::KMS::Alias":           {"AliasName TargetKeyId", ""},
		"AWS::KMS::Key":             {"Description EnableKeyRotation KeyPolicy", "Arn KeyId"},
		"AWS::S3::Bucket": {"BucketName PublicAccessBlockConfiguration OwnershipControls VersioningConfiguration " +
			"BucketEncryption LifecycleConfiguration", "Arn DomainName"},
		"AWS::S3::BucketPolicy": {"Bucket PolicyDocument", ""},
		"AWS::SNS::Topic":       {"KmsMasterKeyId Subscription", "TopicArn"},
		"AWS::SNS::TopicPolicy": {"Topics PolicyDocument", ""},
	}
}

const pseudo = "AWS::AccountId AWS::NoValue AWS::Partition AWS::Region"

type object = map[string]any

// template is a parsed template.
type template struct {
	file                                              string
	parameters, conditions, rules, resources, outputs object
	used                                              map[string]bool // parameters and conditions
}

// value is a node without short forms: !Ref x is {"Ref": x}. Nothing is there twice, and there are no aliases.
func value(n *yaml.Node) (any, error) {
	var out any
	switch n.Kind {
	case yaml.MappingNode:
		m := object{}
		for i := 0; i < len(n.Content); i += 2 {
			key := n.Content[i].Value
			if _, twice := m[key]; twice {
				return nil, fmt.Errorf("line %d: %s is there twice", n.Content[i].Line, key)
			}
			v, err := value(n.Content[i+1])
			if err != nil {
				return nil, err
			}
			m[key] = v
		}
		out = m
	case yaml.SequenceNode:
		list := []any{}
		for _, item := range n.Content {
			v, err := value(item)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		out = list
	case yaml.ScalarNode:
		out = n.Value
	default:
		return nil, fmt.Errorf("line %d: aliases are not CloudFormation's", n.Line)
	}
	switch n.Tag {
	case "!!map", "!!seq", "!!str", "!!int", "!!bool", "!!float":
		return out, nil
	case "!Ref", "!Condition":
		return object{n.Tag[1:]: out}, nil
	case "!GetAtt", "!Sub", "!If", "!Equals", "!Not":
		return object{"Fn::" + n.Tag[1:]: out}, nil
	}
	return nil, fmt.Errorf("line %d: tag %s", n.Line, n.Tag)
}

func parse(file string) (*template, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var document, more yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&document); err != nil {
		return nil, err
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("more than one document: %v", err)
	}
	v, err := value(document.Content[0])
	if err != nil {
		return nil, err
	}
	top := v.(object)
	for key := range top {
		if !slices.Contains(strings.Fields("AWSTemplateFormatVersion Description Parameters Conditions Rules Resources Outputs"), key) {
			return nil, fmt.Errorf("section %s", key)
		}
	}
	section := func(name string) object {
		m, _ := top[name].(object)
		return m
	}
	return &template{
		file, section("Parameters"), section("Conditions"), section("Rules"), section("Resources"), section("Outputs"),
		map[string]bool{},
	}, nil
}

var placeholder = regexp.MustCompile(`\$\{([^}!][^}]*)\}`)

// resolve checks that all that v refers to exists.
func (tp *template) resolve(v any) error {
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			if err := tp.resolve(item); err != nil {
				return err
			}
		}
	case object:
		for key, item := range v {
			if err := tp.function(key, item); err != nil {
				return err
			}
			if err := tp.resolve(item); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	return nil
}

func (tp *template) function(key string, arg any) error {
	switch key {
	case "Ref":
		return tp.reference(arg.(string))
	case "Fn::GetAtt":
		return tp.attribute(arg.(string))
	case "Fn::Sub":
		text, ok := arg.(string)
		if !ok {
			return errors.New("Sub of a list")
		}
		for _, found := range placeholder.FindAllStringSubmatch(text, -1) {
			check := tp.reference
			if strings.Contains(found[1], ".") {
				check = tp.attribute
			}
			if err := check(found[1]); err != nil {
				return err
			}
		}
	case "Fn::If":
		return tp.condition(arg.([]any)[0].(string))
	case "Fn::Base64", "Fn::Equals", "Fn::Not":
	default:
		if strings.HasPrefix(key, "Fn::") {
			return fmt.Errorf("function %s", key)
		}
	}
	return nil
}

func (tp *template) reference(name string) error {
	if _, ok := tp.parameters[name]; ok {
		tp.used[name] = true
		return nil
	}
	if _, ok := tp.resources[name]; ok || slices.Contains(strings.Fields(pseudo), name) {
		return nil
	}
	return fmt.Errorf("refers to %s, which does not exist", name)
}

func (tp *template) attribute(name string) error {
	resource, attribute, _ := strings.Cut(name, ".")
	r, ok := tp.resources[resource].(object)
	if !ok || !slices.Contains(strings.Fields(kinds()[r["Type"].(string)].attributes), attribute) {
		return fmt.Errorf("attribute %s, which does not exist", name)
	}
	return nil
}

func (tp *template) condition(name string) error {
	if _, ok := tp.conditions[name]; !ok {
		return fmt.Errorf("condition %s, which does not exist", name)
	}
	tp.used[name] = true
	return nil
}

func (tp *template) checkResource(name string, r object) error {
	known, ok := kinds()[fmt.Sprint(r["Type"])]
	if !ok {
		return fmt.Errorf("%s: type %v", name, r["Type"])
	}
	for key := range r {
		if !slices.Contains(strings.Fields("Type Properties Condition DeletionPolicy UpdateReplacePolicy"), key) {
			return fmt.Errorf("%s: key %s", name, key)
		}
	}
	properties, _ := r["Properties"].(object)
	for key := range properties {
		if !slices.Contains(strings.Fields(known.properties), key) {
			return fmt.Errorf("%s: property %s", name, key)
		}
	}
	if on, ok := r["Condition"].(string); ok {
		if err := tp.condition(on); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := tp.resolve(properties); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (tp *template) check() error {
	var all []error
	for name, r := range tp.resources {
		all = append(all, tp.checkResource(name, r.(object)))
	}
	for _, section := range []object{tp.conditions, tp.rules, tp.outputs} {
		all = append(all, tp.resolve(section))
	}
	for name, p := range tp.parameters {
		for key := range p.(object) {
			if !slices.Contains(strings.Fields("Type Default Description MinValue AllowedValues AllowedPattern"), key) {
				all = append(all, fmt.Errorf("parameter %s: key %s", name, key))
			}
		}
	}
	for _, section := range []object{tp.parameters, tp.conditions} {
		for name := range section {
			if !tp.used[name] {
				all = append(all, fmt.Errorf("%s is not used", name))
			}
		}
	}
	return errors.Join(all...)
}

func templates(t *testing.T) map[string]*template {
	t.Helper()
	files, err := filepath.Glob("*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*template{}
	for _, file := range files {
		if all[file], err = parse(file); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	return all
}

func TestTemplatesAreWhole(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	all := templates(t)
	if len(all) != 5 {
		t.Errorf("%d templates, want 5", len(all))
	}
	for file, tp := range all {
		if err := tp.check(); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		_, line, _ := strings.Cut(string(readme), "--template-file "+file)
		line, _, _ = strings.Cut(line, "`")
		for name, p := range tp.parameters {
			if _, ok := p.(object)["Default"]; !ok && !strings.Contains(line, name+"=") {
				t.Errorf("%s: README.md deploys it without %s", file, name)
			}
		}
	}
}

// The checker finds what it is for.
func TestMistakesAreFound(t *testing.T) {
	for name, text := range map[string]string{
		"reference": "Resources: {A: {Type: 'AWS::SNS::Topic', Properties: {KmsMasterKeyId: !Ref B}}}",
		"attribute": "Resources: {A: {Type: 'AWS::SNS::Topic', Properties: {KmsMasterKeyId: !GetAtt A.Arn}}}",
		"sub":       "Resources: {A: {Type: 'AWS::SNS::Topic', Properties: {KmsMasterKeyId: !Sub 'x${B}'}}}",
		"property":  "Resources: {A: {Type: 'AWS::SNS::Topic', Properties: {Kms: x}}}",
		"type":      "Resources: {A: {Type: 'AWS::SNS::Topics'}}",
		"condition": "Resources: {A: {Type: 'AWS::SNS::Topic', Condition: C}}",
		"twice":     "Resources: {A: {Type: 'AWS::SNS::Topic'}, A: {Type: 'AWS::SNS::Topic'}}",
		"unused":    "Parameters: {P: {Type: String}}",
		"section":   "Resource: {}",
		"tag":       "Resources: !Get x",
	} {
		file := filepath.Join(t.TempDir(), "x.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		tp, err := parse(file)
		if err == nil {
			err = tp.check()
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// at is what a template has at a path of resource, properties and indexes, as JSON.
func (tp *template) at(path string) string {
	resource, rest, _ := strings.Cut(path, ".")
	r, _ := tp.resources[resource].(object)
	var v any = r["Properties"]
	for part := range strings.SplitSeq(rest, ".") {
		switch in := v.(type) {
		case object:
			v = in[part]
		case []any:
			var i int
			if _, err := fmt.Sscan(part, &i); err != nil || i >= len(in) {
				return ""
			}
			v = in[i]
		}
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func TestProperties(t *testing.T) {
	all := templates(t)
	const ownAccount = `{"StringNotEquals":{"aws:PrincipalAccount":{"Ref":"AWS::AccountId"}}}`
	for _, c := range []struct{ file, path, want string }{
		{"bucket.yaml", "Bucket.PublicAccessBlockConfiguration",
			`{"BlockPublicAcls":"true","BlockPublicPolicy":"true","IgnorePublicAcls":"true","RestrictPublicBuckets":"true"}`},
		{"bucket.yaml", "Bucket.OwnershipControls.Rules.0.ObjectOwnership", `"BucketOwnerEnforced"`},
		{"bucket.yaml", "Bucket.BucketEncryption.ServerSideEncryptionConfiguration.0.ServerSideEncryptionByDefault",
			`{"KMSMasterKeyID":{"Fn::GetAtt":"Key.Arn"},"SSEAlgorithm":"aws:kms"}`},
		{"bucket.yaml", "Bucket.LifecycleConfiguration.Rules.0.Status", `"Enabled"`},
		{"bucket.yaml", "Key.EnableKeyRotation", `"true"`},
		{"bucket.yaml", "BucketPolicy.PolicyDocument.Statement.0.Effect", `"Deny"`},
		{"bucket.yaml", "BucketPolicy.PolicyDocument.Statement.0.Condition",
			`{"Bool":{"aws:PrincipalIsAWSService":"false"},"StringNotEquals":{"aws:PrincipalAccount":{"Ref":"AWS::AccountId"}}}`},
		{"bucket.yaml", "BucketPolicy.PolicyDocument.Statement.1.Condition", `{"Bool":{"aws:SecureTransport":"false"}}`},
		{"endpoint.yaml", "Endpoint.PrivateDnsEnabled", `{"Ref":"PrivateDns"}`},
		{"endpoint.yaml", "Endpoint.PolicyDocument.Fn::If.0", `"ForAccount"`},
		{"endpoint.yaml", "Endpoint.PolicyDocument.Fn::If.1.Statement.1.Effect", `"Deny"`},
		{"endpoint.yaml", "Endpoint.PolicyDocument.Fn::If.1.Statement.1.Condition", ownAccount},
		{"endpoint.yaml", "Endpoint.PolicyDocument.Fn::If.2.Fn::If.1.Statement.1.Effect", `"Deny"`},
		{"endpoint.yaml", "Endpoint.PolicyDocument.Fn::If.2.Fn::If.1.Statement.1.Condition",
			`{"StringNotEquals":{"aws:PrincipalOrgID":{"Ref":"OrganizationId"}}}`},
		{"endpoint.yaml", "SecurityGroup.SecurityGroupIngress.0.CidrIp", `{"Ref":"VpcCidr"}`},
		{"endpoint-service.yaml", "LoadBalancer.Scheme", `"internal"`},
		{"endpoint-service.yaml", "Service.AcceptanceRequired", `"true"`},
		{"endpoint-service.yaml", "ServicePermissions.AllowedPrincipals", `{"Ref":"AllowedPrincipals"}`},
		{"endpoint-service.yaml", "LaunchTemplate.LaunchTemplateData.MetadataOptions.HttpTokens", `"required"`},
		{"endpoint-service.yaml", "LaunchTemplate.LaunchTemplateData.BlockDeviceMappings.0.Ebs.Encrypted", `"true"`},
		{"endpoint-service.yaml", "LaunchTemplate.LaunchTemplateData.NetworkInterfaces.0.AssociatePublicIpAddress", `"false"`},
		{"endpoint-service.yaml", "ReceiverSecurityGroup.SecurityGroupIngress.0.CidrIp", `{"Ref":"LoadBalancerCidr"}`},
		{"iam.yaml", "AgentRole.AssumeRolePolicyDocument.Statement",
			`[{"Action":"sts:AssumeRole","Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"}}]`},
		{"iam.yaml", "ReceiverRole.AssumeRolePolicyDocument.Statement.0.Principal", `{"Service":"ec2.amazonaws.com"}`},
		{"notify.yaml", "Topic.KmsMasterKeyId", `{"Fn::GetAtt":"Key.Arn"}`},
		{"notify.yaml", "Healthy.EventPattern", `{"detail-type":["TaskGuard Runtime Protection Healthy"]}`},
		{"notify.yaml", "Unhealthy.EventPattern", `{"detail-type":["TaskGuard Runtime Protection Unhealthy"]}`},
		{"notify.yaml", "TopicPolicy.PolicyDocument.Statement.1.Effect", `"Deny"`},
	} {
		if got := all[c.file].at(c.path); got != c.want {
			t.Errorf("%s: %s is %s, want %s", c.file, c.path, got, c.want)
		}
	}
}

// No policy lets everybody in without a condition, but the endpoint's, of which the other statement denies.
func TestNoPolicyIsForEverybody(t *testing.T) {
	for file, tp := range templates(t) {
		for name, r := range tp.resources {
			walk(r, func(o object) {
				everybody := o["Principal"] == "*" || fmt.Sprint(o["Principal"]) == "map[AWS:*]"
				if o["Effect"] == "Allow" && everybody && o["Condition"] == nil && file != "endpoint.yaml" {
					t.Errorf("%s: %s lets everybody in", file, name)
				}
			})
		}
	}
}

// What a message tells is what its template asks for.
func TestInputTransformers(t *testing.T) {
	name := regexp.MustCompile(`<([a-z]+)>`)
	for _, r := range templates(t)["notify.yaml"].resources {
		walk(r, func(o object) {
			paths, ok := o["InputPathsMap"].(object)
			if !ok {
				return
			}
			text := o["InputTemplate"].(string)
			for _, found := range name.FindAllStringSubmatch(text, -1) {
				if paths[found[1]] == nil {
					t.Errorf("template says <%s>, which has no path", found[1])
				}
			}
			for key := range paths {
				if !strings.Contains(text, "<"+key+">") {
					t.Errorf("path %s is not told", key)
				}
			}
			for line := range strings.SplitSeq(text, "\n") {
				if !strings.HasPrefix(line, `"`) || !strings.HasSuffix(line, `"`) {
					t.Errorf("line %s: want it in quotation marks", line)
				}
			}
		})
	}
}

func walk(v any, each func(object)) {
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			walk(item, each)
		}
	case object:
		each(v)
		for _, item := range v {
			walk(item, each)
		}
	}
}
