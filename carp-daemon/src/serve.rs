//! The daemon's caller of the engine: opens the host, lets the engine have its turns, and ends in an orderly way.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use crate::api::event::process::Process;
use crate::api::{Event, Place};
use crate::config::Config;
use crate::engine::{Engine, Error};
use crate::host::{Host, Wake};
use crate::io::signals::Signals;
use crate::io::timer::DeadlineTimer;
use crate::{log, privileges, sys};

/// How long a MASTER that bowed out lets the others take over before it takes its program off, which resets the queues of
/// some network cards. The last backup's turn comes after 62 ms.
const HAND_OVER: Duration = Duration::from_millis(100);

/// The locks of its vhid and of its address, and what watches its script.
const DESCRIPTORS_OF_A_VHOST: usize = 3;
/// Its sockets, and its attachment with a lock.
const DESCRIPTORS_OF_AN_INTERFACE: usize = 8;
/// The program at the egress of any interface, where it is not pinned, and again for the thread that looks at it; and as much
/// for as many interfaces again, which may come.
const DESCRIPTORS_OF_A_LINK: usize = 4;
/// Maps, programs, netlink, the timer, and what comes and goes.
const OTHER_DESCRIPTORS: usize = 128;

/// Serves every virtual host of the configuration until asked to stop.
///
/// Runs on a tokio `current_thread` runtime with I/O and time enabled. `on_ready` is called once every step of the
/// start that needs privileges beyond serving has succeeded.
///
/// # Errors
/// What failed at the start, also in `on_ready`, or what makes going on impossible.
pub async fn run(
    config: Config,
    on_ready: impl FnOnce() -> Result<(), privileges::Error>,
) -> Result<(), Error> {
    let system = |action| move |source| Error::System { action, source };
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
    engine.effects().settle_in();
    let outcome = serve(&mut engine, &mut timer, &mut signals).await;
    // Whatever ended it: the others hear of it, and the addresses go.
    stop(engine, &mut signals).await;
    outcome
}

fn allow_descriptors(config: &Config, links: usize) -> Result<(), Error> {
    let interfaces: BTreeSet<_> = config.vhosts.iter().map(|it| &it.interface).collect();
    privileges::allow_descriptors(
        config.vhosts.len() * DESCRIPTORS_OF_A_VHOST
            + interfaces.len() * DESCRIPTORS_OF_AN_INTERFACE
            + links * DESCRIPTORS_OF_A_LINK
            + OTHER_DESCRIPTORS,
    )
    .map_err(|errno| Error::System {
        action: "allow more open files",
        source: errno.into(),
    })
}

/// Turns until someone asks to stop.
async fn serve(
    engine: &mut Engine<Host>,
    timer: &mut DeadlineTimer,
    signals: &mut Signals,
) -> Result<(), Error> {
    let system = |action| move |source| Error::System { action, source };
    loop {
        let busy = engine.is_busy();
        if busy {
            // Scripts and signals have their own tasks, which run while this one waits.
            tokio::task::yield_now().await;
        } else {
            let answers = engine.effects().answers_at();
            let earliest = engine.next_wake().into_iter().chain(answers).min();
            timer.set(earliest).map_err(system("set the timer"))?;
        }
        let wake = poll_fn(|context| {
            let expired = match timer.poll_expired(context) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => busy,
            };
            match engine.effects().poll_wake(signals, context) {
                Poll::Pending if expired => Poll::Ready(Ok(Wake::Work)),
                woken @ (Poll::Ready(_) | Poll::Pending) => woken,
            }
        })
        .await
        .map_err(system("wait for events"))?;
        match wake {
            Wake::Work => engine.turn([]),
            Wake::Told(arrival) => engine.turn([arrival]),
            Wake::Stop => {
                engine.turn([]);
                return Ok(());
            }
        }
    }
}

/// The orderly stop: bow out, release, wait for scripts; a second request to stop ends the waiting.
async fn stop(mut engine: Engine<Host>, signals: &mut Signals) {
    let handed_over = engine.shut_down();
    let memories = engine.take_memories();
    let runners = engine.effects().take_runners();
    let hand_over = async {
        if handed_over {
            tokio::time::sleep(HAND_OVER).await;
        }
        Host::finish_scripts(runners).await;
    };
    let keep = engine.effects().keeper().keep_all(memories);
    let finish = async { tokio::join!(hand_over, keep) };
    tokio::select! {
        ((), ()) = finish => {}
        () = signals.stop() => tell(Process::NotWaiting),
    }
    let (host, orphans) = engine.close();
    host.close(&orphans);
    tell(Process::Stopped);
}

/// Logs what happened to the process, for which there may be no host any more.
fn tell(what: Process) {
    log::event::log(&Event::new(Place::Process, what));
}
