//! Runs the engine: opens the host, gives the engine its turns, and ends in an orderly way.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use carp_common::proto::vhost::LONGEST_TURN;

use crate::api::event::process::Process;
use crate::api::{Event, Place};
use crate::config::Config;
use crate::engine::{Engine, EngineError};
use crate::host::{Host, Wake};
use crate::io::signals::Signals;
use crate::io::timer::DeadlineTimer;
use crate::{log, privileges, sys};

/// How long the program of a MASTER that bowed out stays attached, so that the others can take over first. Detaching
/// it resets the queues of some network cards. The last backup takes over after its turn, and what the bow-out and that
/// backup take to get there.
const HAND_OVER: Duration = LONGEST_TURN.saturating_add(Duration::from_millis(23));

/// Descriptors of a virtual host: the locks of its vhid and address, and the one that watches its script.
const DESCRIPTORS_OF_A_VHOST: usize = 3;
/// Descriptors of a served interface: its sockets, its attachment and that one's lock.
const DESCRIPTORS_OF_AN_INTERFACE: usize = 8;
/// Descriptors of any link: the program at its egress if that is not pinned, once more for the thread that checks it,
/// and twice that because as many links may still appear.
const DESCRIPTORS_OF_A_LINK: usize = 4;
/// All other descriptors: maps, programs, netlink, the timer, and short-lived ones.
const OTHER_DESCRIPTORS: usize = 128;

/// Serves every virtual host of the configuration until asked to stop.
///
/// Runs on a tokio `current_thread` runtime with I/O and time enabled. `on_ready` is called once every step of the
/// start that needs privileges beyond serving has succeeded.
///
/// # Errors
/// Returns what failed at the start or in `on_ready`, or what makes it impossible to continue.
pub async fn run(
    config: Config,
    on_ready: impl FnOnce() -> Result<(), privileges::PrivilegesError>,
) -> Result<(), EngineError> {
    let system = |action| move |source| EngineError::System { action, source };
    let mut signals = Signals::new().map_err(system("handle signals"))?;
    let mut timer = DeadlineTimer::new().map_err(system("create a timer"))?;
    let mut host = Host::new(&config)?;
    let links = host.count_links().map_err(system("list links"))?;
    allow_descriptors(&config, links)?;
    let mut engine = match Engine::start(config, host) {
        Ok(engine) => engine,
        Err(failed) => {
            failed.effects.close(&failed.orphans);
            return Err(failed.error);
        }
    };
    sys::trim_heap();
    if let Err(error) = on_ready() {
        let (host, orphans) = engine.close();
        host.close(&orphans);
        return Err(error.into());
    }
    engine.effects_mut().settle_in();
    let outcome = serve(&mut engine, &mut timer, &mut signals).await;
    // For any end of the loop, the other hosts must hear of it and the addresses must be released.
    stop(engine, &mut timer, &mut signals).await;
    outcome
}

fn allow_descriptors(config: &Config, links: usize) -> Result<(), EngineError> {
    let interfaces: BTreeSet<_> = config.vhosts.iter().map(|it| &it.interface).collect();
    privileges::allow_descriptors(
        config.vhosts.len() * DESCRIPTORS_OF_A_VHOST
            + interfaces.len() * DESCRIPTORS_OF_AN_INTERFACE
            + links * DESCRIPTORS_OF_A_LINK
            + OTHER_DESCRIPTORS,
    )
    .map_err(|errno| EngineError::System {
        action: "allow more open files",
        source: errno.into(),
    })
}

/// Gives the engine turns until a signal asks to stop.
async fn serve(
    engine: &mut Engine<Host>,
    timer: &mut DeadlineTimer,
    signals: &mut Signals,
) -> Result<(), EngineError> {
    loop {
        match wait(engine, timer, signals).await? {
            Wake::Work => engine.turn([]),
            Wake::Told(arrival) => engine.turn([arrival]),
            Wake::Stop => {
                engine.turn([]);
                return Ok(());
            }
        }
    }
}

/// Waits until the engine is to have a turn.
async fn wait(
    engine: &mut Engine<Host>,
    timer: &mut DeadlineTimer,
    signals: &mut Signals,
) -> Result<Wake, EngineError> {
    let system = |action| move |source| EngineError::System { action, source };
    let busy = engine.is_busy();
    if busy {
        // Scripts and signals have their own tasks, which run while this one waits.
        tokio::task::yield_now().await;
    } else {
        let answers = engine.effects_mut().answers_at();
        let earliest = engine.next_wake().into_iter().chain(answers).min();
        timer.set(earliest).map_err(system("set the timer"))?;
    }
    poll_fn(|context| {
        let expired = match timer.poll_expired(context) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => busy,
        };
        match engine.effects_mut().poll_wake(signals, context) {
            Poll::Pending if expired => Poll::Ready(Ok(Wake::Work)),
            woken @ (Poll::Ready(_) | Poll::Pending) => woken,
        }
    })
    .await
    .map_err(system("wait for events"))
}

/// Stops in an orderly way: bows out, releases the addresses, and waits for scripts. A second request to stop ends
/// the wait.
///
/// The engine has turns meanwhile. It lifts the fence around addresses that are removed, tries again to remove those that
/// it could not remove, and follows interfaces that go.
async fn stop(mut engine: Engine<Host>, timer: &mut DeadlineTimer, signals: &mut Signals) {
    let handed_over = engine.shut_down();
    let memories = engine.take_memories();
    let (runners, mut keeper) = engine.effects_mut().end();
    let hand_over = async {
        if handed_over {
            tokio::time::sleep(HAND_OVER).await;
        }
        Host::finish_scripts(runners).await;
    };
    let mut finish = pin!(async { tokio::join!(hand_over, keeper.keep_all(memories)) });
    let mut waits = true;
    loop {
        let wake = tokio::select! {
            ((), ()) = &mut finish => break,
            wake = wait(&mut engine, timer, signals) => wake,
        };
        match wake {
            Ok(Wake::Work) => engine.turn([]),
            Ok(Wake::Told(arrival)) => engine.turn([arrival]),
            Ok(Wake::Stop) => {
                tell(Process::NotWaiting);
                waits = false;
                break;
            }
            // Without turns, scripts and files are still waited for.
            Err(_) => {
                tokio::select! {
                    ((), ()) = &mut finish => {}
                    () = signals.stop() => tell(Process::NotWaiting),
                }
                waits = false;
                break;
            }
        }
    }
    // The kernel may refuse to lift a fence. That is tried again for a while.
    while waits && !engine.finish() {
        match wait(&mut engine, timer, signals).await {
            Ok(Wake::Work) => engine.turn([]),
            Ok(Wake::Told(arrival)) => engine.turn([arrival]),
            Ok(Wake::Stop) | Err(_) => break,
        }
    }
    let (host, orphans) = engine.close();
    host.close(&orphans);
    tell(Process::Stopped);
}

/// Logs an event of the process. There may be no host any more.
fn tell(what: Process) {
    log::event::log(&Event::new(Place::Process, what));
}
