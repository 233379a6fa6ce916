// Package secret tells what looks like a credential, in environments and on command lines, and masks it.
//
// It promises: what is masked stays readable but for the secret itself; what holds no secret is returned as it is,
// without allocating; and no value of a credential is in anything that the package returns or keeps.
//
// It is a heuristic, by names and by well-known forms of values: what it does not know it does not find.
package secret

import "strings"

// The kinds of credentials.
const (
	Password     = "password"
	Token        = "token"
	APIKey       = "api_key"
	PrivateKey   = "private_key"
	AWSAccessKey = "aws_access_key" // its id, or the secret that belongs to it
	URLPassword  = "url_password"   // in an address like https://user:password@host
	Other        = "secret"         // named so, and no more is known
)

// Kind returns the kind of the credential that a variable or an option of that name holds, "" for none. A value that
// only leads to a credential, like a path or an ARN, is none.
func Kind(name, value string) string {
	if kind, _, _ := find(value); kind != "" {
		return kind
	}
	if !mayBeOne(value) {
		return ""
	}
	return kindOfName(name)
}

// mayBeOne reports whether a value may be a credential, rather than a switch or a reference to one.
func mayBeOne(value string) bool {
	for _, other := range [...]string{"true", "false", "yes", "no", "on", "off", "none", "null", "0", "1"} {
		if strings.EqualFold(value, other) {
			return false
		}
	}
	for _, reference := range [...]string{"/", "./", "~/", "@", "arn:", "file:", "http://", "https://", "$"} {
		if strings.HasPrefix(value, reference) {
			return false
		}
	}
	return value != "" && value != masked
}

// named lists the words that make a name one of a credential; of two, both one after the other.
var named = [...]struct{ word, next, kind string }{
	{"password", "", Password}, {"passwd", "", Password}, {"passphrase", "", Password}, {"pass", "", Password},
	{"passwort", "", Password}, {"pwd", "", Password}, {"pgpassword", "", Password},
	{"token", "", Token}, {"authorization", "", Token}, {"jwt", "", Token}, {"bearer", "", Token},
	{"api", "key", APIKey}, {"apikey", "", APIKey}, {"account", "key", APIKey}, {"license", "key", APIKey},
	{"access", "key", AWSAccessKey}, {"accesskey", "", AWSAccessKey},
	{"private", "key", PrivateKey}, {"privatekey", "", PrivateKey}, {"ssh", "key", PrivateKey},
	{"secret", "", Other}, {"secrets", "", Other}, {"credential", "", Other}, {"credentials", "", Other},
	{"encryption", "key", Other}, {"signing", "key", Other}, {"master", "key", Other},
}

// about lists the last words of names that are about a credential and do not hold it.
var about = [...]string{
	"file", "path", "dir", "arn", "url", "uri", "endpoint", "host", "port", "name", "length", "len", "size", "min", "max",
	"type", "ttl", "expiry", "expiration", "expires", "lifetime", "timeout", "enabled", "disabled", "policy", "header",
	"count", "version", "algorithm", "rotation", "provider", "field", "prompt", "mode", "issuer", "audience", "id", "stdin",
}

// kindOfName returns the kind of credential that a name promises.
func kindOfName(name string) (kind string) {
	if strings.EqualFold(name, "pwd") || strings.EqualFold(name, "oldpwd") { // a shell's working directory
		return ""
	}
	before := ""
	for rest := name; rest != ""; {
		var word string
		if word, rest = cutWord(rest); word == "" {
			continue
		}
		for i := range named {
			n := &named[i]
			if n.next == "" && same(word, n.word) || n.next != "" && same(word, n.next) && same(before, n.word) {
				if kind == "" || kind == Other || n.kind == AWSAccessKey {
					kind = n.kind
				}
			}
		}
		before = word
	}
	if kind == "" || kind == AWSAccessKey { // AWS_ACCESS_KEY_ID is the first half of it
		return kind
	}
	for _, word := range about {
		if same(before, word) {
			return ""
		}
	}
	return kind
}

// same compares words of ASCII.
func same(a, b string) bool { return len(a) == len(b) && strings.EqualFold(a, b) }

// cutWord cuts the first word off a name like DB_PASSWORD, db-password, db.password or dbPassword.
func cutWord(name string) (word, rest string) {
	for i := range len(name) {
		c := name[i]
		if !isAlphanumeric(c) {
			return name[:i], name[i+1:]
		}
		if i > 0 && isUpper(c) && !isUpper(name[i-1]) {
			return name[:i], name[i:]
		}
	}
	return name, ""
}

func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }

func isAlphanumeric(c byte) bool {
	return isUpper(c) || 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
}

// forms lists how values begin that are credentials whatever they are called, and how many more letters, digits and
// characters of "-_." they have at least.
var forms = [...]struct {
	prefix string
	more   int
	kind   string
}{
	{"AKIA", 16, AWSAccessKey}, {"ASIA", 16, AWSAccessKey},
	{"ghp_", 20, Token}, {"gho_", 20, Token}, {"ghs_", 20, Token}, {"ghu_", 20, Token}, {"github_pat_", 20, Token},
	{"glpat-", 20, Token}, {"npm_", 30, Token}, {"pypi-", 50, Token}, {"dckr_pat_", 20, Token},
	{"xoxb-", 10, Token}, {"xoxp-", 10, Token}, {"xapp-", 10, Token},
	{"sk_live_", 16, APIKey}, {"rk_live_", 16, APIKey}, {"AIza", 35, APIKey}, {"SG.", 40, APIKey},
	{"eyJ", 40, Token}, // a JSON web token
}

// begins has the bytes that what find looks for begins with.
var begins = [256]bool{
	':': true, '-': true, 'A': true, 'g': true, 'n': true, 'p': true, 'd': true, 'x': true, 's': true, 'r': true, 'S': true,
	'e': true,
}

// find returns the first credential in a text by its form, and where it is.
func find(text string) (kind string, start, end int) {
	for i := 0; i < len(text); i++ {
		c := text[i]
		if !begins[c] {
			continue
		}
		if c == ':' && strings.HasPrefix(text[i:], "://") {
			if start, end, ok := password(text, i+3); ok {
				return URLPassword, start, end
			}
			continue
		}
		if c == '-' && strings.HasPrefix(text[i:], "-----BEGIN ") && strings.Contains(text[i:], "PRIVATE KEY-----") {
			return PrivateKey, i, len(text)
		}
		if !isAlphanumeric(c) || i > 0 && isToken(text[i-1]) {
			continue
		}
		for _, form := range forms {
			if c != form.prefix[0] || !strings.HasPrefix(text[i:], form.prefix) {
				continue
			}
			end := i + len(form.prefix)
			for end < len(text) && isToken(text[end]) {
				end++
			}
			if end-i-len(form.prefix) >= form.more {
				return form.kind, i, end
			}
		}
	}
	return "", 0, 0
}

// isToken reports whether c may be in a token.
func isToken(c byte) bool { return isAlphanumeric(c) || c == '_' || c == '-' || c == '.' }

// password returns where the password is in what follows the "://" of an address.
func password(text string, at int) (start, end int, ok bool) {
	for i := at; i < len(text); i++ {
		switch text[i] {
		case ':':
			if start == 0 {
				start = i + 1
			}
		case '@':
			return start, i, start > 0 && i > start && text[start:i] != masked
		case '/', '?', '#', ' ', '\t', '\n', '"', '\'', 0:
			return 0, 0, false
		}
	}
	return 0, 0, false
}
