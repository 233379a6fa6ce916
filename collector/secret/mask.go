package secret

import (
	"cmp"
	"slices"
	"strings"
)

// masked stands in the place of a secret.
const masked = "***"

// Mask returns a list of arguments, each ended by a NUL byte, with "***" in the place of each secret, and whether there
// was any. If not, it returns args itself.
func Mask(args string) (string, bool) {
	first := next(args, 0)
	m := masker{text: args}
	m.know(args[:first])
	for at := first; at < len(args); {
		start := at + 1
		at = next(args, min(start, len(args)))
		m.argument(min(start, len(args)), at)
	}
	return m.result()
}

// next returns where the argument that begins at start ends.
func next(args string, start int) int {
	if n := strings.IndexByte(args[start:], 0); n >= 0 {
		return start + n
	}
	return len(args)
}

// masker goes once over a list of arguments.
type masker struct {
	text    string
	program *program // whose options are known, or nil
	expect  expected
	secrets []span
}

// span is a part of the text.
type span struct{ start, end int }

// expected is what an option says of the word after it.
type expected int

const (
	nothing expected = iota
	aSecret
	aUser   // user:secret
	aScript // a command line in one argument
)

// program is one that takes secrets in options whose names do not tell.
type program struct {
	name string // or, before a "*", how it begins
	// Options of one letter whose value is a secret, or "user:secret". Those in glued have it in the same word only.
	secret, user, glued string
}

var programs = [...]program{
	{name: "mysql*", glued: "p"}, {name: "mariadb*", glued: "p"}, {name: "7z*", glued: "p"},
	{name: "mongo*", secret: "p"}, {name: "redis-cli", secret: "a"}, {name: "sshpass", secret: "p"},
	{name: "curl", user: "uU"}, {name: "sqlcmd", secret: "P"}, {name: "ldap*", secret: "w"}, {name: "openssl", secret: "kK"},
	{name: "zip", secret: "P"}, {name: "unzip", secret: "P"},
}

// know looks for a program by its path.
func (m *masker) know(path string) {
	name := path[strings.LastIndexByte(path, '/')+1:]
	for i := range programs {
		p := &programs[i]
		if prefix, ok := strings.CutSuffix(p.name, "*"); name == p.name || ok && strings.HasPrefix(name, prefix) {
			m.program = p
			return
		}
	}
}

// argument finds the secrets in one argument.
func (m *masker) argument(start, end int) {
	script := m.expect == aScript
	if script {
		m.expect = nothing
		m.words(start, end)
	} else {
		m.word(start, end)
	}
	m.assignments(start, end, script)
	m.forms(start, end)
}

// words finds secrets in the words of a command line.
func (m *masker) words(start, end int) {
	for at := start; at < end; {
		if strings.IndexByte(" \t\n;|&()", m.text[at]) >= 0 {
			at++
			continue
		}
		from, to := at, at
		if c := m.text[at]; c == '"' || c == '\'' {
			from++
			to = m.until(from, end, string(c))
			at = to + 1
		} else {
			to = m.until(at, end, " \t\n;|&()")
			at = to
		}
		m.know(m.text[from:to])
		m.word(from, to)
	}
}

// until returns where the first of some characters is, or end.
func (m *masker) until(start, end int, any string) int {
	if n := strings.IndexAny(m.text[start:end], any); n >= 0 {
		return start + n
	}
	return end
}

// word finds a secret that the word before announced, or what it announces itself.
func (m *masker) word(start, end int) {
	word, expect := m.text[start:end], m.expect
	m.expect = nothing
	option := len(word) > 1 && word[0] == '-'
	switch {
	case option:
		m.option(start, end)
	case expect == aSecret && mayBeOne(word):
		m.add(start, end)
	case expect == aUser:
		if colon := strings.IndexByte(word, ':'); colon >= 0 {
			m.add(start+colon+1, end)
		}
	}
}

// option finds what an option has, or announces.
func (m *masker) option(start, end int) {
	word := m.text[start:end]
	letter, rest := word[1:2], word[2:]
	switch p := m.program; {
	case p != nil && rest != "" && strings.Contains(p.glued+p.secret, letter) && letter != "-":
		m.add(start+2, end)
	case p != nil && rest == "" && strings.Contains(p.secret, letter):
		m.expect = aSecret
	case p != nil && (rest == "" && strings.Contains(p.user, letter) || p.user != "" && word == "--user"):
		m.expect = aUser
	case p != nil && rest != "" && strings.Contains(p.user, letter):
		if colon := strings.IndexByte(word, ':'); colon >= 0 {
			m.add(start+colon+1, end)
		}
	case letter != "-" && strings.HasSuffix(word, "c") && strings.Trim(word[1:], "abcefilx") == "": // sh -c, bash -lc
		m.expect = aScript
	case !strings.ContainsAny(word, "=/") && kindOfName(strings.TrimLeft(word, "-")) != "":
		m.expect = aSecret
	}
}

// assignments finds the values of what is named like a secret: NAME=value, --name=value, ?name=value&, "name": "value",
// Name: value.
func (m *masker) assignments(start, end int, script bool) {
	for i := start; i < end; i++ {
		if c := m.text[i]; c != '=' && c != ':' {
			continue
		}
		name := m.nameBefore(start, i)
		if kindOfName(strings.TrimPrefix(m.text[name.start:name.end], "-D")) == "" { // java -Dname=value
			continue
		}
		v := m.valueAfter(i, end, script || strings.ContainsAny(m.text[start:name.start], " \t\n?&{,;'\""))
		if v.start < v.end && mayBeOne(m.text[v.start:v.end]) {
			m.add(v.start, v.end)
			i = v.end - 1
		}
	}
}

// nameBefore returns the name that ends before a separator.
func (m *masker) nameBefore(start, at int) span {
	end := at
	if end > start && (m.text[end-1] == '"' || m.text[end-1] == '\'') {
		end--
	}
	begin := end
	for begin > start && isToken(m.text[begin-1]) {
		begin--
	}
	return span{begin, end}
}

// valueAfter returns the value behind a separator: up to the end of the argument, or, inside of more, of the word.
func (m *masker) valueAfter(separator, end int, inside bool) span {
	start := separator + 1
	header := false
	for m.text[separator] == ':' && start < end && m.text[start] == ' ' {
		start, header = start+1, true
	}
	if start < end && (m.text[start] == '"' || m.text[start] == '\'') {
		return span{start + 1, m.until(start+1, end, m.text[start:start+1])}
	}
	switch {
	case header:
		for _, scheme := range [...]string{"Bearer ", "Basic ", "Token "} {
			if n := len(scheme); end-start > n && strings.EqualFold(m.text[start:start+n], scheme) {
				start += n
			}
		}
		return span{start, m.until(start, end, "\"'\r\n,}")}
	case inside:
		return span{start, m.until(start, end, " \t\r\n\"'&;,})|")}
	}
	return span{start, end}
}

// forms finds what is a secret by its form.
func (m *masker) forms(start, end int) {
	for start < end {
		kind, from, to := find(m.text[start:end])
		if kind == "" {
			return
		}
		m.add(start+from, start+to)
		start += to
	}
}

func (m *masker) add(start, end int) {
	if start < end {
		m.secrets = append(m.secrets, span{start, end})
	}
}

// result returns the text without its secrets.
func (m *masker) result() (string, bool) {
	if len(m.secrets) == 0 {
		return m.text, false
	}
	slices.SortFunc(m.secrets, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	var out strings.Builder
	done := 0
	for _, s := range m.secrets {
		if s.start >= done {
			out.WriteString(m.text[done:s.start])
			out.WriteString(masked)
		}
		done = max(done, s.end)
	}
	out.WriteString(m.text[done:])
	return out.String(), true
}
