//! What other senders do on this machine against the same receiver: those that are installed, each as its makers would
//! have it used. They keep no queue and no record and sign nothing, so they show what the wire alone allows.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;
use tokio::time::Instant;

/// Ticks of `/proc/self/stat` in a second: fixed by Linux for programs.
const TICKS: f64 = 100.0;

/// A sender of others.
#[derive(Debug)]
pub struct Peer {
    /// Its name.
    pub name: &'static str,
    /// What it did, or why that is not known.
    pub done: Result<Done, String>,
}

/// What a sender did.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// Messages sent.
    pub messages: u64,
    /// From its start to its end.
    pub seconds: f64,
    /// Its processor time, in seconds.
    pub cpu: f64,
}

/// The same mail for all of them.
#[derive(Debug, Clone, Copy)]
pub struct Mail<'a> {
    /// How many messages.
    pub messages: u64,
    /// Octets of each.
    pub size: usize,
    /// Connections at once.
    pub connections: u16,
    /// The receiver, as HOST:PORT.
    pub receiver: &'a str,
}

/// Lets Postfix's smtp-source and nodemailer send, one after the other. `folder` is for files of theirs.
pub async fn measure(folder: &Path, mail: Mail<'_>) -> Vec<Peer> {
    vec![
        Peer { name: "smtp-source", done: smtp_source(mail).await },
        Peer { name: "nodemailer", done: nodemailer(folder, mail).await },
    ]
}

async fn smtp_source(mail: Mail<'_>) -> Result<Done, String> {
    let mut command = Command::new("smtp-source");
    command.args(["-d", "-s", &mail.connections.to_string(), "-m", &mail.messages.to_string()]);
    command.args(["-l", &mail.size.to_string(), "-f", "bench@example.com", "-t", "somebody@d1.bench.test"]);
    command.arg(mail.receiver);
    timed(command, mail.messages).await
}

async fn nodemailer(folder: &Path, mail: Mail<'_>) -> Result<Done, String> {
    let script = folder.join("peer.js");
    fs::write(&script, NODEMAILER).map_err(|why| format!("{}: {why}", script.display()))?;
    let (host, port) = mail.receiver.rsplit_once(':').unwrap_or((mail.receiver, "25"));
    let mut command = Command::new("node");
    command.arg(&script).args([host, port, &mail.messages.to_string(), &mail.size.to_string()]);
    command.arg(mail.connections.to_string());
    if std::env::var_os("NODE_PATH").is_none() {
        command.env("NODE_PATH", GLOBAL_MODULES);
    }
    timed(command, mail.messages).await
}

/// Where `npm install -g` puts modules.
const GLOBAL_MODULES: &str = "/usr/lib/node_modules:/usr/local/lib/node_modules";

/// Its pool of connections, each used for all messages; the body as large as the whole message of the others.
const NODEMAILER: &str = r#"
const [host, port, messages, size, connections] = process.argv.slice(2);
const mailer = require('nodemailer').createTransport({
  pool: true, host, port: Number(port), secure: false, ignoreTLS: true,
  maxConnections: Number(connections), maxMessages: Infinity,
});
const text = 'word '.repeat(14).concat('\n').repeat(Math.ceil(size / 71)).slice(0, size);
const send = n => mailer.sendMail({
  from: 'bench@example.com', to: `somebody.${n}@d${n % 50}.bench.test`, subject: `Number ${n}`, text,
});
Promise.all(Array.from({ length: Number(messages) }, (_, n) => send(n)))
  .then(() => mailer.close())
  .catch(why => { console.error(String(why)); process.exit(1); });
"#;

/// Runs a program to its end. Its processor time is what that of our children has grown by.
async fn timed(mut command: Command, messages: u64) -> Result<Done, String> {
    let (began, before) = (Instant::now(), of_children().map_err(|why| why.to_string())?);
    let ended = command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).output().await;
    let ended = ended.map_err(|why| match why.kind() {
        io::ErrorKind::NotFound => "it is not installed".to_owned(),
        _ => why.to_string(),
    })?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        let line = said.lines().find(|line| line.contains("Error") || line.contains("fatal")).unwrap_or("it failed");
        return Err(line.trim().to_owned());
    }
    let cpu = of_children().map_err(|why| why.to_string())? - before;
    Ok(Done { messages, seconds: began.elapsed().as_secs_f64(), cpu })
}

/// Processor time of children that have ended, in seconds: `cutime` and `cstime` are fields 16 and 17 (proc_pid_stat(5)).
fn of_children() -> io::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(13).take(2);
    Ok(fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_is_missing_or_fails_is_told_and_one_that_works_is_timed() {
        let missing = timed(Command::new("mailshot-no-such-program"), 1).await;
        assert_eq!(missing.unwrap_err(), "it is not installed");
        assert_eq!(timed(Command::new("false"), 1).await.unwrap_err(), "it failed");
        let mut busy = Command::new("sh");
        busy.args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]);
        let done = timed(busy, 7).await.unwrap();
        assert!(done.messages == 7 && done.cpu > 0.0 && done.seconds > 0.0, "{done:?}");
    }
}
