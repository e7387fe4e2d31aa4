//! The other side: real servers, started in scratch folders on free ports, stopped when they are dropped.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Something of this machine that a scene needs.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// Postfix and its test tools.
    Postfix,
    /// Dovecot, here for its logins.
    Dovecot,
    /// A name server.
    Nsd,
    /// What signs zones.
    Ldns,
    /// Exim, beside Postfix: `.ci/run` puts it into target/exim.
    Exim,
    /// aiosmtpd, in the system's Python.
    Aiosmtpd,
    /// Port 443 of the loopback addresses behind the first.
    Https,
    /// A browser.
    Chromium,
    /// dkimpy, in the system's Python.
    Dkimpy,
    /// Mail::DKIM, for Perl.
    MailDkim,
    /// The right to start servers that change their user.
    Root,
}

impl Need {
    /// Whether it is there.
    pub fn is_met(self) -> bool {
        let runs = |program: &str, arguments: &[&str]| {
            let quiet = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
            quiet.is_ok_and(|status| status.success())
        };
        match self {
            Need::Postfix => Path::new("/usr/sbin/smtp-sink").exists() && Path::new("/usr/sbin/postfix").exists(),
            Need::Dovecot => Path::new("/usr/sbin/dovecot").exists(),
            Need::Nsd => Path::new("/usr/sbin/nsd").exists(),
            Need::Ldns => Path::new("/usr/bin/ldns-signzone").exists(),
            Need::Exim => exim().is_some(),
            Need::Aiosmtpd => runs("/usr/bin/python3", &["-c", "import aiosmtpd"]),
            Need::Https => TcpListener::bind("127.0.0.2:443").is_ok() && TcpListener::bind("127.0.0.4:443").is_ok(),
            Need::Chromium => runs("chromium", &["--version"]),
            Need::Dkimpy => runs("/usr/bin/python3", &["-c", "import dkim"]),
            Need::MailDkim => runs("perl", &["-MMail::DKIM::Verifier", "-e", "1"]),
            Need::Root => is_root(),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Need::Postfix => "postfix",
            Need::Dovecot => "dovecot",
            Need::Nsd => "nsd",
            Need::Ldns => "ldnsutils",
            Need::Exim => "exim4-daemon-light unpacked into target/exim",
            Need::Aiosmtpd => "python3-aiosmtpd",
            Need::Https => "port 443 of 127.0.0.2 and 127.0.0.4",
            Need::Chromium => "chromium",
            Need::Dkimpy => "python3-dkim",
            Need::MailDkim => "libmail-dkim-perl",
            Need::Root => "to be run as root",
        })
    }
}

fn is_root() -> bool {
    let user = Command::new("id").arg("-u").output();
    user.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// A server's process; ends with it.
pub struct Server {
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(command: &mut Command, log: &Path) -> Server {
    let log = fs::File::create(log).expect("a log file in the scratch folder");
    let errors = log.try_clone().expect("a second handle");
    let child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
    Server { child: child.unwrap_or_else(|why| panic!("{command:?} does not start: {why}")) }
}

/// A port nobody listens on at the moment, for TCP and UDP alike.
pub fn free_port() -> u16 {
    for _ in 0..100 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free for both TCP and UDP");
}

/// Waits until something holds, at most 20 seconds.
pub fn wait_for(what: &str, holds: impl FnMut() -> bool) {
    wait_long(what, Duration::from_secs(20), holds);
}

/// Waits until something holds.
pub fn wait_long(what: &str, most: Duration, holds: impl FnMut() -> bool) {
    wait_or_tell(what, most, holds, String::new);
}

/// Waits until something holds; what does not come about is told with what somebody knows of it.
pub fn wait_or_tell(what: &str, most: Duration, mut holds: impl FnMut() -> bool, known: impl Fn() -> String) {
    let end = Instant::now() + most;
    while !holds() {
        assert!(Instant::now() < end, "{what} did not come about in {most:?}\n{}", known());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether something listens on a port of this machine.
pub fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// Hands a message to a mail server, as a plain client.
pub fn hand_in(port: u16, sender: &str, recipient: &str, text: &str) {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server");
    let mut answers = BufReader::new(stream.try_clone().expect("a second handle"));
    let lines = [
        String::new(),
        "EHLO reader.example".to_owned(),
        format!("MAIL FROM:<{sender}>"),
        format!("RCPT TO:<{recipient}>"),
        "DATA".to_owned(),
        format!("{}\r\n.", text.replace('\n', "\r\n")),
        "QUIT".to_owned(),
    ];
    for line in lines {
        if !line.is_empty() {
            (&stream).write_all(format!("{line}\r\n").as_bytes()).expect("a line said");
        }
        let mut answer = String::new();
        while answer.lines().last().is_none_or(|last| last.as_bytes().get(3) == Some(&b'-')) {
            assert!(answers.read_line(&mut answer).expect("an answer") > 0, "{line}: hung up after {answer}");
        }
        assert!(answer.starts_with(['2', '3']), "{line}: {answer}");
    }
}

/// A folder every user may write to: servers change theirs.
fn open_folder(path: PathBuf) -> PathBuf {
    fs::create_dir_all(&path).expect("a folder");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("its permissions");
    path
}

/// Postfix's test receiver, keeping each message in a file of its own.
pub struct SmtpSink {
    pub port: u16,
    folder: PathBuf,
    _server: Server,
}

impl SmtpSink {
    pub fn start(scratch: &Path) -> SmtpSink {
        SmtpSink::with(scratch, &[])
    }

    /// One with options of its own.
    pub fn with(scratch: &Path, options: &[&str]) -> SmtpSink {
        let port = free_port();
        let folder = open_folder(scratch.join("captured"));
        let mut command = Command::new("/usr/sbin/smtp-sink");
        if is_root() {
            command.args(["-u", "nobody"]);
        }
        command.args(options).args(["-d", "%M.", "-R"]).arg(&folder).args([&format!("127.0.0.1:{port}"), "1000"]);
        let server = start(&mut command, &scratch.join("smtp-sink.log"));
        wait_for("smtp-sink", || listens(port));
        SmtpSink { port, folder, _server: server }
    }

    /// The messages it took.
    pub fn messages(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(&self.folder).expect("the folder").map(|entry| entry.expect("an entry").path());
        // An aborted session leaves an empty file; the port was tried with one.
        let mut files: Vec<PathBuf> = files.filter(|path| fs::metadata(path).is_ok_and(|m| m.len() > 0)).collect();
        files.sort();
        files
    }
}

/// Who may hand mail to a Postfix, and how.
pub enum Door<'a> {
    /// Mail for these domains, as an MX; STARTTLS with a certificate nobody knows.
    Mx(&'a [&'a str]),
    /// Mail for anybody, after STARTTLS and a login that Dovecot, on this port, knows.
    Smarthost { logins: u16 },
    /// Mail for this domain, taken before it is known who is there; reports about it, and what its people write, go to
    /// `returns`, for that domain.
    Hasty { domain: &'a str, returns: (&'a str, u16) },
}

/// The domain whose people a Postfix or Exim keeps the mail of.
pub const UTF: &str = "utf.example";

/// A Postfix that hands what it takes to another host.
pub struct Postfix {
    pub port: u16,
    etc: PathBuf,
    /// What signed its certificate.
    pub authority: Authority,
    /// Its certificate.
    pub certificate: PathBuf,
    log: PathBuf,
}

impl Postfix {
    pub fn start(scratch: &Path, door: &Door<'_>, next_hop: u16) -> Postfix {
        let base = scratch.join("postfix");
        let (etc, log, port) = (base.join("etc"), base.join("maillog"), free_port());
        for part in ["etc", "queue", "data"] {
            fs::create_dir_all(base.join(part)).expect("a folder");
        }
        run("chown", &["postfix", &base.join("data").display().to_string()]);
        let authority = Authority::new(&base);
        authority.certify(&base, "", &NAMES, 2100);
        let (who, login) = match door {
            Door::Mx(domains) => {
                // everybody at this domain has one mailbox here, whatever letters the name is in
                open_folder(base.join("mailboxes"));
                let local = format!(
                    "virtual_mailbox_domains = {UTF}\nvirtual_mailbox_base = {base}/mailboxes\nvirtual_minimum_uid = 1\n\
                     virtual_mailbox_maps = static:box/\nvirtual_uid_maps = static:65534\nvirtual_gid_maps = static:65534\n",
                    base = base.display()
                );
                (format!("relay_domains = {}\n{local}", domains.join(" ")), String::new())
            }
            Door::Hasty { domain, returns: (back, at) } => {
                let transport = etc.join("transport");
                fs::write(&transport, format!("{back} smtp:[127.0.0.1]:{at}\n")).expect("transport");
                let maps = format!("transport_maps = texthash:{}\n", transport.display());
                (format!("relay_domains = {domain} {back}\n{maps}"), String::new())
            }
            Door::Smarthost { logins } => (
                "relay_domains =\n".to_owned(),
                format!(
                    "smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = inet:127.0.0.1:{logins}\n\
                     smtpd_tls_auth_only = yes\nsmtpd_relay_restrictions = permit_sasl_authenticated, reject\n"
                ),
            ),
        };
        let relay = if login.is_empty() { "smtpd_relay_restrictions = reject_unauth_destination\n" } else { "" };
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {base}/queue\ndata_directory = {base}/data\n\
             command_directory = /usr/sbin\ndaemon_directory = /usr/lib/postfix/sbin\nmail_owner = postfix\n\
             setgid_group = postdrop\nmyhostname = mx.receiver.example\nmydestination =\nmynetworks =\n\
             inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nlocal_recipient_maps =\nalias_maps =\n\
             default_transport = smtp:[127.0.0.1]:{next_hop}\nrelay_transport = smtp:[127.0.0.1]:{next_hop}\n\
             smtp_dns_support_level = disabled\nsmtp_tls_security_level = may\nsmtputf8_enable = yes\n\
             smtpd_tls_security_level = may\nsmtpd_tls_cert_file = {base}/cert.pem\nsmtpd_tls_key_file = {base}/key.pem\n\
             smtpd_tls_loglevel = 1\nsmtpd_client_connection_count_limit = 0\nanvil_rate_time_unit = 1s\n\
             maillog_file = {log}\nmaillog_file_prefixes = /\n{who}{login}{relay}",
            base = base.display(),
            log = log.display(),
        );
        fs::write(etc.join("main.cf"), main).expect("main.cf");
        fs::write(etc.join("master.cf"), master(port)).expect("master.cf");
        run("/usr/sbin/postfix", &["-c", &etc.display().to_string(), "start"]);
        wait_for("Postfix", || listens(port));
        Postfix { port, etc, authority, certificate: base.join("cert.pem"), log }
    }

    /// What it wrote down.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The messages in its own mailbox, that of everybody at [`UTF`].
    pub fn mailbox(&self) -> Vec<String> {
        let files = fs::read_dir(self.etc.with_file_name("mailboxes/box/new")).into_iter().flatten();
        files.map(|entry| fs::read_to_string(entry.expect("an entry").path()).expect("a message")).collect()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let _ = Command::new("/usr/sbin/postfix")
            .args(["-c", &self.etc.display().to_string(), "stop"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

fn master(port: u16) -> String {
    let inside = |name: &str, program: &str| {
        format!("{name} unix - - n - {} {program}\n", if program == "bounce" { "0" } else { "-" })
    };
    let mut text = format!("127.0.0.1:{port} inet n - n - - smtpd\n");
    text.push_str("pickup unix n - n 60 1 pickup\ncleanup unix n - n - 0 cleanup\nqmgr unix n - n 300 1 qmgr\n");
    text.push_str("tlsmgr unix - - n 1000? 1 tlsmgr\nanvil unix - - n - 1 anvil\nscache unix - - n - 1 scache\n");
    text.push_str("postlog unix-dgram n - n - 1 postlogd\nvirtual unix - n n - - virtual\n");
    for (name, program) in [
        ("rewrite", "trivial-rewrite"),
        ("bounce", "bounce"),
        ("defer", "bounce"),
        ("trace", "bounce"),
        ("proxymap", "proxymap"),
        ("smtp", "smtp"),
        ("relay", "smtp"),
        ("error", "error"),
        ("retry", "error"),
        ("discard", "discard"),
    ] {
        text.push_str(&inside(name, program));
    }
    text
}

/// Names in the servers' certificates.
const NAMES: [&str; 3] = ["localhost", "mx-below.people.example", "mx-good.people.example"];

/// An authority nobody knows but who is told.
pub struct Authority {
    /// Its certificate.
    pub file: PathBuf,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new(folder: &Path) -> Authority {
        let mut root = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        let pem = root.self_signed(&key).expect("a certificate").pem();
        let file = folder.join("authority.pem");
        fs::write(&file, &pem).expect("the authority");
        Authority { file, issuer: rcgen::Issuer::new(root, key), pem }
    }

    /// A certificate for these names, valid until that year, in `cert.pem` with the authority's behind it, and its key in
    /// `key.pem`; `which` stands before the names of both files.
    pub fn certify(&self, folder: &Path, which: &str, names: &[&str], until: i32) -> [PathBuf; 2] {
        let key = rcgen::KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut host = rcgen::CertificateParams::new(names).expect("names");
        host.not_before = rcgen::date_time_ymd(2020, 1, 1);
        host.not_after = rcgen::date_time_ymd(until, 1, 1);
        let signed = host.signed_by(&key, &self.issuer).expect("a certificate");
        let files = ["cert.pem", "key.pem"].map(|name| folder.join(format!("{which}{name}")));
        fs::write(&files[0], signed.pem() + &self.pem).expect("the certificate");
        fs::write(&files[1], key.serialize_pem()).expect("the key");
        files
    }
}

/// A policy host for MTA-STS on port 443, by Python's `http.server`.
pub struct PolicyHost {
    _server: Server,
}

impl PolicyHost {
    /// Serves policies by the name of the host that is asked.
    pub fn start(
        scratch: &Path,
        address: &str,
        certificate: &[PathBuf; 2],
        policies: &serde_json::Value,
    ) -> PolicyHost {
        let (script, known) = (scratch.join("policies.py"), scratch.join(format!("policies-{address}.json")));
        fs::write(&script, include_str!("policies.py")).expect("the script");
        fs::write(&known, policies.to_string()).expect("the policies");
        let mut command = Command::new("/usr/bin/python3");
        command.arg(script).args([address, "443"]).args(certificate).arg(known);
        let server = start(&mut command, &scratch.join(format!("policies-{address}.log")));
        wait_for("the policy host", || TcpStream::connect((address, 443)).is_ok());
        PolicyHost { _server: server }
    }
}

/// A receiver on aiosmtpd.
pub struct Aiosmtpd {
    pub port: u16,
    log: PathBuf,
    _server: Server,
}

impl Aiosmtpd {
    pub fn start(scratch: &Path, address: &str, port: u16, options: &[&str]) -> Aiosmtpd {
        let (script, log) = (scratch.join("smtpd.py"), scratch.join(format!("smtpd-{port}.jsonl")));
        fs::write(&script, include_str!("smtpd.py")).expect("the script");
        let mut command = Command::new("/usr/bin/python3");
        command.arg(script).args([address, &port.to_string()]).arg(&log).args(options);
        let server = start(&mut command, &scratch.join(format!("smtpd-{port}.log")));
        wait_for("aiosmtpd", || TcpStream::connect((address, port)).is_ok());
        Aiosmtpd { port, log, _server: server }
    }

    /// What it wrote down.
    pub fn lines(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

/// Where Exim is; Debian does not let it be installed beside Postfix.
fn exim() -> Option<PathBuf> {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/exim/usr/sbin/exim4");
    [unpacked, PathBuf::from("/usr/sbin/exim4")].into_iter().find(|path| path.exists())
}

/// Exim as an MX with STARTTLS: hands what it takes to another host, and knows nobody whose name starts with `unknown`.
pub struct Exim {
    pub port: u16,
    log: PathBuf,
    mailbox: PathBuf,
    _server: Server,
}

impl Exim {
    pub fn start(scratch: &Path, next_hop: u16) -> Exim {
        let (base, port) = (open_folder(scratch.join("exim")), free_port());
        Authority::new(&base).certify(&base, "", &["localhost"], 2100);
        let program = exim().expect("it is there");
        let text = format!(
            "exim_path = {program}\nprimary_hostname = exim.receiver.example\nspool_directory = {base}/spool\n\
             log_file_path = {base}/%slog\npid_file_path = {base}/pid\nlocal_interfaces = 127.0.0.1\n\
             daemon_smtp_ports = {port}\ndisable_ipv6 = true\nhost_lookup =\nrfc1413_hosts =\nnever_users =\n\
             exim_user = mail\nexim_group = mail\nkeep_environment =\ntls_advertise_hosts = *\ntls_certificate = {base}/cert.pem\n\
             tls_privatekey = {base}/key.pem\ndsn_advertise_hosts = *\nsmtputf8_advertise_hosts = *\n\
             chunking_advertise_hosts = *\nlog_selector = +tls_cipher +smtp_connection +8bitmime +pipelining\n\
             smtp_accept_max = 0\nsmtp_accept_queue_per_connection = 0\nsmtp_accept_max_per_connection = 0\n\
             acl_smtp_rcpt = accept\nacl_smtp_data = accept\nbegin routers\nnobody:\n  driver = redirect\n  \
             local_parts = ^unknown\n  allow_fail\n  data = :fail: 5.1.1 nobody of that name\n\
             utf:\n  driver = accept\n  domains = utf.example\n  transport = file\n\
             all:\n  driver = manualroute\n  route_list = * 127.0.0.1 byname\n  self = send\n  transport = next\n\
             begin transports\nfile:\n  driver = appendfile\n  file = {base}/utf\n  user = mail\n\
             next:\n  driver = smtp\n  port = {next_hop}\n  allow_localhost\n  hosts_avoid_tls = *\n\
             begin retry\n* * F,1m,3s\n",
            program = program.display(),
            base = base.display(),
        );
        let file = base.join("exim.conf");
        fs::write(&file, text).expect("exim.conf");
        for folder in [&base, &open_folder(base.join("spool"))] {
            run("chown", &["-R", "mail:mail", &folder.display().to_string()]);
        }
        // Exim takes no settings that others could have written.
        run("chown", &["root", &file.display().to_string()]);
        let mut command = Command::new(&program);
        command.arg("-C").arg(&file).args(["-bdf", "-q2s"]);
        let server = start(&mut command, &scratch.join("exim.log"));
        wait_for("Exim", || listens(port));
        Exim { port, log: base.join("mainlog"), mailbox: base.join("utf"), _server: server }
    }

    /// Its own mailbox, that of everybody at [`UTF`].
    pub fn mailbox(&self) -> String {
        fs::read_to_string(&self.mailbox).unwrap_or_default()
    }

    /// What it wrote down.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// How Dovecot wants a login to be spoken.
#[derive(Debug, Clone, Copy)]
pub enum Speech {
    /// PLAIN or LOGIN.
    Password,
    /// SCRAM-SHA-256 only.
    Scram,
    /// XOAUTH2 only; the token is `good` (RFC 7662).
    Token,
}

/// Answers which tokens are good, and whose.
const TOKENS: &str = r#"
import http.server, json, sys, urllib.parse
class Host(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        token = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query).get("token", [""])[0]
        body = json.dumps({"active": token == "good", "email": "newsletter"}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Host).serve_forever()
"#;

/// Dovecot as the keeper of logins: every user, password `secret`.
pub struct Logins {
    pub port: u16,
    _server: Server,
    _tokens: Option<Server>,
}

impl Logins {
    pub fn start(scratch: &Path) -> Logins {
        Logins::spoken(scratch, Speech::Password)
    }

    pub fn spoken(scratch: &Path, speech: Speech) -> Logins {
        let (base, port) = (scratch.join("dovecot"), free_port());
        fs::create_dir_all(&base).expect("a folder");
        let by_password = "driver = static\n  args = password=secret".to_owned();
        let (mechanisms, passdb, tokens) = match speech {
            Speech::Password => ("plain login", by_password, None),
            Speech::Scram => ("scram-sha-256", by_password, None),
            Speech::Token => {
                let (script, settings, at) = (base.join("tokens.py"), base.join("oauth2.conf"), free_port());
                fs::write(&script, TOKENS).expect("tokens.py");
                let text = format!(
                    "introspection_mode = get\nintrospection_url = http://127.0.0.1:{at}/?token=\n\
                     active_attribute = active\nactive_value = true\nusername_attribute = email\n"
                );
                fs::write(&settings, text).expect("oauth2.conf");
                let mut command = Command::new("/usr/bin/python3");
                let host = start(command.arg(&script).arg(at.to_string()), &base.join("tokens.log"));
                wait_for("the host of tokens", || listens(at));
                let passdb = format!("driver = oauth2\n  mechanisms = xoauth2\n  args = {}", settings.display());
                ("xoauth2", passdb, Some(host))
            }
        };
        let text = format!(
            "base_dir = {base}/run\nlog_path = {base}/log\nprotocols = none\nssl = no\nauth_mechanisms = {mechanisms}\n\
             passdb {{\n  {passdb}\n}}\n\
             userdb {{\n  driver = static\n  args = uid=nobody gid=nogroup home={base}\n}}\n\
             service auth {{\n  inet_listener {{\n    address = 127.0.0.1\n    port = {port}\n  }}\n}}\n",
            base = base.display()
        );
        let file = base.join("dovecot.conf");
        fs::write(&file, text).expect("dovecot.conf");
        let mut command = Command::new("/usr/sbin/dovecot");
        command.arg("-F").arg("-c").arg(&file);
        let server = start(&mut command, &base.join("start.log"));
        wait_for("Dovecot", || listens(port));
        Logins { port, _server: server, _tokens: tokens }
    }
}

/// Dovecot as the keeper of mailboxes, by IMAP and POP3 with TLS: every user, password `secret`.
pub struct Mailboxes {
    pub imaps: u16,
    pub imap: u16,
    pub pop3s: u16,
    /// What signed its certificate.
    pub authority: Authority,
    folder: PathBuf,
    _server: Server,
}

impl Mailboxes {
    pub fn start(scratch: &Path) -> Mailboxes {
        Mailboxes::able(scratch, None)
    }

    /// As if it could do no more than this, by IMAP.
    pub fn able(scratch: &Path, capability: Option<&str>) -> Mailboxes {
        let base = open_folder(scratch.join("mailboxes"));
        let authority = Authority::new(&base);
        authority.certify(&base, "", &NAMES, 2100);
        let folder = open_folder(base.join("mail"));
        let (imaps, imap, pop3s, pop3) = (free_port(), free_port(), free_port(), free_port());
        let listen = |name: &str, port: u16, tls: &str| {
            format!("  inet_listener {name} {{\n    port = {port}\n    ssl = {tls}\n  }}\n")
        };
        let text = format!(
            "base_dir = {base}/run\nstate_dir = {base}/state\nlog_path = {base}/log\nprotocols = imap pop3\n\
             listen = 127.0.0.1\nssl = yes\nssl_cert = <{base}/cert.pem\nssl_key = <{base}/key.pem\n\
             auth_mechanisms = plain login\nmail_location = maildir:{base}/mail/%n\nmail_uid = mail\nmail_gid = mail\n\
             first_valid_uid = 1\nfirst_valid_gid = 1\npassdb {{\n  driver = static\n  args = password=secret\n}}\n\
             userdb {{\n  driver = static\n  args = uid=mail gid=mail home={base}/mail/%n\n}}\n\
             service imap-login {{\n{}{}}}\nservice pop3-login {{\n{}{}}}\nnamespace inbox {{\n  inbox = yes\n}}\n\
             protocol imap {{\n  mail_max_userip_connections = 100\n{able}}}\n",
            listen("imaps", imaps, "yes"),
            listen("imap", imap, "no"),
            listen("pop3s", pop3s, "yes"),
            listen("pop3", pop3, "no"),
            able = capability.map_or(String::new(), |able| format!("  imap_capability = {able}\n")),
            base = base.display()
        );
        let file = base.join("dovecot.conf");
        fs::write(&file, text).expect("dovecot.conf");
        let mut command = Command::new("/usr/sbin/dovecot");
        command.arg("-F").arg("-c").arg(&file);
        let server = start(&mut command, &base.join("start.log"));
        wait_for("Dovecot", || [imaps, imap, pop3s].into_iter().all(listens));
        Mailboxes { imaps, imap, pop3s, authority, folder, _server: server }
    }

    /// Puts messages into a user's inbox.
    pub fn fill(&self, user: &str, messages: &[String]) {
        for (number, message) in messages.iter().enumerate() {
            self.drop_in(user, &format!("new/17000{number:05}.M{number}.host"), message);
        }
        run("chown", &["-R", "mail:mail", &self.folder.join(user).display().to_string()]);
    }

    /// Puts a message into a user's inbox under this name, as mail servers do: written aside, then moved in.
    pub fn drop_in(&self, user: &str, name: &str, message: &str) {
        let home = self.folder.join(user);
        for part in ["new", "cur", "tmp"] {
            fs::create_dir_all(home.join(part)).expect("a maildir");
        }
        let aside = home.join("tmp/aside");
        fs::write(&aside, message).expect("a message");
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o666)).expect("its permissions");
        fs::rename(aside, home.join(name)).expect("a message");
    }

    /// Makes a user's inbox forget its numbers, as after a restore: the next session gives all messages new ones.
    pub fn renumber(&self, user: &str) {
        let home = self.folder.join(user);
        for file in fs::read_dir(&home).expect("the maildir").map(|entry| entry.expect("an entry").path()) {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("dovecot") && file.is_file() {
                fs::remove_file(file).expect("a file of Dovecot's");
            }
        }
        // A new UIDVALIDITY is the time in seconds, or one more than that of the folder made before.
        std::thread::sleep(Duration::from_millis(3100));
    }

    /// The messages in a folder of a user, their flags in the names.
    pub fn names(&self, user: &str, folder: &str) -> Vec<String> {
        let home = self.folder.join(user).join(folder);
        let files = ["new", "cur"].into_iter().flat_map(|part| fs::read_dir(home.join(part)).into_iter().flatten());
        files.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }
}

/// NSD, authoritative for one zone.
pub struct NameServer {
    pub port: u16,
    _server: Server,
}

impl NameServer {
    /// Serves `records` (lines of a zone file) below `zone`.
    pub fn start(scratch: &Path, zone: &str, records: &str) -> NameServer {
        NameServer::with(scratch, zone, records, None)
    }

    /// The same, and another zone beside it.
    pub fn with(scratch: &Path, zone: &str, records: &str, other: Option<(&str, &str)>) -> NameServer {
        let base = open_folder(scratch.join("nsd"));
        fs::write(base.join("zone"), zone_file(zone, records)).expect("the zone");
        let more = other.map(|(name, records)| {
            fs::write(base.join("other"), zone_file(name, records)).expect("the other zone");
            format!("zone:\n  name: {name}\n  zonefile: other\n")
        });
        NameServer::serve(&base, zone, &more.unwrap_or_default())
    }

    /// The same in a world of its own, whose root is signed too; gives the file with the root's key. `tamper` may change
    /// the zone after it was signed.
    pub fn signed(
        scratch: &Path,
        zone: &str,
        records: &str,
        tamper: impl FnOnce(String) -> String,
    ) -> (NameServer, PathBuf) {
        let base = open_folder(scratch.join("nsd"));
        let ldns = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).current_dir(&base).output().expect("ldns runs");
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        let sign = |zone: &str, text: String| {
            let keygen =
                |kind: &[&str]| ldns("/usr/bin/ldns-keygen", &[&["-a", "ECDSAP256SHA256"], kind, &[zone]].concat());
            let (above, below) = (keygen(&["-k"]), keygen(&[]));
            fs::write(base.join("unsigned"), text).expect("the zone");
            ldns("/usr/bin/ldns-signzone", &["-n", "-o", zone, "-f", "signed", "unsigned", &above, &below]);
            (fs::read_to_string(base.join("signed")).expect("the signed zone"), above)
        };
        let (signed, key) = sign(zone, zone_file(zone, records));
        fs::write(base.join("zone"), tamper(signed)).expect("the zone");
        let delegation = fs::read_to_string(base.join(format!("{key}.ds"))).expect("the key's DS record");
        let root = format!(
            "$ORIGIN .\n$TTL 60\n. IN SOA ns.{zone}. hostmaster.{zone}. 1 3600 600 86400 60\n. IN NS ns.{zone}.\n\
             {zone}. IN NS ns.{zone}.\nns.{zone}. IN A 127.0.0.1\n{delegation}"
        );
        let (signed, key) = sign(".", root);
        fs::write(base.join("root"), signed).expect("the root");
        (NameServer::serve(&base, zone, "zone:\n  name: .\n  zonefile: root\n"), base.join(format!("{key}.key")))
    }

    fn serve(base: &Path, zone: &str, more: &str) -> NameServer {
        let port = free_port();
        let text = format!(
            "server:\n  ip-address: 127.0.0.1@{port}\n  username: \"\"\n  chroot: \"\"\n  zonesdir: \"{base}\"\n  database: \"\"\n  \
             pidfile: \"{base}/nsd.pid\"\n  xfrdfile: \"{base}/xfrd.state\"\n  zonelistfile: \"{base}/zone.list\"\n  \
             xfrdir: \"{base}\"\n  server-count: 1\nremote-control:\n  control-enable: no\n\
             zone:\n  name: {zone}\n  zonefile: zone\n{more}",
            base = base.display()
        );
        let file = base.join("nsd.conf");
        fs::write(&file, text).expect("nsd.conf");
        let mut command = Command::new("/usr/sbin/nsd");
        command.arg("-d").arg("-c").arg(&file);
        let server = start(&mut command, &base.join("log"));
        wait_for("NSD", || listens(port));
        NameServer { port, _server: server }
    }
}

fn zone_file(zone: &str, records: &str) -> String {
    format!(
        "$ORIGIN {zone}.\n$TTL 60\n@ IN SOA ns.{zone}. hostmaster.{zone}. 1 3600 600 86400 60\n@ IN NS ns.{zone}.\n\
         ns IN A 127.0.0.1\n{records}"
    )
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|why| panic!("{program} does not run: {why}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
