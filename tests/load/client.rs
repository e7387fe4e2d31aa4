//! The client, a process of its own: requests at fixed instants over connections that stay open, each timed from the instant
//! it was due, so that waiting for a free connection counts as well.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until};

use crate::scene::Scene;

/// The word by which the binary of the test becomes the client.
pub const WORD: &str = "be-the-client";
/// Connections of one client.
pub const CONNECTIONS: usize = 100;
/// How long the connections have to be there before the first request is due.
const START: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    OneClick,
    Click,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Told {
    pub answered: u64,
    pub failed: u64,
    pub rate: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub most_us: u64,
}

impl Kind {
    fn request(self, path: &str) -> String {
        match self {
            Kind::OneClick => format!(
                "POST {path} HTTP/1.1\r\nhost: mail.example.com\r\nuser-agent: mailprogram\r\n\
                 content-type: application/x-www-form-urlencoded\r\ncontent-length: 26\r\n\r\nList-Unsubscribe=One-Click"
            ),
            Kind::Click => format!(
                "GET {path} HTTP/1.1\r\nhost: mail.example.com\r\n\
                 user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\r\n"
            ),
        }
    }

    fn status(self) -> &'static str {
        match self {
            Kind::OneClick => "HTTP/1.1 200 ",
            Kind::Click => "HTTP/1.1 302 ",
        }
    }
}

/// Starts a client that sends `count` requests at `rate` a second.
pub fn start(scene: &Scene, kind: Kind, rate: u32, count: u32) -> Child {
    let paths = scene.paths(kind, count);
    let file = scene.folder().join(format!("{kind:?}.paths"));
    std::fs::write(&file, paths.join("\n")).unwrap();
    let mut client = Command::new(std::env::current_exe().unwrap());
    client.args([WORD, &format!("{kind:?}"), &scene.address, &rate.to_string()]).arg(&file);
    client.stdout(Stdio::piped()).spawn().unwrap()
}

pub fn finish(client: Child) -> Told {
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Is the client.
pub fn run(words: &[String]) {
    let [kind, address, rate, file] = words else { panic!("a kind, an address, a rate and a file") };
    let kind = if kind == "OneClick" { Kind::OneClick } else { Kind::Click };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let told = LocalSet::new().block_on(&runtime, send(kind, address, rate.parse().unwrap(), file.as_ref()));
    println!("{}", serde_json::to_string(&told).unwrap());
}

/// What all connections share.
struct Plan {
    kind: Kind,
    paths: Vec<String>,
    next: Cell<usize>,
    begin: Instant,
    between: Duration,
    took: RefCell<Vec<u64>>,
    failed: Cell<u64>,
}

async fn send(kind: Kind, address: &str, rate: u32, file: &Path) -> Told {
    let paths: Vec<String> = std::fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect();
    let plan = Rc::new(Plan {
        kind,
        took: RefCell::new(Vec::with_capacity(paths.len())),
        paths,
        next: Cell::new(0),
        begin: Instant::now() + START,
        between: Duration::from_secs(1) / rate,
        failed: Cell::new(0),
    });
    let connections: Vec<_> =
        (0..CONNECTIONS).map(|_| tokio::task::spawn_local(connection(plan.clone(), address.to_owned()))).collect();
    for connection in connections {
        connection.await.unwrap();
    }
    let seconds = plan.begin.elapsed().as_secs_f64();
    let mut took = plan.took.take();
    took.sort_unstable();
    let at =
        |share: f64| took.get(((took.len() as f64 * share) as usize).min(took.len().max(1) - 1)).copied().unwrap_or(0);
    Told {
        answered: took.len() as u64,
        failed: plan.failed.get(),
        rate: took.len() as f64 / seconds,
        p50_us: at(0.5),
        p99_us: at(0.99),
        most_us: at(1.0),
    }
}

/// Takes the next request that is due, until none is left.
async fn connection(plan: Rc<Plan>, address: String) {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut stream = BufReader::new(stream);
    loop {
        let number = plan.next.replace(plan.next.get() + 1);
        let Some(path) = plan.paths.get(number) else { return };
        let due = plan.begin + plan.between * number as u32;
        sleep_until(due).await;
        match exchange(&mut stream, plan.kind, path).await {
            Ok(true) => plan.took.borrow_mut().push(due.elapsed().as_micros() as u64),
            Ok(false) => plan.failed.set(plan.failed.get() + 1),
            Err(why) => panic!("the pages hung up: {why}"),
        }
    }
}

/// One request and its answer; whether it was the right one.
async fn exchange(stream: &mut BufReader<TcpStream>, kind: Kind, path: &str) -> std::io::Result<bool> {
    stream.get_mut().write_all(kind.request(path).as_bytes()).await?;
    let (mut line, mut length, mut is_right) = (String::new(), 0, false);
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        is_right |= line.starts_with(kind.status());
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().unwrap(),
            None if line == "\r\n" => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(is_right)
}
