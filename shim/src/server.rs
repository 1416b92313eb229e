//! The server: one socket, one sandbox, until both are no longer needed.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::time::Duration;

use displaydoc::Display;
use futures::stream;
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use ttrpc::asynchronous::Server;
use ttrpc::asynchronous::transport::Listener;

use crate::args::Args;
use crate::bootstrap::socket;
use crate::bootstrap::spawn::{LISTENER_FD, READY, STARTUP_FD};
use crate::events::Publisher;
use crate::handoff::Handoff;
use crate::log::Log;
use crate::service::Service;

/// How long a server without containers stays: the next container of its group may be on its way, and
/// with version 3 of the protocol nobody sends Shutdown for a pod's members.
const IDLE_GRACE: Duration = Duration::from_secs(10);
/// How long one stays that never had a container: a client that gives up on Create sends Shutdown, one
/// that dies does not. Longer than kubelet waits for Create (2 min).
const FIRST_CREATE_GRACE: Duration = Duration::from_secs(300);
/// For answers under way, the one to Shutdown above all.
const REPLY_GRACE: Duration = Duration::from_millis(100);
/// For the guest to power off in order; then the VM is killed.
const VM_DEADLINE: Duration = Duration::from_secs(5);
/// For the last events.
const FLUSH_DEADLINE: Duration = Duration::from_secs(3);
/// A server with some hundred containers needs more than the usual 1024 descriptors.
const OPEN_FILES: u64 = 16_384;

/// Why the server could not start.
#[derive(Debug, Display, Error)]
pub enum ServeError {
    /// this mode is started by `start`: {0}
    NotStarted(io::Error),
    /// cannot {what}: {source}
    Io {
        /// What was being done.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// cannot serve: {0}
    Ttrpc(ttrpc::Error),
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |source| ServeError::Io { what, source }
}

/// Serves until the last container is gone and the server with it.
///
/// # Errors
/// It could not begin to.
pub fn serve(args: &Args) -> Result<(), ServeError> {
    let handoff = Handoff::read(io::stdin().lock()).map_err(ServeError::NotStarted)?;
    let listener = StdListener::from(inherited(LISTENER_FD).map_err(ServeError::NotStarted)?);
    let startup = File::from(inherited(STARTUP_FD).map_err(ServeError::NotStarted)?);
    // The bundle must not stay busy, and our stdin is not to be inherited.
    std::env::set_current_dir("/").map_err(failed("chdir"))?;
    let null = File::open("/dev/null").map_err(failed("open /dev/null"))?;
    nix::unistd::dup2_stdin(null.as_fd()).map_err(|errno| failed("dup")(errno.into()))?;
    raise_open_files();

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_stack_size(256 << 10)
        .build()
        .map_err(failed("make a runtime"))?;
    let outcome = runtime.block_on(run(args, handoff, listener, startup));
    // What is still running waits for clients that are gone by now.
    runtime.shutdown_background();
    outcome
}

async fn run(args: &Args, handoff: Handoff, listener: StdListener, startup: File) -> Result<(), ServeError> {
    listener
        .set_nonblocking(true)
        .map_err(failed("make the socket asynchronous"))?;
    let identity = socket::file_identity(&handoff.socket).map_err(failed("find our socket"))?;
    let publisher = Publisher::start(&handoff.ttrpc_address, &args.namespace);
    let service = Service::new(&args.namespace, &handoff, publisher.clone());
    let connections = UnixListener::from_std(listener).map_err(failed("listen"))?;
    let mut server = Server::new()
        .add_listener(Listener::new(stream::unfold(connections, accept_own_user)))
        .register_service(service.methods());
    server.start().await.map_err(ServeError::Ttrpc)?;
    open_log(&handoff, startup).map_err(failed("tell that we serve"))?;
    service.launch_early(&handoff.bundle, &args.id);

    until_unneeded(service.population()).await;

    tracing::info!("shutting down");
    // From here on a `start` for the same sandbox makes a server of its own.
    if let Err(error) = socket::release(&handoff.socket, identity) {
        tracing::warn!(%error, "socket not removed");
    }
    server.stop_listen().await;
    let replied = sleep(REPLY_GRACE);
    if let Some(sandbox) = service.close().await
        && let Err(error) = sandbox.shutdown(VM_DEADLINE).await
    {
        tracing::error!(%error, "sandbox not shut down");
    }
    publisher.flush(FLUSH_DEADLINE).await;
    replied.await;
    Ok(())
}

/// The next connection of a process of our own user; others are closed without a word. Sockets in the
/// file system have modes, but a mode can be changed.
async fn accept_own_user(listener: UnixListener) -> Option<(io::Result<UnixStream>, UnixListener)> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match stream.peer_cred() {
                Ok(peer) if peer.uid() == nix::unistd::geteuid().as_raw() => {
                    return Some((Ok(stream), listener));
                }
                Ok(peer) => tracing::warn!(uid = peer.uid(), "connection of another user refused"),
                Err(error) => tracing::warn!(%error, "connection of an unknown user refused"),
            },
            Err(error) => {
                // Out of descriptors, most likely: what closes some is not far.
                sleep(REPLY_GRACE).await;
                return Some((Err(error), listener));
            }
        }
    }
}

/// Logs to the bundle's fifo from here on, and tells `start` that we serve. A bundle without one has no
/// log.
fn open_log(handoff: &Handoff, mut startup: File) -> io::Result<()> {
    match Log::open(&handoff.bundle.join("log")) {
        Ok(log) => {
            log.take_over_stdio()?;
            log.install(handoff.debug);
        }
        Err(_) => {
            let null = File::options().write(true).open(Path::new("/dev/null"))?;
            nix::unistd::dup2_stdout(null.as_fd())?;
            nix::unistd::dup2_stderr(null.as_fd())?;
        }
    }
    for warning in &handoff.warnings {
        tracing::warn!("{warning}");
    }
    startup.write_all(&[READY])
}

/// Returns when a client has asked for the end, or when there has been no container for a while.
async fn until_unneeded(mut population: watch::Receiver<Option<usize>>) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Without handlers these signals end the process; everything else works.
        return until_empty(&mut population).await;
    };
    // containerd's session may end; ours does not.
    let _ignored = signal(SignalKind::hangup());
    loop {
        let name = tokio::select! {
            () = until_empty(&mut population) => return,
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        match *population.borrow() {
            Some(0) | None => return,
            Some(containers) => {
                tracing::warn!(
                    containers,
                    "{name} ignored: stopping containers is containerd's to do"
                );
            }
        }
    }
}

async fn until_empty(population: &mut watch::Receiver<Option<usize>>) {
    let mut grace = FIRST_CREATE_GRACE;
    loop {
        let count = *population.borrow_and_update();
        match count {
            None => return,
            Some(0) => {
                if timeout(grace, population.changed()).await.is_err() {
                    tracing::info!("no containers since {} s", grace.as_secs());
                    return;
                }
            }
            Some(_) => {
                grace = IDLE_GRACE;
                if population.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// A descriptor that `start` has given us, and that is not given further.
fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD on an integer; a number that is no descriptor is an error.
    #[allow(unsafe_code)]
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, as the call above has shown, and this process, which has only begun, owns what
    // it inherited; each number is taken once.
    #[allow(unsafe_code)]
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < OPEN_FILES
    {
        // With fewer, fewer containers fit: no reason not to start.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES.min(hard), hard);
    }
}
