//! Converts options to raw words.

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use super::arguments::Arguments;
use super::combinations::spelled;
use super::password::Password;
use crate::config::raw::{self, Location, Origin, Secret, Word};
use crate::log;

/// The options by the part of the program that they concern.
pub struct Words {
    /// The virtual host.
    pub vhost: raw::VirtualHost,
    /// The configuration of the whole process.
    pub process: raw::Process,
    /// The log.
    pub log: log::LogSettings,
    /// `-B`.
    pub daemonize: bool,
}

/// The options of one command line or line of a file.
struct Source<'a> {
    command: &'a Command,
    matches: &'a ArgMatches,
    location: &'a Location,
}

impl Source<'_> {
    /// Returns the value of an option that was written; a default does not count.
    fn word<T>(&self, id: &str, value: impl Into<Option<T>>) -> Option<Word<T>> {
        let value = value.into()?;
        let mut indices = self.indices(id);
        Some(Word {
            value,
            origin: self.origin(id, indices.next_back()?),
        })
    }

    /// Returns the values of an option that may be repeated.
    fn words<T>(&self, id: &str, values: Vec<T>) -> Vec<Word<T>> {
        let word = |(value, index)| Word {
            value,
            origin: self.origin(id, index),
        };
        values.into_iter().zip(self.indices(id)).map(word).collect()
    }

    fn indices(&self, id: &str) -> impl DoubleEndedIterator<Item = usize> {
        let is_written = self.matches.value_source(id) == Some(ValueSource::CommandLine);
        let indices = self.matches.indices_of(id).filter(|_| is_written);
        indices.into_iter().flatten()
    }

    fn origin(&self, id: &str, position: usize) -> Origin {
        let mut options = self.command.get_arguments();
        let option = options.find(|option| option.get_id() == id);
        Origin {
            location: self.location.clone(),
            // The form of clap's own messages: `--vhid <ID>`.
            name: option.map_or_else(|| id.to_owned(), ToString::to_string),
            position,
        }
    }

    /// Returns the password. [`super::combinations::last_password`] has left only one of the two options.
    fn password(
        &self,
        pass: Option<usize>,
        passfile: Option<std::path::PathBuf>,
        passwords: Vec<Password>,
    ) -> Option<raw::Password> {
        let inline = pass
            .and_then(|index| passwords.into_iter().nth(index))
            .and_then(|password| self.word("pass", Secret::from(password)))
            .map(|mut word| {
                word.origin.name = spelled(self.command, "pass");
                raw::Password::Inline(word)
            });
        inline.or_else(|| Some(raw::Password::File(self.word("passfile", passfile)?)))
    }
}

/// Converts every option. `passwords` are those that [`super::getopt`] found.
pub fn take(
    command: &Command,
    matches: &ArgMatches,
    arguments: Arguments,
    location: &Location,
    passwords: Vec<Password>,
) -> Words {
    let Arguments {
        interface,
        srcip,
        vhid,
        vhosts: _,
        pass,
        passfile,
        addr,
        advbase,
        advskew,
        deadratio,
        preempt,
        profile,
        strict_counter,
        no_openbsd,
        upscript,
        downscript,
        xparam,
        neutral,
        shutdown,
        script_timeout,
        mcast,
        nomcast,
        own_mac,
        announce_refresh,
        ignoreifstate,
        wait_interface,
        datapath,
        fence,
        lease,
        realtime,
        state_dir,
        detach: _,
        daemonize,
        facility,
        debug,
        help: _,
        version: _,
    } = arguments;
    let source = Source {
        command,
        matches,
        location,
    };
    let vhost = raw::VirtualHost {
        location: location.clone(),
        interface: source.word("interface", interface),
        source: source.word("srcip", srcip),
        vhid: source.word("vhid", vhid),
        password: source.password(pass, passfile, passwords),
        addresses: source.words("addr", addr),
        advbase: source.word("advbase", advbase),
        advskew: source.word("advskew", advskew),
        deadratio: source.word("deadratio", deadratio),
        preempt: source.word("preempt", preempt),
        profile: source.word("profile", profile),
        strict_counter: source.word("strict_counter", strict_counter),
        no_openbsd: source.word("no_openbsd", no_openbsd),
        upscript: source.word("upscript", upscript),
        downscript: source.word("downscript", downscript),
        xparam: source.word("xparam", xparam),
        neutral: source.word("neutral", neutral),
        shutdown: source.word("shutdown", shutdown),
        script_timeout: source.word("script_timeout", script_timeout),
        mcast: source.word("mcast", mcast),
        nomcast: source.word("nomcast", nomcast),
        own_mac: source.word("own_mac", own_mac),
        announce_refresh: source.word("announce_refresh", announce_refresh),
        ignore_carrier: source.word("ignoreifstate", ignoreifstate),
    };
    let process = raw::Process {
        datapath: source.word("datapath", datapath),
        fence: source.word("fence", fence),
        lease: source.word("lease", lease),
        wait_interface: source.word("wait_interface", wait_interface),
        realtime: source.word("realtime", realtime),
        state_directory: source.word("state_dir", state_dir),
        debug: source.word("debug", debug),
    };
    Words {
        vhost,
        process,
        log: log::LogSettings {
            debug,
            syslog: facility.unwrap_or_default(),
        },
        daemonize,
    }
}
