//! The control socket: the process that owns the queue answers other commands of the same workspace on
//! `state/control.sock`, in HTTP and JSON, for its own user alone. Both ends stand here, so that they agree.

use std::convert::Infallible;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path as InPath, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream::unfold;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::handle::{Handle, Settled, Wait};
use super::status::{CopyView, DomainView, QueueView};
use super::{Error, WorkspaceError};
use crate::base::{Domain, EnvelopeId, LaunchId};
use crate::delivery::taps::Heard;
use crate::queue::Whose;

/// Largest answer read, in bytes.
const ANSWER_MAX: usize = 4 << 20;
/// How long an answer may take: a sweep over a full queue takes seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// How many copies a move was done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Moved {
    copies: u64,
}

/// Whether a launch has settled; null while it has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Glance {
    settled: Option<Settled>,
}

/// How long to look ahead, in milliseconds; without it until all is final.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Ahead {
    wait_ms: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    error: String,
}

/// The answering end. Ends, and takes its socket away, when dropped.
pub struct Control {
    socket: PathBuf,
    work: JoinHandle<()>,
}

impl Control {
    /// Answers on `socket` for `handle`. The caller holds the workspace, so a socket that is there is a dead one's.
    pub fn open(socket: &Path, handle: Handle) -> Result<Control, WorkspaceError> {
        let failed = |why| WorkspaceError::File { path: socket.to_owned(), why };
        let listener = listen(socket).map_err(failed)?;
        let work = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, routes(handle)).await {
                tracing::error!(%error, "the control socket has failed");
            }
        });
        Ok(Control { socket: socket.to_owned(), work })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.work.abort();
        let _ = fs::remove_file(&self.socket);
    }
}

/// Listens for this user alone: the socket is made in a folder nobody else can enter, and moved to its place once its
/// rights are right.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    let nest = socket.with_extension(format!("{}", std::process::id()));
    DirBuilder::new().mode(0o700).recursive(true).create(&nest)?;
    let born = nest.join("s");
    let made = (|| {
        let _ = fs::remove_file(&born);
        let listener = short(&born, |path| UnixListener::bind(path))?;
        fs::set_permissions(&born, Permissions::from_mode(0o600))?;
        fs::rename(&born, socket)?;
        Ok(listener)
    })();
    let _ = fs::remove_dir_all(&nest);
    made
}

/// A socket's address holds some hundred bytes, a path may have more: then it is named through its open folder.
fn short<T>(path: &Path, then: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    use std::os::fd::AsRawFd;
    const ADDRESS_MAX: usize = 100;
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) if path.as_os_str().len() > ADDRESS_MAX => {
            let open = fs::File::open(folder)?;
            then(&Path::new(&format!("/proc/self/fd/{}", open.as_raw_fd())).join(name))
        }
        _ => then(path),
    }
}

fn routes(handle: Handle) -> Router {
    Router::new()
        .route("/queue", get(queue))
        .route("/sites/{site}/suspend", post(suspend_site))
        .route("/sites/{site}/resume", post(resume_site))
        .route("/sites/{site}/trace", get(trace))
        .route("/domains/{domain}", get(domain))
        .route("/copies/{copy}", get(copy))
        .route("/launches/{launch}/settled", get(settled))
        .route("/launches/{launch}/take-up", post(take_up))
        .route("/launches/{launch}/pause", post(pause))
        .route("/launches/{launch}/resume", post(resume))
        .route("/launches/{launch}/cancel", post(cancel))
        .route("/launches/{launch}/retry", post(retry))
        .route("/launches/{launch}/retry-doubts", post(retry_doubts))
        .route("/launches/{launch}/copies", get(launch_copies))
        .route("/launches/{launch}/drop", post(drop_launch))
        .route("/domains/{domain}/retry", post(retry_domain))
        .route("/domains/{domain}/copies", get(domain_copies))
        .route("/domains/{domain}/drop", post(drop_domain))
        .with_state(handle)
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = match self {
            Error::NoLaunch(_) => StatusCode::NOT_FOUND,
            Error::State { .. } => StatusCode::CONFLICT,
            Error::Queue(_)
            | Error::Waits(_)
            | Error::Store(_)
            | Error::Disagree { .. }
            | Error::Unusable { .. }
            | Error::Start { .. }
            | Error::Files { .. }
            | Error::Ended(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(Refusal { error: self.to_string() })).into_response()
    }
}

type Answer<T> = Result<Json<T>, Error>;

async fn queue(State(handle): State<Handle>) -> Answer<QueueView> {
    Ok(Json(QueueView::of(&handle).await?))
}

/// The dialogues with a site, one JSON object a line, until the asker goes.
async fn trace(State(handle): State<Handle>, InPath(site): InPath<String>) -> Response {
    let Some(sites) = handle.sites() else {
        let error = "nothing is sent by this process".to_owned();
        return (StatusCode::CONFLICT, Json(Refusal { error })).into_response();
    };
    let lines = unfold(sites.listen(&site), |mut heard| async move {
        let line = heard.recv().await?;
        let mut line = serde_json::to_vec(&line).expect("texts and numbers");
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), heard))
    });
    Body::from_stream(lines).into_response()
}

async fn domain(State(handle): State<Handle>, InPath(domain): InPath<String>) -> Answer<Option<DomainView>> {
    Ok(Json(match of_path(&domain) {
        Some(domain) => handle.domain(&domain).await?,
        None => None,
    }))
}

async fn copy(State(handle): State<Handle>, InPath(copy): InPath<u64>) -> Answer<Option<CopyView>> {
    Ok(Json(handle.copy(EnvelopeId::from_u64(copy)).await?))
}

async fn settled(
    State(handle): State<Handle>,
    InPath(launch): InPath<u32>,
    Query(ahead): Query<Ahead>,
) -> Answer<Glance> {
    let wait = ahead.wait_ms.map_or(Wait::All, |ms| Wait::UpTo(Duration::from_millis(ms)));
    Ok(Json(Glance { settled: handle.glance(LaunchId(launch), wait).await? }))
}

async fn suspend_site(State(handle): State<Handle>, InPath(site): InPath<String>) -> Answer<Moved> {
    handle.suspend_site(&site).await?;
    Ok(Json(Moved { copies: 0 }))
}

async fn resume_site(State(handle): State<Handle>, InPath(site): InPath<String>) -> Answer<Moved> {
    handle.resume_site(&site).await?;
    Ok(Json(Moved { copies: 0 }))
}

async fn take_up(State(handle): State<Handle>, InPath(launch): InPath<u32>) -> Json<Moved> {
    handle.take_up(LaunchId(launch));
    Json(Moved { copies: 0 })
}

async fn pause(State(handle): State<Handle>, InPath(launch): InPath<u32>) -> Answer<Moved> {
    Ok(Json(Moved { copies: handle.pause(LaunchId(launch)).await? }))
}

async fn resume(State(handle): State<Handle>, InPath(launch): InPath<u32>) -> Answer<Moved> {
    Ok(Json(Moved { copies: handle.resume(LaunchId(launch)).await? }))
}

async fn cancel(State(handle): State<Handle>, InPath(launch): InPath<u32>) -> Answer<Moved> {
    Ok(Json(Moved { copies: handle.cancel(LaunchId(launch)).await? }))
}

async fn retry(State(handle): State<Handle>, InPath(launch): InPath<u32>) -> Answer<Moved> {
    Ok(Json(Moved { copies: handle.retry(LaunchId(launch)).await? }))
}

async fn retry_doubts(State(handle): State<Handle>, InPath(launch): InPath<u32>) -> Answer<Moved> {
    Ok(Json(Moved { copies: handle.retry_doubts(LaunchId(launch)).await? }))
}

async fn launch_copies(State(handle): State<Handle>, InPath(launch): InPath<u32>) -> Answer<Moved> {
    Ok(Json(Moved { copies: handle.count(LaunchId(launch).into()).await? }))
}

async fn drop_launch(State(handle): State<Handle>, InPath(launch): InPath<u32>) -> Answer<Moved> {
    Ok(Json(Moved { copies: handle.drop_copies(LaunchId(launch).into()).await? }))
}

/// A domain in a path; one that is none has no copies.
fn of_path(domain: &str) -> Option<Domain> {
    Domain::parse(domain).ok()
}

async fn retry_domain(State(handle): State<Handle>, InPath(domain): InPath<String>) -> Answer<Moved> {
    let Some(domain) = of_path(&domain) else { return Ok(Json(Moved { copies: 0 })) };
    Ok(Json(Moved { copies: handle.retry_domain(domain).await? }))
}

async fn domain_copies(State(handle): State<Handle>, InPath(domain): InPath<String>) -> Answer<Moved> {
    let Some(domain) = of_path(&domain) else { return Ok(Json(Moved { copies: 0 })) };
    Ok(Json(Moved { copies: handle.count(domain.into()).await? }))
}

async fn drop_domain(State(handle): State<Handle>, InPath(domain): InPath<String>) -> Answer<Moved> {
    let Some(domain) = of_path(&domain) else { return Ok(Json(Moved { copies: 0 })) };
    Ok(Json(Moved { copies: handle.drop_copies(domain.into()).await? }))
}

/// Why the owner of the queue did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It does not answer.
    #[error("the mailshot that holds the queue does not answer on {}: {why}", socket.display())]
    Silent {
        /// The socket.
        socket: PathBuf,
        /// What the system or the protocol said.
        why: String,
    },
    /// It knows nothing of what was asked about.
    #[error("{0}")]
    Unknown(String),
    /// It answered no.
    #[error("{0}")]
    Refused(String),
    /// It could not do it.
    #[error("{0}")]
    Failed(String),
}

/// The asking end.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Asks whoever answers on `socket`.
    pub fn new(socket: PathBuf) -> Client {
        Client { socket }
    }

    /// What is on the road.
    pub async fn queue(&self) -> Result<QueueView, AskError> {
        self.ask(Method::GET, "/queue").await
    }

    /// Sends nothing more to a site until it is resumed.
    pub async fn suspend_site(&self, site: &str) -> Result<(), AskError> {
        let _: Moved = self.ask(Method::POST, &format!("/sites/{}/suspend", in_path(site))).await?;
        Ok(())
    }

    /// Lets a site go on, whatever held it up.
    pub async fn resume_site(&self, site: &str) -> Result<(), AskError> {
        let _: Moved = self.ask(Method::POST, &format!("/sites/{}/resume", in_path(site))).await?;
        Ok(())
    }

    /// As [`Handle::domain`].
    pub async fn domain(&self, domain: &Domain) -> Result<Option<DomainView>, AskError> {
        self.ask(Method::GET, &format!("/domains/{}", in_path(domain.as_str()))).await
    }

    /// As [`Handle::copy`].
    pub async fn copy(&self, copy: EnvelopeId) -> Result<Option<CopyView>, AskError> {
        self.ask(Method::GET, &format!("/copies/{}", copy.to_u64())).await
    }

    /// The dialogues with a site as they go on: `see` gets every line, until the owner of the queue ends.
    pub async fn trace(&self, site: &str, mut see: impl FnMut(Heard)) -> Result<(), AskError> {
        let silent = |why: String| AskError::Silent { socket: self.socket.clone(), why };
        let (mut sender, connection) = self.connect().await.map_err(silent)?;
        let connection = tokio::spawn(connection);
        let request = request(Method::GET, &format!("/sites/{}/trace", in_path(site))).map_err(silent)?;
        let answer = sender.send_request(request).await.map_err(|why| silent(why.to_string()))?;
        let status = answer.status();
        let is_yes = status.is_success();
        let (mut body, mut rest) = (answer.into_body(), Vec::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|why| silent(why.to_string()))?;
            rest.extend_from_slice(&frame.into_data().unwrap_or_default());
            while let Some(end) = memchr::memchr(b'\n', &rest).filter(|_| is_yes) {
                let line: Vec<u8> = rest.drain(..=end).collect();
                see(serde_json::from_slice(&line).map_err(|why| silent(why.to_string()))?);
            }
        }
        connection.abort();
        match is_yes {
            true => Ok(()),
            false => Err(refusal(status, &rest).unwrap_or_else(|| silent(STRANGER.to_owned()))),
        }
    }

    /// As [`Handle::take_up`].
    pub async fn take_up(&self, launch: LaunchId) -> Result<(), AskError> {
        self.tell(launch, "take-up").await.map(drop)
    }

    /// As [`Handle::pause`].
    pub async fn pause(&self, launch: LaunchId) -> Result<u64, AskError> {
        self.tell(launch, "pause").await
    }

    /// As [`Handle::resume`].
    pub async fn resume(&self, launch: LaunchId) -> Result<u64, AskError> {
        self.tell(launch, "resume").await
    }

    /// As [`Handle::cancel`].
    pub async fn cancel(&self, launch: LaunchId) -> Result<u64, AskError> {
        self.tell(launch, "cancel").await
    }

    /// As [`Handle::retry`].
    pub async fn retry(&self, launch: LaunchId) -> Result<u64, AskError> {
        self.tell(launch, "retry").await
    }

    /// As [`Handle::retry_doubts`].
    pub async fn retry_doubts(&self, launch: LaunchId) -> Result<u64, AskError> {
        self.tell(launch, "retry-doubts").await
    }

    /// As [`Handle::retry_domain`].
    pub async fn retry_domain(&self, domain: &Domain) -> Result<u64, AskError> {
        let moved: Moved = self.ask(Method::POST, &path_of(&domain.clone().into(), "retry")).await?;
        Ok(moved.copies)
    }

    /// As [`Handle::count`].
    pub async fn count(&self, whose: &Whose) -> Result<u64, AskError> {
        let moved: Moved = self.ask(Method::GET, &path_of(whose, "copies")).await?;
        Ok(moved.copies)
    }

    /// As [`Handle::drop_copies`].
    pub async fn drop_copies(&self, whose: &Whose) -> Result<u64, AskError> {
        let moved: Moved = self.ask(Method::POST, &path_of(whose, "drop")).await?;
        Ok(moved.copies)
    }

    /// As [`Handle::glance`].
    pub async fn glance(&self, launch: LaunchId, wait: Wait) -> Result<Option<Settled>, AskError> {
        let ahead = match wait {
            Wait::UpTo(span) => format!("?wait_ms={}", span.as_millis()),
            Wait::All => String::new(),
        };
        let glance: Glance = self.ask(Method::GET, &format!("/launches/{launch}/settled{ahead}")).await?;
        Ok(glance.settled)
    }

    async fn tell(&self, launch: LaunchId, verb: &str) -> Result<u64, AskError> {
        let moved: Moved = self.ask(Method::POST, &format!("/launches/{launch}/{verb}")).await?;
        Ok(moved.copies)
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, AskError> {
        let silent = |why: String| AskError::Silent { socket: self.socket.clone(), why };
        let asked = timeout(ANSWER_WITHIN, self.exchange(method, path)).await;
        let (status, body) = asked.map_err(|_| silent("no answer in time".into()))?.map_err(silent)?;
        match status.is_success() {
            true => serde_json::from_slice(&body).map_err(|why| silent(why.to_string())),
            false => Err(refusal(status, &body).unwrap_or_else(|| silent(STRANGER.to_owned()))),
        }
    }

    /// A connection of its own for one request.
    async fn connect(
        &self,
    ) -> Result<(SendRequest<Empty<Bytes>>, Connection<TokioIo<UnixStream>, Empty<Bytes>>), String> {
        let stream = short(&self.socket, |path| std::os::unix::net::UnixStream::connect(path));
        let stream = stream.and_then(|stream| {
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        });
        let io = TokioIo::new(stream.map_err(|why| why.to_string())?);
        hyper::client::conn::http1::handshake(io).await.map_err(|why| why.to_string())
    }

    /// One request on a connection of its own; gives the answer's status and body.
    async fn exchange(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), String> {
        let (mut sender, connection) = self.connect().await?;
        let request = request(method, path)?;
        let talk = async {
            let answer = sender.send_request(request).await.map_err(|why| why.to_string())?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await.map_err(|why| why.to_string())?;
            Ok((status, body.to_bytes()))
        };
        tokio::pin!(talk);
        tokio::select! {
            biased;
            answer = &mut talk => answer,
            ended = connection => match ended {
                // the answer may be complete although its connection is closed
                Ok(()) => talk.await,
                Err(why) => Err(why.to_string()),
            },
        }
    }
}

/// What is said of an answer nobody here gives.
const STRANGER: &str = "it does not know this question: is it of the same version?";

/// A no, and what kind of; `None`: nobody here says it like that.
fn refusal(status: StatusCode, body: &[u8]) -> Option<AskError> {
    let Refusal { error } = serde_json::from_slice(body).ok()?;
    Some(match status {
        StatusCode::NOT_FOUND => AskError::Unknown(error),
        StatusCode::CONFLICT => AskError::Refused(error),
        _ => AskError::Failed(error),
    })
}

fn request(method: Method, path: &str) -> Result<Request<Empty<Bytes>>, String> {
    let request = Request::builder().method(method).uri(path).header("host", "mailshot");
    request.body(Empty::new()).map_err(|why| why.to_string())
}

/// The path of what is asked about a launch's or a domain's copies.
fn path_of(whose: &Whose, verb: &str) -> String {
    match whose {
        Whose::Launch(launch) => format!("/launches/{launch}/{verb}"),
        Whose::Domain(domain) => format!("/domains/{}/{verb}", in_path(domain.as_str())),
    }
}

/// A name as one segment of a path (RFC 3986 §2.1).
fn in_path(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_its_user_alone_however_long_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("x".repeat(120));
        fs::create_dir(&deep).unwrap();
        for socket in [folder.path().join("control.sock"), deep.join("control.sock")] {
            fs::write(&socket, "left by a dead process").unwrap();
            let listener = listen(&socket).unwrap();
            assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(
                fs::read_dir(socket.parent().unwrap())
                    .unwrap()
                    .filter(|e| e.as_ref().unwrap().path().is_dir() && e.as_ref().unwrap().path() != deep)
                    .count(),
                0
            );
            let app = Router::new().route("/launches/{launch}/pause", post(async || Json(Moved { copies: 7 })));
            let app = app.route("/launches/{launch}/cancel", post(async || Error::NoLaunch(LaunchId(3))));
            let full = || Error::Store(crate::store::Error::Full(PathBuf::from("audience.db")));
            let app = app.route("/launches/{launch}/resume", post(async move || full()));
            let server = tokio::spawn(async move { axum::serve(listener, app).await });
            let client = Client::new(socket);
            assert_eq!(client.pause(LaunchId(3)).await.unwrap(), 7);
            let unknown = client.cancel(LaunchId(3)).await.unwrap_err();
            assert!(matches!(&unknown, AskError::Unknown(why) if why == "there is no launch 3"), "{unknown:?}");
            let failed = client.resume(LaunchId(3)).await.unwrap_err();
            assert!(matches!(&failed, AskError::Failed(why) if why.starts_with("the disk is full")), "{failed:?}");
            assert!(client.retry(LaunchId(3)).await.unwrap_err().to_string().contains("same version"));
            server.abort();
        }
    }

    #[tokio::test]
    async fn a_name_stays_one_name_on_its_way() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock");
        let listener = listen(&socket).unwrap();
        // whoever answers says no, in the name that was asked for
        let no = async |InPath(site): InPath<String>| (StatusCode::CONFLICT, Json(Refusal { error: site }));
        let app = Router::new().route("/sites/{site}/resume", post(no));
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        let client = Client::new(socket);
        for name in ["a/../../queue", "a?x=1#y", "a%2fb", "a b\r\nHost: c", "smtp://[::1]:25", "ü\u{1b}[2J"] {
            let said = client.resume_site(name).await.unwrap_err().to_string();
            assert!(said.contains(name), "{name:?}: {said:?}");
        }
        server.abort();
    }

    #[tokio::test]
    async fn nobody_there_is_said_in_words() {
        let client = Client::new(PathBuf::from("/nonexistent/control.sock"));
        let refused = client.queue().await.unwrap_err().to_string();
        assert!(refused.contains("does not answer on /nonexistent/control.sock"), "{refused}");
    }
}
