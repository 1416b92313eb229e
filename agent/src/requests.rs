//! Answers the host's requests, each in a task of its own: a slow one holds up no other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bulkhead_agent_protocol::link::{Incoming, Link};
use bulkhead_agent_protocol::message::{Body, Done, Envelope, Outcome, Processes, Reply, Started};

use tokio::time::timeout;

use crate::agent::Agent;
use crate::container::{create, exec, lifecycle, limits};
use crate::failure::Failure;
use crate::zygote::Spawned;
use crate::{guest, lock, reaper};

/// Requests answered at once. Each may hold a message of 4 MiB; the host has a handful under way.
const MAX_UNDER_WAY: usize = 256;

/// How long after its creation a container's counters are first sent: its start, which follows as a rule, goes
/// first, and nobody asks that soon.
const FIRST_COUNTERS: Duration = Duration::from_millis(100);

/// How long the host may take to read the last words.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What is done once the reply is on its way.
enum Then {
    Nothing,
    /// The process's exit may be told, and its worker end.
    Announce {
        container_id: String,
        exec_id: String,
        spawned: Option<Spawned>,
    },
    /// End the link, so that the VM can be saved.
    Sleep,
    /// Power off.
    PowerOff,
}

type Answer = Result<(Outcome, Then), Failure>;

/// Serves one connection until it ends.
pub async fn serve(agent: &Arc<Agent>, link: &Link, incoming: &mut Incoming) {
    let under_way = Arc::new(AtomicUsize::new(0));
    while let Some(Envelope { id, body }) = incoming.next().await {
        let (agent, link, under_way) = (Arc::clone(agent), link.clone(), Arc::clone(&under_way));
        let admitted = under_way.fetch_add(1, Ordering::Relaxed) < MAX_UNDER_WAY;
        tokio::spawn(async move {
            let answer = match body {
                Some(body) if admitted => answer(&agent, body).await,
                Some(_) => Err(Failure::state("too many requests are under way")),
                None => Err(Failure::unsupported("unknown request")),
            };
            let (outcome, then) =
                answer.unwrap_or_else(|failure| (Outcome::Failed(failure.into()), Then::Nothing));
            let reply = Envelope {
                id,
                body: Some(Body::Reply(Reply {
                    outcome: Some(outcome),
                })),
            };
            // Without a link there is nobody to tell; what was done stays done.
            let _ = link.send(reply).await;
            finish(&agent, &link, then).await;
            under_way.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn answer(agent: &Arc<Agent>, body: Body) -> Answer {
    match body {
        Body::ConfigureSandbox(request) => done(guest::configure(agent, &request)),
        Body::SyncClock(request) => done(guest::set_clock(agent, request.unix_time_ns)),
        Body::ConfigureNetwork(request) => {
            lock(&agent.nic).take();
            done(guest::network::configure(&request).await)
        }
        Body::CreateContainer(request) => {
            let container_id = request.container_id.clone();
            let spawned = create::create(agent, request).await?;
            started(spawned.pid, container_id, String::new(), Some(spawned))
        }
        Body::StartContainer(request) => {
            let container_id = request.container_id;
            match lifecycle::start(agent, &container_id).await {
                Ok(pid) => started(pid, container_id, String::new(), None),
                Err(failure) => {
                    // Init's exit was held back for this reply; a second start has not held it.
                    let then = Then::Announce {
                        container_id,
                        exec_id: String::new(),
                        spawned: None,
                    };
                    Ok((Outcome::Failed(failure.into()), then))
                }
            }
        }
        Body::Exec(request) => {
            let (container_id, exec_id) = (request.container_id.clone(), request.exec_id.clone());
            let spawned = exec::exec(agent, request).await?;
            started(spawned.pid, container_id, exec_id, Some(spawned))
        }
        Body::Kill(request) => done(limits::kill(agent, &request)),
        Body::ResizePty(request) => done(limits::resize(agent, &request)),
        Body::Pause(request) => done(lifecycle::freeze(agent, &request.container_id, true).await),
        Body::Resume(request) => done(lifecycle::freeze(agent, &request.container_id, false).await),
        Body::Update(request) => done(limits::update(agent, &request).await),
        Body::Pids(request) => {
            let processes = limits::processes(agent, &request.container_id)?;
            Ok((Outcome::Processes(Processes { processes }), Then::Nothing))
        }
        Body::Delete(request) => {
            done(lifecycle::delete(agent, &request.container_id, &request.exec_id).await)
        }
        Body::PrepareToBeSaved(_) => {
            if agent.agree_to_sleep() {
                Ok((Outcome::Done(Done {}), Then::Sleep))
            } else {
                Err(Failure::state("this VM has an owner already"))
            }
        }
        Body::Shutdown(_) => {
            guest::shutdown::stop_everything(agent).await;
            Ok((Outcome::Done(Done {}), Then::PowerOff))
        }
        Body::Ping(_) => done(Ok(())),
        Body::Reply(_) | Body::Exited(_) | Body::Oom(_) | Body::Stats(_) | Body::Log(_) => {
            Err(Failure::invalid("this message goes from guest to host"))
        }
    }
}

async fn finish(agent: &Arc<Agent>, link: &Link, then: Then) {
    match then {
        Then::Nothing => {}
        Then::Announce {
            container_id,
            exec_id,
            spawned,
        } => {
            reaper::announce(agent, &container_id, &exec_id).await;
            let is_new = spawned.is_some() && exec_id.is_empty();
            drop(spawned);
            if is_new {
                // The host answers from memory, also for a container that was only just created.
                let agent = Arc::clone(agent);
                tokio::spawn(async move {
                    tokio::time::sleep(FIRST_COUNTERS).await;
                    agent.send_stats_of(&container_id);
                });
            }
        }
        Then::Sleep => {
            // A host that does not read will not save the VM either.
            let _ = timeout(LAST_WORDS, link.flush()).await;
            link.close();
        }
        Then::PowerOff => {
            let last_words = async {
                agent.events_sent().await;
                link.flush().await
            };
            // If the host does not read, they are lost, and it sees the machine end instead.
            let _ = timeout(LAST_WORDS, last_words).await;
            guest::shutdown::power_off(agent);
        }
    }
}

fn done(outcome: Result<(), Failure>) -> Answer {
    outcome.map(|()| (Outcome::Done(Done {}), Then::Nothing))
}

fn started(pid: i32, container_id: String, exec_id: String, spawned: Option<Spawned>) -> Answer {
    let pid = u32::try_from(pid).unwrap_or_default();
    Ok((
        Outcome::Started(Started { pid }),
        Then::Announce {
            container_id,
            exec_id,
            spawned,
        },
    ))
}
