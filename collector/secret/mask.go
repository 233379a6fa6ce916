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
	m.starter = starts(args[:first])
	m.assignments(0, first, false) // some programs write all they like there
	m.forms(0, first)
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
	verb    *program // whose options will be known after its verb, or nil
	starter bool     // the first argument is a program that starts another, which any later argument may name
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
	verb                string // the options are so only after this word
}

var programs = [...]program{
	{name: "mysql*", glued: "p"}, {name: "mariadb*", glued: "p"}, {name: "7z*", glued: "p"},
	{name: "mongo*", secret: "p"}, {name: "redis-cli", secret: "a"}, {name: "sshpass", secret: "p"},
	{name: "curl", user: "uU"}, {name: "sqlcmd", secret: "P"}, {name: "ldap*", secret: "w"}, {name: "openssl", secret: "kK"},
	{name: "zip", secret: "P"}, {name: "unzip", secret: "P"}, {name: "useradd", secret: "p"}, {name: "usermod", secret: "p"},
	{name: "ssh-keygen", secret: "NP"}, {name: "smbclient", user: "U"},
	{name: "docker", verb: "login", secret: "p"}, {name: "podman", verb: "login", secret: "p"},
	{name: "nerdctl", verb: "login", secret: "p"}, {name: "helm", verb: "login", secret: "p"},
	{name: "az", verb: "login", secret: "p"},
}

// starters are programs that start another, with the arguments that follow.
var starters = [...]string{
	"docker", "podman", "nerdctl", "kubectl", "sudo", "doas", "su", "runuser", "env", "nohup", "timeout", "nice", "ionice",
	"setsid", "xargs", "chroot", "nsenter", "unshare", "ssh", "watch", "time", "strace", "busybox", "tini", "dumb-init",
}

func starts(path string) bool { return slices.Contains(starters[:], baseName(path)) }

func baseName(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// know looks for a program by its path.
func (m *masker) know(path string) {
	name := baseName(path)
	for i := range programs {
		p := &programs[i]
		if prefix, ok := strings.CutSuffix(p.name, "*"); name == p.name || ok && strings.HasPrefix(name, prefix) {
			m.program, m.verb = p, nil
			if p.verb != "" {
				m.program, m.verb = nil, p
			}
			return
		}
	}
}

// argument finds the secrets in one argument.
func (m *masker) argument(start, end int) {
	script := m.expect == aScript
	// What has blanks may be a command line for another host's shell, or one value.
	if script || m.starter && m.expect == nothing && strings.IndexByte(m.text[start:end], ' ') >= 0 {
		m.expect = nothing
		m.words(start, end, 0)
	} else {
		m.word(start, end)
	}
	m.assignments(start, end, script)
	m.forms(start, end)
}

// maxDepth is how deep command lines within command lines are looked into.
const maxDepth = 4

// words finds secrets in the words of a command line.
func (m *masker) words(start, end, depth int) {
	for at := start; at < end; {
		if strings.IndexByte(blanks, m.text[at]) >= 0 {
			at++
			continue
		}
		from, to := at, wordEnd(m.text, at, end)
		at = to
		if c := m.text[from]; to-from > 1 && (c == '"' || c == '\'') && m.text[to-1] == c {
			from, to = from+1, to-1
		}
		script := m.expect == aScript || m.expect == nothing && strings.IndexByte(m.text[from:to], ' ') >= 0
		if script && depth < maxDepth {
			m.expect = nothing
			m.words(from, to, depth+1)
			continue
		}
		m.know(m.text[from:to])
		m.word(from, to)
	}
}

// word finds a secret that the word before announced, or what it announces itself.
func (m *masker) word(start, end int) {
	word, expect := m.text[start:end], m.expect
	m.expect = nothing
	option := len(word) > 1 && word[0] == '-'
	switch {
	case m.verb != nil && word == m.verb.verb:
		m.program, m.verb = m.verb, nil
	case option:
		m.option(start, end)
	case expect == aSecret && mayBeOne(word) && !isMapping(word):
		m.add(start, end)
	case expect == aUser:
		if colon := strings.IndexAny(word, ":%"); colon >= 0 {
			m.add(start+colon+1, end)
		}
	case m.starter:
		m.know(word)
	}
}

// isMapping reports whether a word maps ports, like 127.0.0.1:8080:80: -p means different things.
func isMapping(word string) bool {
	return strings.IndexByte(word, ':') > 0 && strings.Trim(word, "0123456789.:") == ""
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
		if colon := strings.IndexAny(word, ":%"); colon >= 0 {
			m.add(start+colon+1, end)
		}
	case letter != "-" && strings.HasSuffix(word, "c") && strings.Trim(word[1:], "abcefilpuvx") == "": // sh -c, bash -lc
		m.expect = aScript
	case !strings.ContainsAny(word, "=:/") && kindOfName(strings.TrimLeft(word, "-")) != "":
		m.expect = aSecret
	}
}

// assignments finds the values of what is named like a secret: NAME=value, --name=value, ?name=value&, "name": "value",
// Name: value.
func (m *masker) assignments(start, end int, script bool) {
	in := argument{text: m.text, start: start, end: end, script: script}
	for i := start; i < end; i++ {
		if c := m.text[i]; c != '=' && c != ':' {
			continue
		}
		if a, ok := in.assignmentAt(i); ok {
			m.add(a.value.start, a.value.end)
			i = a.value.end - 1
		}
	}
}

// argument is a part of a text that is searched for assignments, from its start to its end. However it was made, that
// takes a time that grows with its length only: what an earlier look told is remembered.
type argument struct {
	text       string
	start, end int
	script     bool // it is a command line
	// lone is up to where nothing shows that there is more in it than one assignment.
	lone          int
	header, value stop
}

// stop is where a value ends that is behind all that has been looked at.
type stop struct{ at int }

// from is unescaped for a start that no backslash is before.
func (s *stop) from(text string, start, end int, any string) int {
	if s.at < start {
		s.at = unescaped(text, start, end, any)
	}
	return s.at
}

// inside reports whether something before a place shows that there is more in the argument than one assignment.
func (a *argument) inside(at int) bool {
	if a.lone == 0 {
		a.lone = a.end
		if n := strings.IndexAny(a.text[a.start:a.end], " \t\n?&{,;'\""); n >= 0 {
			a.lone = a.start + n
		}
	}
	return a.lone < at
}

// assignment is a name, and the value that it has.
type assignment struct{ name, value span }

// assignmentAt returns the assignment of a secret that the separator at one place of an argument makes, if it is one.
func (a *argument) assignmentAt(separator int) (found assignment, ok bool) {
	found.name = nameBefore(a.text, a.start, separator)
	name := a.text[found.name.start:found.name.end]
	if kindOfName(name) == "" && (len(name) < 3 || name[0] != '-' || kindOfName(name[2:]) == "") { // java -Dname=value
		return found, false
	}
	before := a.text[a.start:found.name.start]
	if a.text[separator] == ':' && strings.HasSuffix(before, ":") { // arn:aws:secretsmanager:eu-central-1:1:secret:name
		return found, false
	}
	found.value = a.valueAfter(separator, a.script || a.inside(found.name.start))
	return found, found.value.start < found.value.end && mayBeOne(a.text[found.value.start:found.value.end])
}

// nameBefore returns the name that ends before a separator.
func nameBefore(text string, start, at int) span {
	end := at
	if end > start && (text[end-1] == '"' || text[end-1] == '\'') {
		end--
	}
	begin := end
	for begin > start && isToken(text[begin-1]) {
		begin--
	}
	return span{begin, end}
}

// valueAfter returns the value behind a separator: up to the end of the argument, or, inside of more, of the word.
func (a *argument) valueAfter(separator int, inside bool) span {
	text, end := a.text, a.end
	start := separator + 1
	header := false
	for text[separator] == ':' && start < end && text[start] == ' ' {
		start, header = start+1, true
	}
	switch {
	case start < end && (text[start] == '"' || text[start] == '\''):
		closing := unescaped(text, start+1, end, text[start:start+1])
		if a.script && closing+1 < wordEnd(text, start, end) { // 'it goes'" on"
			return span{start, wordEnd(text, start, end)}
		}
		return span{start + 1, closing}
	case header:
		for _, scheme := range [...]string{"Bearer ", "Basic ", "Token "} {
			if n := len(scheme); end-start > n && strings.EqualFold(text[start:start+n], scheme) {
				start += n
			}
		}
		return span{start, a.header.from(text, start, end, "\"'\r\n,}")}
	case inside:
		return span{start, a.value.from(text, start, end, " \t\r\n\"'&;,})|")}
	}
	return span{start, end}
}

// unescaped returns where the first of some characters is that no backslash is before, or end.
func unescaped(text string, start, end int, any string) int {
	for i := start; i < end; i++ {
		if text[i] == '\\' {
			i++
		} else if strings.IndexByte(any, text[i]) >= 0 {
			return i
		}
	}
	return end
}

// wordEnd returns where a shell's word ends that begins at start.
func wordEnd(text string, start, end int) int {
	quote := byte(0)
	for i := start; i < end; i++ {
		switch c := text[i]; {
		case c == '\\' && quote != '\'':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case strings.IndexByte(blanks, c) >= 0:
			return i
		}
	}
	return end
}

// blanks are what ends a word of a command line.
const blanks = " \t\n;|&()"

// forms finds what is a secret by its form.
func (m *masker) forms(start, end int) {
	f := finder{text: m.text[start:end]}
	for {
		kind, from, to := f.next()
		if kind == "" {
			return
		}
		m.add(start+from, start+to)
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
