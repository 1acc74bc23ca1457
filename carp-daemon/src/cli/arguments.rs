//! Declares the options for clap, and the text of `--help`. Values stay text unless they concern the command line
//! alone. The defaults here only appear in the help.

use std::ffi::OsString;
use std::path::PathBuf;

use carp_common::units::Profile;
use clap::builder::PossibleValuesParser;
use clap::{ArgAction, Parser};

use crate::config::check::interface_name;
use crate::config::{Datapath, Fence, Named};
use crate::log::{Destination, Facility};

const AFTER_HELP: &str = "\
Example: share 10.1.1.252 on eth0; carpd adds and removes the address itself.

  carpd --interface=eth0 --vhid=1 --passfile=/etc/carpd.pass --addr=10.1.1.252/24

With --upscript, the scripts own the address, as with ucarp:

  carpd --interface=eth0 --srcip=10.1.1.1 --vhid=1 --passfile=/etc/carpd.pass --addr=10.1.1.252 \\
        --upscript=/etc/vip-up.sh --downscript=/etc/vip-down.sh --shutdown

Numbers are decimal, or hexadecimal with 0x. Long options may be abbreviated. If an option is repeated, the last one \
counts; --addr may be given only once.

Signals: USR1 logs state and counters; USR2 steps down for 3 s; TERM, INT, QUIT, HUP and any other signal that would \
end the process hand over at once and stop carpd.
Exit status: 0 after an orderly stop, or if a carpd with these options is already running; 1 for errors in usage or \
configuration; 2 for errors at run time.";

/// Share virtual IP addresses between hosts with CARP; takes ucarp's options and runs its scripts.
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
pub struct Arguments {
    /// Interface to share the address on, by any of its names [default: the first one that is up and has an IPv4 address,
    /// except loopback]
    #[arg(
        short,
        long,
        value_name = "IF",
        help_heading = "This virtual host",
        allow_hyphen_values = true
    )]
    pub interface: Option<String>,

    /// This host's own address, the source of its advertisements [default: the interface's first]
    #[arg(
        short,
        long,
        value_name = "IP",
        help_heading = "This virtual host",
        allow_hyphen_values = true
    )]
    pub srcip: Option<String>,

    /// Virtual host id, the same on all hosts that share the address: 1 to 255
    // The aliases keep ucarp's abbreviations, which --version and --vhosts would make ambiguous.
    #[arg(
        short,
        long,
        aliases = ["v", "vh"],
        value_name = "ID",
        help_heading = "This virtual host",
        allow_hyphen_values = true
    )]
    pub vhid: Option<String>,

    /// Serve several virtual hosts in one process: each line of FILE holds the options of one
    #[arg(long, value_name = "FILE", help_heading = "This virtual host")]
    pub vhosts: Option<PathBuf>,

    /// Password, at most 19 bytes; other users can read it for a moment, so prefer --passfile
    #[arg(
        short,
        long,
        value_name = "PASSWORD",
        help_heading = "This virtual host",
        allow_hyphen_values = true
    )]
    // The index of the password among those that `getopt` found.
    pub pass: Option<usize>,

    /// File whose first line is the password
    #[arg(
        short = 'o',
        long,
        value_name = "FILE",
        help_heading = "This virtual host",
        allow_hyphen_values = true
    )]
    pub passfile: Option<PathBuf>,

    /// Virtual address, the same on all hosts, with the prefix length of its subnet [default prefix: 32]
    // All of them are collected, because a second one is a mistake of its own.
    #[arg(short, long, value_name = "IP[/PREFIX]", help_heading = "This virtual host", allow_hyphen_values = true,
          action = ArgAction::Append)]
    pub addr: Vec<String>,

    /// Seconds between two advertisements: 0 to 255
    #[arg(
        short = 'b',
        long,
        value_name = "SECONDS",
        help_heading = "Election",
        allow_hyphen_values = true,
        default_value = "1"
    )]
    pub advbase: String,

    /// Added to --advbase, in 1/256 s: 0 to 255; the host that advertises most often becomes master
    #[arg(
        short = 'k',
        long,
        value_name = "SKEW",
        help_heading = "Election",
        allow_hyphen_values = true,
        default_value = "0"
    )]
    pub advskew: String,

    /// A master that is silent for this many times --advbase is dead: 1 to 255
    #[arg(
        short = 'r',
        long,
        value_name = "RATIO",
        help_heading = "Election",
        allow_hyphen_values = true,
        default_value = "3"
    )]
    pub deadratio: String,

    /// Take over from any worse master at once, instead of waiting until it is silent
    // The alias keeps ucarp's abbreviation, which --profile would make ambiguous.
    #[arg(short = 'P', long, alias = "pr", help_heading = "Election")]
    pub preempt: bool,

    /// Whose behaviour to follow on the wire and in the election [default: ucarp]
    #[arg(long, value_name = "PROFILE", help_heading = "Election", value_parser = one_of::<Profile>(),
          default_value = "ucarp", hide_default_value = true)]
    pub profile: String,

    /// Accept only advertisements whose counter rises, against replay; every peer must be carpd, and no ucarp may ever have
    /// used the password
    #[arg(long, help_heading = "Election")]
    pub strict_counter: bool,

    /// No peer runs OpenBSD: a repeated counter never proves that a peer is alive
    #[arg(long, help_heading = "Election")]
    pub no_openbsd: bool,

    /// Run FILE IF ADDR [XPARAM] on becoming master; without this, carpd adds and removes the address itself
    #[arg(
        short,
        long,
        value_name = "FILE",
        help_heading = "Scripts",
        allow_hyphen_values = true
    )]
    pub upscript: Option<PathBuf>,

    /// Run FILE IF ADDR [XPARAM] on becoming backup, also at startup
    #[arg(
        short,
        long,
        value_name = "FILE",
        help_heading = "Scripts",
        allow_hyphen_values = true
    )]
    pub downscript: Option<PathBuf>,

    /// Third argument of the scripts
    #[arg(
        short,
        long,
        value_name = "VALUE",
        help_heading = "Scripts",
        allow_hyphen_values = true
    )]
    pub xparam: Option<OsString>,

    /// Do not run the down script at startup
    #[arg(short, long, help_heading = "Scripts")]
    pub neutral: bool,

    /// Run the down script at exit, unless backup
    #[arg(short = 'z', long, help_heading = "Scripts")]
    pub shutdown: bool,

    /// Kill a script, and everything it started, after this time: 1 to 86400
    #[arg(
        long,
        value_name = "SECONDS",
        help_heading = "Scripts",
        allow_hyphen_values = true,
        default_value = "60"
    )]
    pub script_timeout: String,

    /// Multicast group of the advertisements
    #[arg(
        short,
        long,
        visible_alias = "mcastip",
        value_name = "IP",
        help_heading = "Network",
        allow_hyphen_values = true,
        default_value = "224.0.0.18"
    )]
    pub mcast: String,

    /// Send advertisements as Ethernet broadcast and do not join the group
    // The alias keeps ucarp's abbreviation, which --no-openbsd would make ambiguous.
    #[arg(short = 'M', long, alias = "no", help_heading = "Network")]
    pub nomcast: bool,

    /// Send advertisements from the interface's own MAC address, for switch ports that pass no other one (VMware, Proxmox,
    /// Hyper-V, OpenStack)
    #[arg(long, help_heading = "Network")]
    pub own_mac: bool,

    /// Repeat the announcement of the address at this interval while master: 1 to 86400, or 0 to disable
    #[arg(
        long,
        value_name = "SECONDS",
        help_heading = "Network",
        allow_hyphen_values = true,
        default_value = "0"
    )]
    pub announce_refresh: String,

    /// Ignore the carrier of the interface
    #[arg(short = 'S', long, help_heading = "Network")]
    pub ignoreifstate: bool,

    /// Wait for an absent interface instead of exiting
    #[arg(long, help_heading = "Network")]
    pub wait_interface: bool,

    /// How advertisements are received
    #[arg(
        long,
        value_name = "PATH",
        value_parser = one_of::<Datapath>(),
        help_heading = "Network",
        default_value = "auto"
    )]
    pub datapath: String,

    /// What the kernel drops for the address while a master's daemon is dead, stopped or starved: ARP and neighbour
    /// discovery, every packet, or nothing; has no effect with the datapath socket
    #[arg(
        long,
        value_name = "WHAT",
        value_parser = one_of::<Fence>(),
        help_heading = "After a crash",
        default_value = "arp"
    )]
    pub fence: String,

    /// Lifetime of the address that carpd adds, so that it expires when the daemon is dead: 2 to 86400, or 0 for no limit
    /// [default: 1 more than the master-down time at advskew 0, at least 2]
    #[arg(
        long,
        value_name = "SECONDS",
        help_heading = "After a crash",
        allow_hyphen_values = true
    )]
    pub lease: Option<String>,

    /// Run with real-time priority (SCHED_RR) and all memory locked; needs CAP_SYS_NICE and CAP_IPC_LOCK
    #[arg(long, help_heading = "Process")]
    pub realtime: bool,

    /// Keep the counters heard from peers in DIR across restarts, against replay; creates DIR [default: $STATE_DIRECTORY,
    /// else /var/lib/carpd if it exists]
    #[arg(
        long,
        value_name = "DIR",
        help_heading = "After a crash",
        allow_hyphen_values = true
    )]
    pub state_dir: Option<PathBuf>,

    /// Remove the kernel program that a killed carpd left on the interface, then exit
    #[arg(
        long,
        value_name = "IF",
        help_heading = "After a crash",
        allow_hyphen_values = true,
        value_parser = interface_name
    )]
    pub detach: Option<String>,

    /// Run in the background; the exit status tells whether the start succeeded
    // The alias keeps ucarp's abbreviation, which --datapath would make ambiguous.
    #[arg(short = 'B', long, alias = "da", help_heading = "Process")]
    pub daemonize: bool,

    /// Syslog facility, or `none` for no syslog [default: daemon; none if the output goes to the journal]
    // The alias keeps ucarp's abbreviation, which --fence would make ambiguous.
    #[arg(short, long, alias = "f", value_name = "FACILITY", help_heading = "Process", allow_hyphen_values = true,
          value_parser = facility)]
    pub facility: Option<Destination>,

    /// Log what is received and decided in detail
    #[arg(short = 'D', long, help_heading = "Process")]
    pub debug: bool,

    /// Print this help
    #[arg(short, long, action = ArgAction::HelpShort, help_heading = "Process")]
    pub help: Option<bool>,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = "Process")]
    pub version: Option<bool>,
}

/// Accepts the names of a setting. For any other word clap proposes a similar name.
fn one_of<T: Named>() -> PossibleValuesParser {
    T::ALL.iter().map(|value| value.name()).into()
}

fn facility(text: &str) -> Result<Destination, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(Destination::None);
    }
    text.parse::<Facility>()
        .map(Destination::Facility)
        .map_err(|unknown| unknown.to_string())
}
