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

With --upscript the scripts own the address, exactly as with ucarp:

  carpd --interface=eth0 --srcip=10.1.1.1 --vhid=1 --passfile=/etc/carpd.pass --addr=10.1.1.252 \\
        --upscript=/etc/vip-up.sh --downscript=/etc/vip-down.sh --shutdown

Numbers are decimal, or hexadecimal after 0x. Long options may be abbreviated. Of a repeated option the last one \
counts; --addr may be there once.

Signals: USR1 logs state and counters; USR2 steps down for 3 s; TERM, INT, QUIT, HUP and any other that would end \
the process stop it, handing over at once.
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
pub struct Arguments {
    /// Interface to share addresses on, by any of its names [default: the first that is up with an IPv4 address, not loopback]
    #[arg(
        short,
        long,
        value_name = "IF",
        help_heading = "Who we are",
        allow_hyphen_values = true
    )]
    pub interface: Option<String>,

    /// Our own address, source of advertisements [default: the interface's first]
    #[arg(
        short,
        long,
        value_name = "IP",
        help_heading = "Who we are",
        allow_hyphen_values = true
    )]
    pub srcip: Option<String>,

    /// Virtual host id, the same on all hosts that share an address: 1 to 255
    // The aliases keep ucarp's abbreviations, which --version and --vhosts would make ambiguous.
    #[arg(short, long, aliases = ["v", "vh"], value_name = "ID", help_heading = "Who we are", allow_hyphen_values = true)]
    pub vhid: Option<String>,

    /// Serve several virtual hosts in one process: each line of FILE holds the options of one
    #[arg(long, value_name = "FILE", help_heading = "Who we are")]
    pub vhosts: Option<PathBuf>,

    /// Password, at most 19 bytes; other users could read it before it is hidden, so better use --passfile
    #[arg(
        short,
        long,
        value_name = "PASSWORD",
        help_heading = "Who we are",
        allow_hyphen_values = true
    )]
    // The index of the password among those that `getopt` found.
    pub pass: Option<usize>,

    /// File whose first line is the password
    #[arg(
        short = 'o',
        long,
        value_name = "FILE",
        help_heading = "Who we are",
        allow_hyphen_values = true
    )]
    pub passfile: Option<PathBuf>,

    /// Virtual address, the same on all hosts; the prefix tells its subnet [default prefix: 32]
    // All of them are collected, because a second one is a mistake of its own.
    #[arg(short, long, value_name = "IP[/PREFIX]", help_heading = "Who we are", allow_hyphen_values = true,
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

    /// Added to --advbase, in 1/256 s: 0 to 255; the host that advertises most often is preferred
    #[arg(
        short = 'k',
        long,
        value_name = "SKEW",
        help_heading = "Election",
        allow_hyphen_values = true,
        default_value = "0"
    )]
    pub advskew: String,

    /// A master is dead after this many times --advbase of silence: 1 to 255
    #[arg(
        short = 'r',
        long,
        value_name = "RATIO",
        help_heading = "Election",
        allow_hyphen_values = true,
        default_value = "3"
    )]
    pub deadratio: String,

    /// Take over from a worse master at once, instead of waiting for its silence
    // The alias keeps ucarp's abbreviation, which --profile would make ambiguous.
    #[arg(short = 'P', long, alias = "pr", help_heading = "Election")]
    pub preempt: bool,

    /// Whose habits to follow on the wire [default: ucarp]
    #[arg(long, value_name = "PROFILE", help_heading = "Election", value_parser = one_of::<Profile>(),
          default_value = "ucarp", hide_default_value = true)]
    pub profile: String,

    /// Accept only advertisements whose counter rises, against replay; every peer must be carpd, the password one that no ucarp used
    #[arg(long, help_heading = "Election")]
    pub strict_counter: bool,

    /// No peer is an OpenBSD: a counter that was heard before proves nothing, whoever repeats it
    #[arg(long, help_heading = "Election")]
    pub no_openbsd: bool,

    /// Run FILE IF ADDR [XPARAM] to become master; without it carpd adds and removes the address itself
    #[arg(
        short,
        long,
        value_name = "FILE",
        help_heading = "Scripts",
        allow_hyphen_values = true
    )]
    pub upscript: Option<PathBuf>,

    /// Run FILE IF ADDR [XPARAM] to become backup, also at start
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

    /// Do not run the down script at start
    #[arg(short, long, help_heading = "Scripts")]
    pub neutral: bool,

    /// Run the down script at exit, unless backup
    #[arg(short = 'z', long, help_heading = "Scripts")]
    pub shutdown: bool,

    /// End a script, with all it started, after this long: 1 to 86400
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

    /// Send advertisements from the interface's own MAC address: for ports that let no other pass (VMware, Proxmox, Hyper-V,
    /// OpenStack)
    #[arg(long, help_heading = "Network")]
    pub own_mac: bool,

    /// While master, announce the address again every so often: 1 to 86400, 0 for not
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

    /// Wait for an interface that is not there yet
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

    /// What the kernel drops for the addresses while a master's daemon is dead, stopped or starved: ARP and neighbour
    /// discovery, or every packet; not with the datapath socket
    #[arg(
        long,
        value_name = "WHAT",
        value_parser = one_of::<Fence>(),
        help_heading = "Guard",
        default_value = "arp"
    )]
    pub fence: String,

    /// The addresses carpd adds vanish by themselves this long after a daemon died: 2 to 86400, 0 for never [default: a
    /// second more than the master-down time at advskew 0, at least 2]
    #[arg(
        long,
        value_name = "SECONDS",
        help_heading = "Guard",
        allow_hyphen_values = true
    )]
    pub lease: Option<String>,

    /// Run before every ordinary process (SCHED_RR), with all memory locked; needs CAP_SYS_NICE and CAP_IPC_LOCK
    #[arg(long, help_heading = "Guard")]
    pub realtime: bool,

    /// Keep what was heard from peers in DIR over a restart, against replay; makes DIR [default: $STATE_DIRECTORY, else
    /// /var/lib/carpd where that exists]
    #[arg(
        long,
        value_name = "DIR",
        help_heading = "Guard",
        allow_hyphen_values = true
    )]
    pub state_dir: Option<PathBuf>,

    /// Remove the kernel program that a killed carpd left on the interface, and exit
    #[arg(
        long,
        value_name = "IF",
        help_heading = "Guard",
        allow_hyphen_values = true,
        value_parser = interface_name
    )]
    pub detach: Option<String>,

    /// Run in the background; the exit status tells how the start went
    // The alias keeps ucarp's abbreviation, which --datapath would make ambiguous.
    #[arg(short = 'B', long, alias = "da", help_heading = "Process")]
    pub daemonize: bool,

    /// Syslog facility, `none` for no syslog [default: daemon; none where the output goes to the journal]
    // The alias keeps ucarp's abbreviation, which --fence would make ambiguous.
    #[arg(short, long, alias = "f", value_name = "FACILITY", help_heading = "Process", allow_hyphen_values = true,
          value_parser = facility)]
    pub facility: Option<Destination>,

    /// Log what is received and decided in detail
    #[arg(short = 'D', long, help_heading = "Process")]
    pub debug: bool,

    /// Print this
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
