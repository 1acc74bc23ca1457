use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::*;
use crate::api::Event;

/// Far longer than any test needs. Reaching it is a failure.
const DEADLINE: Duration = Duration::from_secs(20);

/// Timeout of a script that hangs on purpose. It is long enough for a shell to start on a busy machine.
const HANG: Duration = Duration::from_secs(3);

/// Writes a script, by means of another process. If this process had the file open for writing, a script that another
/// test thread starts at that moment would inherit the descriptor, and running this one would fail with ETXTBSY.
pub(super) fn script(directory: &Path, name: &str, body: &str) -> PathBuf {
    let path = directory.join(name);
    let mut install = std::process::Command::new("install")
        .args(["-m", "755", "/dev/stdin"])
        .arg(&path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = install.stdin.take().unwrap();
    write!(stdin, "#!/bin/sh\ncd '{}'\n{body}\n", directory.display()).unwrap();
    drop(stdin);
    assert!(install.wait().unwrap().success());
    path
}

#[test]
fn a_wish_that_could_not_start_is_void_once_another_waits_or_the_end_comes() {
    let mut wishes = Wishes::default();
    let admission = |accepted, overtakes| Admission {
        accepted,
        overtakes,
    };
    assert_eq!(wishes.add(wish(Which::Down)), admission(true, false));
    assert_eq!(wishes.add(wish(Which::Up)), admission(true, true));
    wishes.start();
    assert_eq!(wishes.add(wish(Which::Up)), admission(false, false));
    assert!(!wishes.is_superseded());
    assert_eq!(wishes.add(wish(Which::Down)), admission(true, false));
    assert!(wishes.is_superseded());
    assert_eq!(wishes.add(wish(Which::Up)), admission(false, true));
    assert!(!wishes.is_superseded());
    wishes.closed = true;
    assert!(wishes.is_superseded());
}

#[test]
fn a_shortage_passes_and_a_missing_script_stays_missing() {
    let passes = |errno| is_shortage(&io::Error::from_raw_os_error(errno));
    assert!(passes(libc::EMFILE) && passes(libc::EAGAIN));
    assert!(!passes(libc::ENOENT) && !passes(libc::EACCES));
}

fn wish(which: Which) -> Wish {
    Wish {
        which,
        state: match which {
            Which::Up => State::Master,
            Which::Down => State::Backup,
        },
        interface: "eth0".into(),
    }
}

/// The completions of one runner.
type Ended = mpsc::UnboundedReceiver<(usize, Completion)>;

/// The events of one runner.
type Told = Arc<Mutex<Vec<Event>>>;

fn runner(up: Option<PathBuf>, down: Option<PathBuf>, timeout: Duration) -> (Runner, Ended) {
    let (runner, ended, _) = telling_runner(up, down, timeout);
    (runner, ended)
}

fn telling_runner(
    up: Option<PathBuf>,
    down: Option<PathBuf>,
    timeout: Duration,
) -> (Runner, Ended, Told) {
    let told = Told::default();
    let outbox = Outbox::new({
        let told = Arc::clone(&told);
        move |event| told.lock().unwrap().push(event)
    });
    let scripts = Scripts {
        up,
        down,
        xparam: Some("x y".into()),
        timeout,
    };
    let (completions, ended) = mpsc::unbounded_channel();
    let runner = Runner::new(
        place(),
        scripts,
        Vhid::new(7).unwrap(),
        VirtualAddress {
            address: "10.0.0.1".parse().unwrap(),
            prefix: 24,
        },
        5,
        completions,
        outbox,
    );
    (runner, ended, told)
}

fn place() -> Place {
    Place::VirtualHost {
        interface: "eth0".into(),
        vhid: Vhid::new(7).unwrap(),
    }
}

/// Returns the names of the events, each of which must be about the virtual host.
fn names(told: &Told) -> Vec<&'static str> {
    let told = told.lock().unwrap();
    assert!(told.iter().all(|event| event.place == place()));
    told.iter().map(|event| event.what.name()).collect()
}

async fn completion(ended: &mut Ended) -> Completion {
    let (vhost, completion) = timeout(DEADLINE, ended.recv())
        .await
        .expect("a script must end")
        .expect("the runner lives");
    assert_eq!(vhost, 5);
    completion
}

/// Waits for `condition`, and fails with `claim` when it takes too long.
async fn until(condition: impl Fn() -> bool, claim: &str) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, wait)
        .await
        .unwrap_or_else(|_| panic!("{claim}"));
}

async fn appears(path: &Path) {
    until(|| path.exists(), &format!("{} must appear", path.display())).await;
}

#[tokio::test]
async fn arguments_arrive_as_given_and_environment_is_inherited() {
    let directory = tempfile::tempdir().unwrap();
    let up = script(
        directory.path(),
        "up",
        r#"printf '%s\n' "$#" "$@" "${PATH:+path}" > out
printenv CARPD_INTERFACE CARPD_VHID CARPD_STATE CARPD_ADDRESS CARPD_PREFIX >> out; cat >> out"#,
    );
    let (runner, mut ended) = runner(Some(up), None, DEADLINE);
    let _ = runner.request(wish(Which::Up));
    assert_eq!(
        completion(&mut ended).await,
        Completion {
            which: Which::Up,
            outcome: Outcome::Succeeded
        }
    );
    let out = fs::read_to_string(directory.path().join("out")).unwrap();
    assert_eq!(
        out,
        "3\neth0\n10.0.0.1\nx y\npath\neth0\n7\nMASTER\n10.0.0.1\n24\n"
    );
}

#[tokio::test]
async fn only_the_latest_wish_waits_and_runs_after_the_running_script() {
    let directory = tempfile::tempdir().unwrap();
    let body = "echo $0 begins >> out; touch started; while [ ! -e go ]; do sleep 0.01; done; echo ends >> out";
    let up = script(directory.path(), "up", body);
    let down = script(directory.path(), "down", "echo down >> out");
    let (runner, mut ended) = runner(Some(up.clone()), Some(down), DEADLINE);
    let _ = runner.request(wish(Which::Up));
    appears_while_running(&mut ended, &directory.path().join("started")).await;
    for which in [Which::Down, Which::Up, Which::Down, Which::Down] {
        let _ = runner.request(wish(which));
    }
    fs::write(directory.path().join("go"), "").unwrap();
    assert_eq!(completion(&mut ended).await.which, Which::Up);
    assert_eq!(completion(&mut ended).await.which, Which::Down);
    runner.finish().await;
    let out = fs::read_to_string(directory.path().join("out")).unwrap();
    assert_eq!(out, format!("{} begins\nends\ndown\n", up.display()));
}

#[tokio::test]
async fn opposite_pair_behind_a_running_script_collapses() {
    let directory = tempfile::tempdir().unwrap();
    let up = script(
        directory.path(),
        "up",
        "touch started; while [ ! -e go ]; do sleep 0.01; done; echo up >> out",
    );
    let down = script(directory.path(), "down", "echo down >> out");
    let (runner, mut ended) = runner(Some(up), Some(down), DEADLINE);
    let _ = runner.request(wish(Which::Up));
    appears_while_running(&mut ended, &directory.path().join("started")).await;
    let _ = runner.request(wish(Which::Down));
    let _ = runner.request(wish(Which::Up));
    fs::write(directory.path().join("go"), "").unwrap();
    assert_eq!(completion(&mut ended).await.which, Which::Up);
    runner.finish().await;
    assert_eq!(
        fs::read_to_string(directory.path().join("out")).unwrap(),
        "up\n"
    );
}

async fn appears_while_running(ended: &mut Ended, path: &Path) {
    tokio::select! {
        () = appears(path) => {}
        early = ended.recv() => panic!("ended too early: {early:?}"),
    }
}

#[tokio::test]
async fn hanging_script_is_ended_with_everything_it_started() {
    let directory = tempfile::tempdir().unwrap();
    // Both processes ignore TERM, and both hold the FIFO open. Its reader reaches the end only when both are gone.
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let body =
        "trap '' TERM; exec 9> fifo; (while :; do sleep 1; done) & while :; do sleep 1; done";
    let up = script(directory.path(), "up", body);
    let down = script(directory.path(), "down", "touch after");
    let reader = std::thread::spawn(move || fs::read(fifo));
    let (runner, mut ended) = runner(Some(up), Some(down), HANG);
    let _ = runner.request(wish(Which::Up));
    assert_eq!(
        completion(&mut ended).await,
        Completion {
            which: Which::Up,
            outcome: Outcome::TimedOut
        }
    );
    until(|| reader.is_finished(), "the grandchild must be gone").await;
    let _ = runner.request(wish(Which::Down));
    runner.finish().await;
    assert!(
        directory.path().join("after").exists(),
        "the next script must run"
    );
}

#[tokio::test]
async fn script_that_heeds_term_is_not_killed() {
    let directory = tempfile::tempdir().unwrap();
    let body = "trap 'touch cleaned; exit 0' TERM; touch started; while :; do sleep 0.01; done";
    let up = script(directory.path(), "up", body);
    let (runner, mut ended, told) = telling_runner(Some(up), None, HANG);
    let _ = runner.request(wish(Which::Up));
    assert_eq!(completion(&mut ended).await.outcome, Outcome::TimedOut);
    assert!(
        directory.path().join("started").exists(),
        "the shell must have set its trap within the timeout"
    );
    assert!(directory.path().join("cleaned").exists());
    assert_eq!(names(&told), ["script-spawning", "script-overdue"]);
}

#[tokio::test]
async fn missing_and_failing_and_absent_scripts_do_not_stop_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    let failing = script(directory.path(), "down", "exit 3");
    let (runner, mut ended, told) = telling_runner(
        Some(directory.path().join("missing")),
        Some(failing.clone()),
        DEADLINE,
    );
    let _ = runner.request(wish(Which::Up));
    assert_eq!(
        completion(&mut ended).await,
        Completion {
            which: Which::Up,
            outcome: Outcome::NotStarted
        }
    );
    let _ = runner.request(wish(Which::Down));
    assert_eq!(
        completion(&mut ended).await,
        Completion {
            which: Which::Down,
            outcome: Outcome::Failed
        }
    );
    let told = names(&told);
    let not_started = ["script-spawning", "script-not-started"];
    assert_eq!(
        told,
        [not_started, ["script-spawning", "script-failed"]].concat()
    );
    let (runner, mut ended) = super::tests::runner(None, Some(failing), DEADLINE);
    let _ = runner.request(wish(Which::Up));
    assert_eq!(
        completion(&mut ended).await,
        Completion {
            which: Which::Up,
            outcome: Outcome::Absent
        }
    );
}
