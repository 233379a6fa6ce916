package auth

import (
	"encoding/xml"
	"regexp"
	"strings"
)

// caller is whom STS names.
type caller struct{ arn, account, role, session string }

// parseCaller reads an answer of GetCallerIdentity. Only the session of a role is somebody here, no user and no root.
func parseCaller(body []byte) (caller, error) {
	var answer struct {
		XMLName xml.Name `xml:"GetCallerIdentityResponse"`
		Result  []struct {
			ARN     []string `xml:"Arn"`
			Account []string `xml:"Account"`
		} `xml:"GetCallerIdentityResult"`
	}
	if err := xml.Unmarshal(body, &answer); err != nil {
		return caller{}, later("STS answers what cannot be read: %v", err)
	}
	if len(answer.Result) != 1 || len(answer.Result[0].ARN) != 1 || len(answer.Result[0].Account) != 1 {
		return caller{}, later("STS answers without an ARN and an account")
	}
	return parseARN(answer.Result[0].ARN[0], answer.Result[0].Account[0])
}

// parseARN reads such as arn:aws:sts::123456789012:assumed-role/ROLE/SESSION.
func parseARN(arn, account string) (caller, error) {
	parts := strings.Split(arn, ":")
	if len(parts) != 6 || parts[0] != "arn" || !strings.HasPrefix(parts[1], "aws") || parts[3] != "" ||
		!accountID.MatchString(account) || parts[4] != account {
		return caller{}, forbid("caller %q of account %q: want a role's session", arn, account)
	}
	resource := strings.Split(parts[5], "/")
	if parts[2] != "sts" || len(resource) != 3 || resource[0] != "assumed-role" || resource[1] == "" || resource[2] == "" {
		return caller{}, forbid("caller %q: want a role's session", arn)
	}
	return caller{arn: arn, account: account, role: resource[1], session: resource[2]}, nil
}

var codePattern = regexp.MustCompile(`<Code>([A-Za-z.]{1,64})</Code>`)

// errorCode is the code in an error of STS, such as ExpiredToken, or "".
func errorCode(body []byte) string {
	if found := codePattern.FindSubmatch(body); found != nil {
		return string(found[1])
	}
	return ""
}

func isThrottling(body []byte) bool {
	code := errorCode(body)
	return code == "Throttling" || code == "ThrottlingException" || code == "RequestLimitExceeded"
}
