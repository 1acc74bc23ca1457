//! Fuzzes the command line, with a password file and a file of virtual hosts. A password must not appear in any
//! output.
//!
//! Input, in three parts separated by NUL bytes: the words of the command line, one in each line; the file of virtual
//! hosts; the password file. The very first byte chooses how the password is given ([`SPELLINGS`]) and whether the
//! file begins with it. In the words, `@v` and `@o` stand for the paths of the files. A line of virtual hosts may
//! begin with `@p`, a password in a place where none is permitted.

use std::error::Error as _;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use carp_common::proto::Key;
use carp_daemon::cli::{self, Invocation, Task};

/// A text that no message contains by chance.
const SECRET: &str = "xYzzy-7";

/// The first words. They precede the others, because an option before them could take them as its value.
const SPELLINGS: [&[&str]; 8] = [
    &[],
    &["-p", "xYzzy-7"],
    &["-pxYzzy-7"],
    &["--pass", "xYzzy-7"],
    &["--pass=xYzzy-7"],
    &["-PBpxYzzy-7"],
    &["--pas=xYzzy-7"],
    &["-p=xYzzy-7"],
];

/// Bit of the first byte: the password file begins with the secret.
const IN_FILE: u8 = 8;

/// Runs one input; see the module.
pub fn target(data: &[u8]) {
    let Some((&choice, text)) = data.split_first() else {
        return;
    };
    let mut parts = text.splitn(3, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (words, vhosts, passfile) = (without_secret(part()), without_secret(part()), part());

    let secret: &[u8] = if choice & IN_FILE == 0 {
        b""
    } else {
        SECRET.as_bytes()
    };
    let passfile = Unnamed::new(&[secret, passfile].concat());
    let lines = vhosts.split(|byte| *byte == b'\n').map(|line| match line {
        [b'@', b'p', rest @ ..] => [b"-p", SECRET.as_bytes(), rest].concat(),
        _ => replace(line, b"@o", passfile.path.as_bytes()),
    });
    let vhosts = Unnamed::new(&lines.collect::<Vec<_>>().join(&b'\n'));
    let spelling = SPELLINGS[usize::from(choice) % SPELLINGS.len()];
    let others = words.split(|byte| *byte == b'\n').map(|word| {
        replace(
            &replace(word, b"@v", vhosts.path.as_bytes()),
            b"@o",
            passfile.path.as_bytes(),
        )
    });
    let argv = std::iter::once(OsString::from("carpd"))
        .chain(spelling.iter().map(OsString::from))
        .chain(others.map(OsString::from_vec))
        .collect();

    let result = cli::parse(argv);
    let mut shown = format!("{result:?}");
    match &result {
        Ok(Task::Print(text)) => shown.push_str(text),
        Ok(Task::Detach(_)) => {}
        Ok(Task::Run(invocation)) => {
            for line in invocation.notes.iter().chain(&invocation.warnings) {
                shown.push_str(line);
            }
            check(invocation);
        }
        Err(error) => {
            let text = error.to_string();
            assert!(!text.trim().is_empty());
            shown.push_str(&text);
            let mut cause = error.source();
            while let Some(error) = cause {
                write!(shown, "{error} {error:?}").expect("a string");
                cause = error.source();
            }
        }
    }
    assert!(!shown.contains(SECRET), "{shown}");
}

/// Checks what the types do not guarantee.
fn check(invocation: &Invocation) {
    let vhosts = &invocation.config.vhosts;
    assert!(!vhosts.is_empty());
    for (index, vhost) in vhosts.iter().enumerate() {
        let identity = |index: usize| (&vhosts[index].interface, vhosts[index].election.vhid);
        assert!(
            (0..index).all(|before| identity(before) != identity(index)),
            "twice"
        );
        assert!((1..128).contains(&vhost.interface.len()));
        assert_ne!((vhost.election.advbase.0, vhost.election.advskew.0), (0, 0));
        assert_ne!(vhost.election.key, Key::new(b"").expect("short enough"));
        assert!(vhost.group.is_multicast());
        assert!(vhost.source.is_none_or(|source| !source.is_multicast()));
        let [address] = &vhost.addresses[..] else {
            panic!("one address for now: {:?}", vhost.addresses);
        };
        assert!(address.address.is_ipv4() && (1..=32).contains(&address.prefix));
        let scripts = [&vhost.scripts.up, &vhost.scripts.down];
        assert!(
            scripts
                .into_iter()
                .flatten()
                .all(|script| script.is_absolute())
        );
        assert!(!vhost.election.addresses.inet().is_empty());
    }
}

/// A file that disappears when it is closed, and the path by which it can be opened until then.
struct Unnamed {
    _file: File,
    path: OsString,
}

impl Unnamed {
    fn new(content: &[u8]) -> Self {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(content).expect("to write it");
        let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
        Self { _file: file, path }
    }
}

fn without_secret(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    while let Some(at) = find(&bytes, SECRET.as_bytes()) {
        bytes.remove(at);
    }
    bytes
}

fn replace(bytes: &[u8], token: &[u8], with: &[u8]) -> Vec<u8> {
    match find(bytes, token) {
        Some(at) => [&bytes[..at], with, &bytes[at + token.len()..]].concat(),
        None => bytes.to_vec(),
    }
}

fn find(bytes: &[u8], token: &[u8]) -> Option<usize> {
    bytes
        .windows(token.len())
        .position(|window| window == token)
}
