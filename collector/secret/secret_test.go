package secret

import (
	"strings"
	"testing"
)

func TestKind(t *testing.T) {
	const token = "c2VjcmV0IHZhbHVl"
	for _, test := range []struct{ name, value, want string }{
		{"DB_PASSWORD", "hunter2", Password}, {"db-password", "hunter2", Password}, {"dbPassword", "hunter2", Password},
		{"MYSQL_ROOT_PASSWORD", "x", Password}, {"PGPASSWORD", "x", Password}, {"REDIS_PASS", "x", Password},
		{"GITHUB_TOKEN", token, Token}, {"API_KEY", token, APIKey}, {"STRIPE_APIKEY", token, APIKey},
		{"AWS_SECRET_ACCESS_KEY", "wJalr", AWSAccessKey}, {"AWS_ACCESS_KEY_ID", "whatever", AWSAccessKey},
		{"AWS_SESSION_TOKEN", token, Token}, {"CLIENT_SECRET", token, Other}, {"DJANGO_SECRET_KEY", token, Other},
		{"SSH_PRIVATE_KEY", token, PrivateKey}, {"SIGNING_KEY", token, Other},
		{"WHATEVER", "AKIAIOSFODNN7EXAMPLE", AWSAccessKey}, {"X", "ghp_0123456789abcdefghijklmnopqrstuvwxyz", Token},
		{"DATABASE_URL", "postgres://shop:hunter2@db:5432/shop", URLPassword},
		{"TLS", "-----BEGIN RSA PRIVATE KEY-----\nMIIE", PrivateKey},
		{"J", "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc", Token},

		{"AWS_SECRET_ACCESS_KEY", "/JalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", AWSAccessKey}, {"DB_PASSWORD", "/hunter2", Password},
		{"DB_PASSWORD", "$ecret", Password}, {"DB_PASSWORD", "@home", Password}, {"DB_PASSWORD", "~hunter", Password},
		{"dbpassword", "hunter2", Password}, {"CLIENTSECRET", token, Other}, {"REDISCLI_AUTH", "hunter2", Password},
		{"DATABASE_URL", "postgres://shop:hun@ter2@db/shop", URLPassword}, {"REDIS_URL", "redis://:hun/ter2@db/0", URLPassword},
		{"DSN", "shop:hunter2@tcp(db:3306)/shop", URLPassword}, {"X", "Server=db;User Id=sa;Password=hunter2;", Password},
		{"X", `{"user":"me","api_key":"hunter2"}`, APIKey}, {"OPENAI", "sk-0123456789abcdefghijklmnopqrstuvwxyz", APIKey},

		{"DB_PASSWORD", "$DB_PASSWORD", ""}, {"DB_PASSWORD", "${PASSWORD}", ""}, {"DB_PASSWORD", "./password", ""},
		{"REGISTRY", "https://registry:5000/@scope/name", ""}, {"X", "Server=db;Password=;", ""}, {"SECRETARY", "me", ""},
		{"PWD", "/root", ""}, {"OLDPWD", "x", ""}, {"PATH", "/bin", ""}, {"HOSTNAME", "web", ""}, {"KEYBOARD", "us", ""},
		{"DB_PASSWORD_FILE", "/run/secrets/db", ""}, {"DB_PASSWORD", "/run/secrets/db", ""}, {"DB_PASSWORD", "", ""},
		{"PASSWORD_MIN_LENGTH", "8", ""}, {"TOKEN_URL", "https://idp/token", ""}, {"USE_TOKEN", "true", ""},
		{"SECRET_ARN", "arn:aws:secretsmanager:eu-central-1:1:secret:x", ""}, {"COMPASS", "north", ""},
		{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/1", ""}, {"BYPASS", "1x", ""},
		{"DATABASE_URL", "postgres://shop@db:5432/shop", ""}, {"TIME", "12:34:56@host", ""}, {"ACCESS_LOG", "on!", ""},
		{"SECRET", "***", ""},
	} {
		if got := Kind(test.name, test.value); got != test.want {
			t.Errorf("%s=%s is %q, want %q", test.name, test.value, got, test.want)
		}
	}
}

// args joins arguments that are written with "|" between them.
func args(s string) string { return strings.ReplaceAll(s, "|", "\x00") + "\x00" }

func TestMask(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"docker|run|-e|DB_PASSWORD=hunter2|shop", "docker|run|-e|DB_PASSWORD=***|shop"},
		{"docker|run|-e|DB_PASSWORD=two words|shop", "docker|run|-e|DB_PASSWORD=***|shop"},
		{"docker|run|--env=DB_PASSWORD=two words|shop", "docker|run|--env=DB_PASSWORD=***|shop"},
		{"app|--password|hunter2|--user|me", "app|--password|***|--user|me"},
		{"app|--password|two words|x", "app|--password|***|x"},
		{"app|--password=hunter2|x", "app|--password=***|x"},
		{"app|--password|--user|me", "app|--password|--user|me"},
		{"app|--password-stdin|x", "app|--password-stdin|x"},
		{"app|--token-file|/x", "app|--token-file|/x"},
		{"java|-Ddb.password=hunter2|-jar|x", "java|-Ddb.password=***|-jar|x"},
		{"java|-Dpassword=hunter2|-jar|x", "java|-Dpassword=***|-jar|x"},
		{"/usr/bin/mysql|-uroot|-phunter2|shop", "/usr/bin/mysql|-uroot|-p***|shop"},
		{"mysqldump|-p|shop", "mysqldump|-p|shop"},
		{"redis-cli|-a|hunter2|ping", "redis-cli|-a|***|ping"},
		{"sshpass|-phunter2|ssh|h", "sshpass|-p***|ssh|h"},
		{"curl|-u|me:hunter2|https://h/", "curl|-u|me:***|https://h/"},
		{"curl|-ume:hunter2|https://h/", "curl|-ume:***|https://h/"},
		{"curl|--user|me:hunter2|https://h/", "curl|--user|me:***|https://h/"},
		{"curl|-H|Authorization: Bearer abc.def|https://h/", "curl|-H|Authorization: Bearer ***|https://h/"},
		{"curl|-H|X-Api-Key: abc def|x", "curl|-H|X-Api-Key: ***|x"},
		{`curl|-d|{"user":"me","password": "hun ter2"}|x`, `curl|-d|{"user":"me","password": "***"}|x`},
		{"curl|https://h/p?token=abc&x=1", "curl|https://h/p?token=***&x=1"},
		{"psql|postgres://shop:hunter2@db/shop", "psql|postgres://shop:***@db/shop"},
		{"git|clone|https://me:ghp_0123456789abcdefghijklmnopqrstuvwxyz@h/r", "git|clone|https://me:***@h/r"},
		{"aws|configure|set|x|AKIAIOSFODNN7EXAMPLE", "aws|configure|set|x|***"},
		{"sh|-c|PGPASSWORD=hunter2 psql -h db", "sh|-c|PGPASSWORD=*** psql -h db"},
		{"bash|-lc|mysql -uroot -phunter2 shop; app --password 'two words' x", "bash|-lc|mysql -uroot -p*** shop; app --password '***' x"},
		{"sh|-c|curl -H 'Authorization: Bearer abc' h && echo", "sh|-c|curl -H 'Authorization: Bearer ***' h && echo"},
		{"mount|-o|user=me,password=x,ro|//h/s|/m", "mount|-o|user=me,password=***,ro|//h/s|/m"},
		{"openssl|enc|-pass|pass:hunter2", "openssl|enc|-pass|***"},
		{"openssl|enc|-passin|pass:hunter2", "openssl|enc|-passin|pass:***"},

		{"docker|run|-edbpassword=hunter2|-e|X=y|shop", "docker|run|-edbpassword=***|-e|X=y|shop"},
		{"docker|run|-e|AWS_SECRET_ACCESS_KEY=/JalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY|x",
			"docker|run|-e|AWS_SECRET_ACCESS_KEY=***|x"},
		{"docker|run|-e|DSN=shop:hunter2@tcp(db:3306)/shop|x", "docker|run|-e|DSN=shop:***@tcp(db:3306)/shop|x"},
		{"docker|run|-e|URL=redis://:hun/t@er2@db/0|x", "docker|run|-e|URL=redis://:***@db/0|x"},
		{"docker|login|-u|me|-p|hunter2|registry", "docker|login|-u|me|-p|***|registry"},
		{"docker|run|--label|com.example/db.password=hunter2|x", "docker|run|--label|com.example/db.password=***|x"},
		{"app|--requirepass|hunter2", "app|--requirepass|***"},
		{"app|mongodb://a:x@h1,h2/d|amqp://a:x@h,amqp://b:y@h", "app|mongodb://a:***@h1,h2/d|amqp://a:***@h,amqp://b:***@h"},
		{"curl|https://b.s3.amazonaws.com/k?X-Amz-Signature=0af1&x=1", "curl|https://b.s3.amazonaws.com/k?X-Amz-Signature=***&x=1"},
		{`sh|-euc|mysql -p'two words' x; PGPASSWORD=a\ b psql; DB_PASSWORD='it'"s" app`,
			`sh|-euc|mysql -p*** x; PGPASSWORD=*** psql; DB_PASSWORD=*** app`},
		{`curl|-d|{"password":"hun\"ter2","x":1}`, `curl|-d|{"password":"***","x":1}`},
		{"smbclient|-U|me%hunter2|//h/s", "smbclient|-U|me%***|//h/s"},
		{"redis-server --requirepass=hunter2|x", "redis-server --requirepass=***|x"},

		{"docker|exec|web|mysql|-uroot|-phunter2", "docker|exec|web|mysql|-uroot|-p***"},
		{"docker|exec|web|sh|-c|PGPASSWORD=hunter2 psql -h db", "docker|exec|web|sh|-c|PGPASSWORD=*** psql -h db"},
		{"docker|run|-e|DB_PASSWORD=two words|redis|redis-cli|-a|hunter2", "docker|run|-e|DB_PASSWORD=***|redis|redis-cli|-a|***"},
		{"sudo|-u|me|curl|-u|me:hunter2|h", "sudo|-u|me|curl|-u|me:***|h"},
		{"ssh|h|cd /x && mysql -phunter2 shop", "ssh|h|cd /x && mysql -p*** shop"},
		{`sh|-c|ssh h "bash -c 'mysql -phunter2'"; redis-cli -a hunter2`, `sh|-c|ssh h "bash -c 'mysql -p***'"; redis-cli -a ***`},

		{"docker|run|--name|mongo|-p|27017:27017|mongo", "docker|run|--name|mongo|-p|27017:27017|mongo"},
		{"docker|exec|web|grep|-r|password|/etc", "docker|exec|web|grep|-r|password|/etc"},
		{"docker|run|-p|8080:80|login", "docker|run|-p|8080:80|login"},
		{"aws|get-secret-value|--secret-id|arn:aws:secretsmanager:eu-central-1:1:secret:shop/db",
			"aws|get-secret-value|--secret-id|arn:aws:secretsmanager:eu-central-1:1:secret:shop/db"},
		{"npm|view|http://registry:4873/@scope/name", "npm|view|http://registry:4873/@scope/name"},
		{"docker|run|-p|8080:80|shop", "docker|run|-p|8080:80|shop"},
		{"ssh|-p|2222|me@host", "ssh|-p|2222|me@host"},
		{"ls|-l|/run/secrets", "ls|-l|/run/secrets"},
		{"tar|-xpf|x", "tar|-xpf|x"},
		{"grep|-r|password|/etc", "grep|-r|password|/etc"},
		{"app|DB_PASSWORD=***|--password|***", "app|DB_PASSWORD=***|--password|***"},
		{"systemctl|stop|password.service", "systemctl|stop|password.service"},
		{"", ""},
	} {
		in, want := args(test.in), args(test.want)
		got, any := Mask(in)
		if got != want || any != (in != want) {
			t.Errorf("%s\n got %s\nwant %s (any %v)", test.in, strings.ReplaceAll(got, "\x00", "|"), test.want, any)
		}
	}
}

// What is listed under another letter is never found.
func TestTables(t *testing.T) {
	for letter, list := range forms {
		for _, form := range list {
			if form.prefix[0] != byte(letter) {
				t.Errorf("form %s is under %c", form.prefix, letter)
			}
		}
	}
	for letter, list := range named {
		for _, n := range list {
			if n.word[len(n.word)-1] != byte(letter) {
				t.Errorf("name %s is under %c", n.word, letter)
			}
		}
	}
}

// Laws: nothing panics, as many arguments come out as went in, and what is masked once is masked.
func FuzzMask(f *testing.F) {
	f.Add(args("sh|-c|curl -u me:x --token 'a b' https://a:b@c?token=d|--password|AKIAIOSFODNN7EXAMPLE"))
	f.Add(args("mysql|-px|{\"api_key\": \"x\"}|-----BEGIN PRIVATE KEY-----"))
	f.Add(args(`sh|-c|x'a b' -c "y 'z -p\"q r\"'" mysql -p's t'`))
	f.Add(args(`ssh|h|x'a b' "c d" \'e f`))
	f.Add("no end")
	f.Fuzz(func(t *testing.T, in string) {
		out, any := Mask(in)
		if strings.Count(out, "\x00") != strings.Count(in, "\x00") {
			t.Fatalf("%q -> %q", in, out)
		}
		if !any && out != in {
			t.Fatalf("%q -> %q, and there was nothing to mask", in, out)
		}
		if again, _ := Mask(out); again != out {
			t.Fatalf("%q -> %q -> %q", in, out, again)
		}
	})
}

// Whoever starts a process writes its command line. If anything were looked for again and again in one of these, the test
// would outlast its time.
func TestTimeGrowsWithLengthOnly(t *testing.T) {
	for _, part := range []string{
		"://x:y/", "://x:y/ghp_0123456789abcdefghij/", "@tcp(", "a:@unix(", "-----BEGIN ", "pw: /a/a ", "{pw: /a/ ", "pw=/a/",
		" pw=/a/", "pw=/A1b/", "pw='/a/b' ", "pw=\"", "pw:'", "pass=//,", "a=", "a:", "sh -c ", "'\"",
	} {
		for _, before := range []string{"", "sh\x00-c\x00", " "} {
			in := before + strings.Repeat(part, 256<<10/len(part)) + "!"
			Mask(in)
			Kind("x", in)
		}
	}
}

func TestKindDoesNotAllocate(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		Kind("DB_PASSWORD", "hunter2")
		Kind("X", "Server=db;Password=hunter2")
		Kind("DATABASE_URL", "postgres://shop:hunter2@db/shop")
		Kind("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin")
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestMaskDoesNotAllocate(t *testing.T) {
	in := args("/usr/bin/python3|-m|http.server|--bind|127.0.0.1|--directory|/srv/www|8080|-O|key=value")
	if n := testing.AllocsPerRun(100, func() { Mask(in) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkMask(b *testing.B) {
	for name, in := range map[string]string{
		"short": args("/usr/bin/python3|-m|http.server|--bind|127.0.0.1|--directory|/srv/www|8080|-O|key=value"),
		"long":  args("cc" + strings.Repeat("|-I/usr/include/some/where|-DNAME=value", 500)),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				Mask(in)
			}
		})
	}
}
