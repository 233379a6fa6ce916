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
	f := finder{text: value}
	if kind, _, _ := f.next(); kind != "" {
		return kind
	}
	if mayBeOne(value) {
		if kind := kindOfName(name); kind != "" {
			return kind
		}
	}
	return kindWithin(value)
}

// kindWithin returns the kind of the first credential that a value assigns to a name, as in "Server=db;Password=x".
func kindWithin(value string) string {
	in := argument{text: value, end: len(value), script: true}
	for i := range len(value) {
		if c := value[i]; c != '=' && c != ':' {
			continue
		}
		if a, ok := in.assignmentAt(i); ok {
			return kindOfName(value[a.name.start:a.name.end])
		}
	}
	return ""
}

// mayBeOne reports whether a value may be a credential, rather than a switch or a reference to one.
func mayBeOne(value string) bool {
	for _, other := range [...]string{"true", "false", "yes", "no", "on", "off", "none", "null", "0", "1"} {
		if same(value, other) {
			return false
		}
	}
	return value != "" && value != masked && !isReference(value)
}

// isReference reports whether a value leads to a credential that is elsewhere. Passwords may begin with any character,
// and the keys of AWS with a slash: one alone makes no path, unless what was in it is masked already.
func isReference(value string) bool {
	switch value[0] {
	case '/':
		return strings.IndexByte(value[1:], '/') >= 0 && !isRandom(value) || strings.Contains(value, masked)
	case '.', '~', '@':
		rest := value[1:]
		return rest != "" && (rest[0] == '/' || value[0] == '.' && strings.HasPrefix(rest, "./") || rest == "-")
	case '$':
		return isVariable(value[1:])
	}
	for _, scheme := range [...]string{"arn:", "file:", "http://", "https://"} {
		if strings.HasPrefix(value, scheme) {
			return true
		}
	}
	return false
}

// isRandom reports whether a value is, or begins with, a row of letters of either case and digits as nobody would call
// a file.
func isRandom(value string) bool {
	const most = 128 // bytes that are looked at
	var upper, lower, digit bool
	for i := range min(len(value), most) {
		switch c := value[i]; {
		case isUpper(c):
			upper = true
		case 'a' <= c && c <= 'z':
			lower = true
		case '0' <= c && c <= '9':
			digit = true
		case c != '/' && c != '+' && c != '=':
			return false
		}
	}
	return upper && lower && digit && len(value) >= 20
}

// isVariable reports whether what follows a dollar sign is a variable's name, or something else for a shell to fill in.
func isVariable(name string) bool {
	if name == "" || name[0] == '{' || name[0] == '(' {
		return name != ""
	}
	for i := range len(name) {
		if c := name[i]; !isUpper(c) && c != '_' && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// credentialName is a word that makes a name one of a credential, or two, one after the other. With longer, it also ends
// longer words, like "dbpassword".
type credentialName struct {
	before, word string
	longer       bool
	kind         string
}

// named lists them by the last letter.
var named = ['z' + 1][]credentialName{
	'a': {{"auth", "data", false, Token}},
	'd': {
		{"", "password", true, Password}, {"", "passwd", true, Password}, {"", "pwd", false, Password},
	},
	'e': {
		{"", "passphrase", true, Password}, {"", "cookie", false, Token}, {"", "signature", false, Other},
	},
	'g': {{"", "sig", false, Other}},
	'h': {
		{"", "masterauth", false, Password}, {"redis", "auth", false, Password}, {"rediscli", "auth", false, Password},
		{"basic", "auth", false, Password},
	},
	'l': {{"", "credential", true, Other}},
	'n': {{"", "token", true, Token}, {"", "authorization", false, Token}},
	'r': {{"", "bearer", false, Token}},
	's': {
		{"", "pass", false, Password}, {"", "dbpass", false, Password}, {"", "userpass", false, Password},
		{"", "requirepass", false, Password}, {"", "secrets", false, Other}, {"", "credentials", true, Other},
	},
	't': {
		{"", "passwort", true, Password}, {"", "jwt", false, Token}, {"", "secret", true, Other},
	},
	'w': {{"", "pw", false, Password}},
	'y': {
		{"access", "key", false, AWSAccessKey}, {"", "accesskey", true, AWSAccessKey},
		{"api", "key", false, APIKey}, {"", "apikey", true, APIKey}, {"account", "key", false, APIKey},
		{"license", "key", false, APIKey}, {"storage", "key", false, APIKey}, {"shared", "key", false, APIKey},
		{"consumer", "key", false, APIKey}, {"service", "key", false, APIKey}, {"auth", "key", false, Token},
		{"private", "key", false, PrivateKey}, {"", "privatekey", true, PrivateKey}, {"ssh", "key", false, PrivateKey},
		{"deploy", "key", false, PrivateKey}, {"", "secretkey", true, Other}, {"encryption", "key", false, Other},
		{"signing", "key", false, Other}, {"master", "key", false, Other},
	},
}

// is reports whether a word, with the one before it, is the name.
func (n *credentialName) is(before, word string) bool {
	more := len(word) - len(n.word)
	return more >= 0 && (more == 0 || n.longer) && strings.EqualFold(word[more:], n.word) &&
		(n.before == "" || same(before, n.before))
}

// about lists the last words of names that are about a credential and do not hold it.
var about = [...]string{
	"file", "path", "dir", "arn", "url", "uri", "endpoint", "host", "port", "name", "length", "len", "size", "min", "max",
	"type", "ttl", "expiry", "expiration", "expires", "lifetime", "timeout", "enabled", "disabled", "policy", "header",
	"count", "version", "algorithm", "rotation", "provider", "field", "prompt", "mode", "issuer", "audience", "id", "stdin",
	"jar", "domain",
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
		names := named[word[len(word)-1]|0x20] // a letter's lower case
		for i := range names {
			if n := &names[i]; n.is(before, word) && (kind == "" || kind == Other || n.kind == AWSAccessKey) {
				kind = n.kind
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

// form is how values begin that are credentials whatever they are called, and how many more letters, digits and
// characters of "-_." they have at least.
type form struct {
	prefix string
	more   int
	kind   string
}

// forms lists them by their first letter.
var forms = ['z' + 1][]form{
	'A': {
		{"AKIA", 16, AWSAccessKey}, {"ASIA", 16, AWSAccessKey}, {"AIza", 35, APIKey}, {"AGE-SECRET-KEY-", 20, PrivateKey},
	},
	'S': {{"SG.", 40, APIKey}},
	'd': {{"dckr_pat_", 20, Token}, {"dop_v1_", 20, Token}},
	'e': {{"eyJ", 40, Token}}, // a JSON web token
	'g': {
		{"ghp_", 20, Token}, {"gho_", 20, Token}, {"ghs_", 20, Token}, {"ghu_", 20, Token}, {"ghr_", 20, Token},
		{"github_pat_", 20, Token}, {"glpat-", 20, Token},
	},
	'h': {{"hvs.", 20, Token}},
	'n': {{"npm_", 30, Token}},
	'p': {{"pypi-", 50, Token}},
	'r': {{"rk_live_", 16, APIKey}},
	's': {{"sk_live_", 16, APIKey}, {"sk_test_", 16, APIKey}, {"sk-", 32, APIKey}, {"shpat_", 20, Token}},
	'w': {{"whsec_", 16, APIKey}},
	'x': {
		{"xoxb-", 10, Token}, {"xoxp-", 10, Token}, {"xoxa-", 10, Token}, {"xoxr-", 10, Token}, {"xapp-", 10, Token},
	},
}

// finder finds credentials in a text by their forms. However the text was made, it takes a time that grows with its
// length only: what an earlier look told is remembered.
type finder struct {
	text  string
	at    int  // where to go on
	quiet int  // up to here, no address has a password
	noKey bool // there is no private key further on
	word  word // of the last address for a driver
}

// next returns the next credential, and where it is.
func (f *finder) next() (kind string, start, end int) {
	text := f.text
	for i := f.at; i < len(text); i++ {
		kind = ""
		switch c := text[i]; {
		case c == ':' && i >= f.quiet && strings.HasPrefix(text[i:], "://"):
			var searched int
			if start, end, searched = password(text, i+3); isPassword(text, start, end) {
				kind = URLPassword
			} else {
				f.quiet = searched
			}
		case c == '@':
			var ok bool
			if start, end, ok = f.word.driverPassword(text, i); ok {
				kind = URLPassword
			}
		case c == '-' && !f.noKey && strings.HasPrefix(text[i:], "-----BEGIN "):
			if f.noKey = !strings.Contains(text[i:], "PRIVATE KEY-----"); !f.noKey {
				kind, start, end = PrivateKey, i, len(text)
			}
		case c <= 'z' && forms[c] != nil && (i == 0 || !isToken(text[i-1])):
			kind, end = formAt(text, i)
			start = i
		}
		if kind != "" {
			f.at, f.word = end, word{start: end, searched: end, colon: -1}
			return kind, start, end
		}
	}
	f.at = len(text)
	return "", 0, 0
}

// formAt returns the kind of the credential that begins at a place of a text by its form, and where it ends.
func formAt(text string, start int) (kind string, end int) {
	for _, form := range forms[text[start]] {
		if !strings.HasPrefix(text[start:], form.prefix) {
			continue
		}
		begin := start + len(form.prefix)
		end := begin
		for end < len(text) && isToken(text[end]) {
			end++
		}
		if end-begin >= form.more {
			return form.kind, end
		}
	}
	return "", 0
}

// isToken reports whether c may be in a token.
func isToken(c byte) bool { return isAlphanumeric(c) || c == '_' || c == '-' || c == '.' }

// password returns where the password is in what follows the "://" of an address, if it is one by isPassword, and how far
// the text was searched: if it is none, no address before there has one. It may have characters that an address should
// escape; what is a port has none behind it.
func password(text string, at int) (start, end, searched int) {
	for i := at; i < len(text); i++ {
		switch text[i] {
		case ':':
			if start == 0 {
				start = i + 1
			}
		case '@':
			end = i
		case '/', '?', '#':
			if start == 0 || end > start || isPort(text[start:i]) {
				return start, end, i
			}
		case ' ', '\t', '\r', '\n', '"', '\'', 0:
			return start, end, i
		}
	}
	return start, end, len(text)
}

func isPassword(text string, start, end int) bool {
	return start > 0 && end > start && text[start:end] != masked
}

func isPort(text string) bool {
	return text != "" && len(text) <= 5 && strings.Trim(text, "0123456789") == ""
}

// word is a part of a text without blanks, quotes and "=".
type word struct {
	start    int
	searched int // how far it was searched for its end and its colon
	colon    int // the first one; -1 when there is none so far
}

// driverPassword returns where the password is before an "@" in an address such as Go's database drivers take:
// user:password@tcp(host:3306)/name.
func (w *word) driverPassword(text string, at int) (start, end int, ok bool) {
	if rest := text[at+1:]; !strings.HasPrefix(rest, "tcp(") && !strings.HasPrefix(rest, "unix(") {
		return 0, 0, false
	}
	if n := strings.LastIndexAny(text[w.searched:at], " \t\r\n\"'=\x00"); n >= 0 || w.searched == 0 {
		*w = word{start: w.searched + n + 1, searched: w.searched + n + 1, colon: -1}
	}
	if n := strings.IndexByte(text[w.searched:at], ':'); w.colon < 0 && n >= 0 {
		w.colon = w.searched + n
	}
	w.searched = at
	return w.colon + 1, at, w.colon >= 0 && isPassword(text, w.colon+1, at)
}
