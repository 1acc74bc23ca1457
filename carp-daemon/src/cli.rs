//! ucarp's command line, and a few options of our own, to a validated [`Config`].
//!
//! Both spellings of every option, `getopt_long`'s abbreviations, and the last of a repeated option, as with ucarp.
//! Where ucarp silently makes something else of a value (numbers modulo 256, an unknown facility, words left over),
//! this refuses it, naming the option, the value and what is accepted.

mod getopt;
mod interface;
mod password;
mod state_directory;
mod values;
mod vhosts;

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use carp_common::units::{AdvBase, AdvSkew, DeadRatio, Priority, Profile, Vhid};
use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser};

use crate::config::{Config, Datapath, Fence, Ownership, Scripts, VhostConfig, VirtualAddress};
use crate::log;

pub use password::PassfileError;
use password::Password;
use values::Lease;

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// Print this on standard output and exit 0.
    Print(String),
    /// Run.
    Run(Box<Invocation>),
    /// Remove what a killed carpd left attached to this interface.
    Detach(String),
}

/// A run of the daemon.
#[derive(Debug)]
pub struct Invocation {
    /// What to serve.
    pub config: Config,
    /// What to log.
    pub log: log::Settings,
    /// In the background (`-B`).
    pub daemonize: bool,
    /// For the log once there is one: what we decided in the operator's place.
    pub notes: Vec<String>,
    /// For the log once there is one: what someone should look at.
    pub warnings: Vec<String>,
}

/// Why the command line was refused. Exit status 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option or a value of its own.
    #[error("{}", .0.to_string().trim_end())]
    Usage(Box<clap::Error>),
    /// Something required is not there.
    #[error("error: You must supply {what} ({options}): {accepted}")]
    Missing {
        /// In ucarp's words.
        what: &'static str,
        /// The options that supply it.
        options: &'static str,
        /// What they take.
        accepted: &'static str,
    },
    /// The password is not usable; it is not shown.
    #[error("error: invalid password from {origin}: {reason}")]
    Password {
        /// `--pass` or the file.
        origin: String,
        /// Why not, and what would be.
        reason: String,
    },
    /// The password file is not usable.
    #[error("error: invalid value '{}' for '--passfile <FILE>': {reason}", .path.display())]
    Passfile {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: PassfileError,
    },
    /// The file of virtual hosts cannot be read.
    #[error("error: invalid value '{}' for '--vhosts <FILE>'", .path.display())]
    Vhosts {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// One of its lines is refused.
    #[error("error: {}:{line}: {}", .path.display(), .reason.to_string().trim_start_matches("error: "))]
    VhostsLine {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Why.
        reason: Box<Error>,
    },
    /// An option where it has no meaning, and where it has one.
    #[error("error: {0}")]
    Misplaced(String),
    /// The interfaces could not be listed.
    #[error("error: failed to look for a network interface, name one with --interface (-i)")]
    Interfaces(#[source] nix::errno::Errno),
    /// The current directory, which a relative path starts from, is gone.
    #[error("error: failed to find the directory that '{}' is relative to", .path.display())]
    RelativePath {
        /// The script or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

const AFTER_HELP: &str = "\
Example: share 10.1.1.252 on eth0; carpd adds and removes the address itself.

  carpd --interface=eth0 --vhid=1 --passfile=/etc/carpd.pass --addr=10.1.1.252/24

With --upscript the scripts own the address, exactly as with ucarp:

  carpd --interface=eth0 --srcip=10.1.1.1 --vhid=1 --passfile=/etc/carpd.pass --addr=10.1.1.252 \\
        --upscript=/etc/vip-up.sh --downscript=/etc/vip-down.sh --shutdown

Numbers are decimal, hexadecimal after 0x, octal after 0. Long options may be abbreviated. Of a repeated option the \
last one counts.

Signals: USR1 logs state and counters; USR2 steps down for 3 s; TERM, INT, QUIT and HUP stop, handing over at once.
Exit status: 0 after an ordered stop or where a carpd with these options serves already, 1 for usage and configuration, 2 for what failed at run time.";

/// carpd shares virtual IP addresses between hosts: CARP for Linux, in ucarp's place.
#[derive(Debug, Parser)]
#[command(
    name = "carpd",
    version,
    infer_long_args = true,
    args_override_self = true,
    disable_help_flag = true,
    disable_version_flag = true,
    after_help = AFTER_HELP,
    max_term_width = 110
)]
struct Arguments {
    /// Interface to share addresses on [default: the first that is up with an IPv4 address, not loopback]
    #[arg(short, long, value_name = "IF", help_heading = "Who we are", allow_hyphen_values = true,
          value_parser = values::interface)]
    interface: Option<String>,

    /// Our own address, source of advertisements [default: the interface's first]
    #[arg(short, long, value_name = "IP", help_heading = "Who we are", allow_hyphen_values = true,
          value_parser = values::source)]
    srcip: Option<Ipv4Addr>,

    /// Virtual host id, the same on all hosts that share an address: 1 to 255
    // The aliases keep ucarp's abbreviations, which --version and --vhosts would make ambiguous.
    #[arg(short, long, aliases = ["v", "vh"], value_name = "ID", help_heading = "Who we are", allow_hyphen_values = true,
          value_parser = values::vhid)]
    vhid: Option<Vhid>,

    /// Serve several virtual hosts in one process: each line of FILE holds the options of one
    #[arg(long, value_name = "FILE", help_heading = "Who we are")]
    vhosts: Option<PathBuf>,

    /// Password, at most 19 bytes; other users could read it before it is hidden, so better use --passfile
    #[arg(
        short,
        long,
        value_name = "PASSWORD",
        help_heading = "Who we are",
        allow_hyphen_values = true,
        overrides_with = "passfile"
    )]
    // Which of the passwords that `getopt` found.
    pass: Option<usize>,

    /// File whose first line is the password
    #[arg(
        short = 'o',
        long,
        value_name = "FILE",
        help_heading = "Who we are",
        allow_hyphen_values = true,
        overrides_with = "pass"
    )]
    passfile: Option<PathBuf>,

    /// Virtual address, the same on all hosts; carpd assigns it with this prefix length [default prefix: 32]
    #[arg(short, long, value_name = "IP[/PREFIX]", help_heading = "Who we are", allow_hyphen_values = true,
          value_parser = values::virtual_address)]
    addr: Option<VirtualAddress>,

    /// Seconds between two advertisements: 0 to 255
    #[arg(short = 'b', long, value_name = "SECONDS", help_heading = "Election", allow_hyphen_values = true,
          default_value = "1", value_parser = values::byte)]
    advbase: u8,

    /// Added to --advbase, in 1/256 s: 0 to 255; the host that advertises most often is preferred
    #[arg(short = 'k', long, value_name = "SKEW", help_heading = "Election", allow_hyphen_values = true,
          default_value = "0", value_parser = values::byte)]
    advskew: u8,

    /// A master is dead after this many times --advbase of silence: 1 to 255
    #[arg(short = 'r', long, value_name = "RATIO", help_heading = "Election", allow_hyphen_values = true,
          default_value = "3", value_parser = values::dead_ratio)]
    deadratio: DeadRatio,

    /// Take over from a worse master at once, instead of waiting for its silence
    // The alias keeps ucarp's abbreviation, which --profile would make ambiguous.
    #[arg(short = 'P', long, alias = "pr", help_heading = "Election")]
    preempt: bool,

    /// Whose habits to follow on the wire [default: ucarp]
    #[arg(long, value_name = "PROFILE", help_heading = "Election", value_parser = values::profile(),
          default_value = "ucarp", hide_default_value = true)]
    profile: Profile,

    /// Accept only advertisements whose counter rises, against replay; every peer must be carpd, the password one that no ucarp used
    #[arg(long, help_heading = "Election")]
    strict_counter: bool,

    /// No peer is an OpenBSD: a counter that was heard before proves nothing, whoever repeats it
    #[arg(long, help_heading = "Election")]
    no_openbsd: bool,

    /// Run FILE IF ADDR [XPARAM] to become master; without it carpd adds and removes the address itself
    #[arg(
        short,
        long,
        value_name = "FILE",
        help_heading = "Scripts",
        allow_hyphen_values = true
    )]
    upscript: Option<PathBuf>,

    /// Run FILE IF ADDR [XPARAM] to become backup, also at start
    #[arg(
        short,
        long,
        value_name = "FILE",
        help_heading = "Scripts",
        allow_hyphen_values = true
    )]
    downscript: Option<PathBuf>,

    /// Third argument of the scripts
    #[arg(
        short,
        long,
        value_name = "VALUE",
        help_heading = "Scripts",
        allow_hyphen_values = true
    )]
    xparam: Option<OsString>,

    /// Do not run the down script at start
    #[arg(short, long, help_heading = "Scripts")]
    neutral: bool,

    /// Run the down script at exit, unless backup
    #[arg(short = 'z', long, help_heading = "Scripts")]
    shutdown: bool,

    /// End a script, with all it started, after this long: 1 to 86400
    #[arg(long, value_name = "SECONDS", help_heading = "Scripts", allow_hyphen_values = true, default_value = "60",
          value_parser = values::script_timeout)]
    script_timeout: Duration,

    /// Multicast group of the advertisements
    #[arg(short, long, visible_alias = "mcastip", value_name = "IP", help_heading = "Network",
          allow_hyphen_values = true, default_value = "224.0.0.18", value_parser = values::group)]
    mcast: Ipv4Addr,

    /// Send advertisements as Ethernet broadcast and do not join the group
    // The alias keeps ucarp's abbreviation, which --no-openbsd would make ambiguous.
    #[arg(short = 'M', long, alias = "no", help_heading = "Network")]
    nomcast: bool,

    /// Ignore the carrier of the interface
    #[arg(short = 'S', long, help_heading = "Network")]
    ignoreifstate: bool,

    /// Wait for an interface that is not there yet
    #[arg(long, help_heading = "Network")]
    wait_interface: bool,

    /// How advertisements are received
    #[arg(
        long,
        value_enum,
        value_name = "PATH",
        help_heading = "Network",
        default_value = "auto"
    )]
    datapath: Datapath,

    /// What the kernel drops while a master's daemon is dead, stopped or starved; not with the datapath socket
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        help_heading = "Guard",
        default_value = "arp"
    )]
    fence: Fence,

    /// The addresses carpd adds vanish by themselves this long after a daemon died: 5 to 86400, 0 for never
    #[arg(long, value_name = "SECONDS", help_heading = "Guard", allow_hyphen_values = true, default_value = "30",
          value_parser = values::lease)]
    lease: Lease,

    /// Run before every ordinary process (SCHED_RR), with all memory locked; needs CAP_SYS_NICE and CAP_IPC_LOCK
    #[arg(long, help_heading = "Guard")]
    realtime: bool,

    /// Keep what was heard from peers in DIR over a restart, against replay; makes DIR [default: $STATE_DIRECTORY, else
    /// /var/lib/carpd where that exists]
    #[arg(
        long,
        value_name = "DIR",
        help_heading = "Guard",
        allow_hyphen_values = true
    )]
    state_dir: Option<PathBuf>,

    /// Remove the kernel program that a killed carpd left on the interface, and exit
    #[arg(
        long,
        value_name = "IF",
        help_heading = "Guard",
        allow_hyphen_values = true,
        value_parser = values::interface
    )]
    detach: Option<String>,

    /// Run in the background; the exit status tells how the start went
    // The alias keeps ucarp's abbreviation, which --datapath would make ambiguous.
    #[arg(short = 'B', long, alias = "da", help_heading = "Process")]
    daemonize: bool,

    /// Syslog facility, `none` for no syslog [default: daemon; none where the output goes to the journal]
    // The alias keeps ucarp's abbreviation, which --fence would make ambiguous.
    #[arg(short, long, alias = "f", value_name = "FACILITY", help_heading = "Process", allow_hyphen_values = true,
          value_parser = values::facility)]
    facility: Option<log::Destination>,

    /// Log what is received and decided in detail
    #[arg(short = 'D', long, help_heading = "Process")]
    debug: bool,

    /// Print this
    #[arg(short, long, action = ArgAction::HelpShort, help_heading = "Process")]
    help: Option<bool>,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = "Process")]
    version: Option<bool>,
}

/// Reads the process's command line; `argv[0]` is its name.
///
/// A password in it is overwritten, in the process's own memory, before this returns.
///
/// # Errors
///
/// What is wrong with it, for the operator, who gets exit status 1.
pub fn parse(argv: Vec<OsString>) -> Result<Request, Error> {
    let mut command = Arguments::command();
    command.build();
    if argv.len() <= 1 {
        return Ok(Request::Print(command.render_help().to_string()));
    }
    let getopt::Words { words, secrets } = getopt::walk(&command, &argv);
    let hidden = password::hide(&argv, &secrets);
    let passwords = password::extract(argv, &secrets);
    let matches = command.try_get_matches_from_mut(words);
    let parsed = matches.and_then(|matches| {
        let arguments = Arguments::from_arg_matches_mut(&mut matches.clone())?;
        Ok((matches, arguments))
    });
    let (matches, arguments) = match parsed {
        Ok(parsed) => parsed,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            ) =>
        {
            return Ok(Request::Print(error.to_string()));
        }
        Err(error) => return Err(Error::Usage(Box::new(error))),
    };
    if let Some(interface) = arguments.detach {
        return Ok(Request::Detach(interface));
    }
    if arguments.vhosts.is_some() {
        vhosts::refuse_others(&command, &matches)?;
    }
    let mut invocation = validate(arguments, passwords)?;
    if let Err(error) = hidden {
        invocation.warnings.push(format!(
            "the password stays visible in the process list: {error}"
        ));
    }
    Ok(Request::Run(Box::new(invocation)))
}

/// What concerns more than one option, and what needs the system.
fn validate(mut arguments: Arguments, passwords: Vec<Password>) -> Result<Invocation, Error> {
    let mut notes = Vec::new();
    let mut warnings = Vec::new();
    let vhosts = match arguments.vhosts.take() {
        Some(file) => vhosts::read(&file, &mut notes, &mut warnings)?,
        None => vec![virtual_host(
            &mut arguments,
            passwords,
            &mut notes,
            &mut warnings,
        )?],
    };
    let state_directory = state_directory::choose(
        arguments.state_dir.as_deref(),
        std::env::var_os(state_directory::VARIABLE),
        Path::new(state_directory::DEFAULT),
    )
    .map_err(|source| Error::RelativePath {
        path: arguments.state_dir.take().unwrap_or_default(),
        source,
    })?;
    Ok(Invocation {
        config: Config {
            vhosts,
            datapath: arguments.datapath,
            fence: arguments.fence,
            lease: arguments.lease.0,
            wait_interface: arguments.wait_interface,
            realtime: arguments.realtime,
            state_directory,
            debug: arguments.debug,
        },
        log: log::Settings {
            debug: arguments.debug,
            syslog: arguments.facility.unwrap_or_default(),
        },
        daemonize: arguments.daemonize,
        notes,
        warnings,
    })
}

/// The virtual host that the options describe; takes its values out of them.
fn virtual_host(
    arguments: &mut Arguments,
    passwords: Vec<Password>,
    notes: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Result<VhostConfig, Error> {
    let interface = match arguments.interface.take() {
        Some(interface) => interface,
        None => {
            let interface = interface::default()?;
            notes.push(format!("Using [{interface}] as a network interface"));
            interface
        }
    };
    let vhid = arguments.vhid.ok_or(Error::Missing {
        what: "a valid virtual host id",
        options: "--vhid, -v",
        accepted: "1 to 255",
    })?;
    let pass = arguments
        .pass
        .and_then(|index| passwords.into_iter().nth(index));
    let key = password::key(
        pass,
        arguments.passfile.take(),
        arguments.profile,
        notes,
        warnings,
    )?;
    let priority = Priority {
        advbase: AdvBase(arguments.advbase),
        advskew: AdvSkew(arguments.advskew),
    };
    if (arguments.advbase, arguments.advskew) == (0, 0) {
        return Err(Error::Missing {
            what: "an advertisement time base",
            options: "--advbase, -b, or --advskew, -k",
            accepted: "one of them from 1 to 255, both are 0",
        });
    }
    if priority == Priority::BOW_OUT {
        warnings.push(
            "--advbase 255 with --advskew 255 is how a leaving master says that it leaves"
                .to_owned(),
        );
    }
    let address = arguments.addr.take().ok_or(Error::Missing {
        what: "a virtual host address",
        options: "--addr, -a",
        accepted: "an IPv4 address, with /PREFIX if you like",
    })?;
    let ownership = if arguments.upscript.is_some() {
        Ownership::Scripts
    } else {
        Ownership::Native
    };
    match (&arguments.upscript, &arguments.downscript) {
        (None, Some(_)) => warnings.push(format!(
            "Warning: no script called when going up: carpd adds and removes {} itself",
            address.address
        )),
        (Some(_), None) => warnings.push("Warning: no script called when going down".to_owned()),
        (None, None) | (Some(_), Some(_)) => {}
    }
    Ok(VhostConfig {
        interface,
        vhid,
        advbase: priority.advbase,
        advskew: priority.advskew,
        deadratio: arguments.deadratio,
        preempt: arguments.preempt,
        profile: arguments.profile,
        key,
        strict_counter: arguments.strict_counter,
        no_openbsd: arguments.no_openbsd,
        source: arguments.srcip,
        group: arguments.mcast,
        broadcast: arguments.nomcast,
        ignore_carrier: arguments.ignoreifstate,
        addresses: vec![address],
        ownership,
        scripts: Scripts {
            up: arguments.upscript.take().map(absolute).transpose()?,
            down: arguments.downscript.take().map(absolute).transpose()?,
            xparam: arguments.xparam.take(),
            timeout: arguments.script_timeout,
        },
        release_at_exit: arguments.shutdown,
        neutral: arguments.neutral,
    })
}

/// A daemon's directory is `/`: a relative path means the one the operator is in.
fn absolute(path: PathBuf) -> Result<PathBuf, Error> {
    std::path::absolute(&path).map_err(|source| Error::RelativePath { path, source })
}

#[cfg(test)]
mod tests;
