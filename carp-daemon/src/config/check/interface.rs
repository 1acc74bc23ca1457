//! Chooses the default interface.

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::Problem;

/// Returns the first interface that is up, not loopback, and has an IPv4 address.
pub fn first() -> Result<String, Problem> {
    let addresses = getifaddrs().map_err(Problem::Interfaces)?;
    let candidates = addresses.map(|entry| {
        let inet = entry
            .address
            .is_some_and(|address| address.as_sockaddr_in().is_some());
        (entry.interface_name, entry.flags, inet)
    });
    first_usable(candidates).ok_or(Problem::Missing {
        what: "a network interface",
        options: "--interface, -i",
        accepted: "none was named, and none is up with an IPv4 address",
    })
}

fn first_usable(
    candidates: impl Iterator<Item = (String, InterfaceFlags, bool)>,
) -> Option<String> {
    candidates
        .filter(|(_, flags, inet)| {
            *inet
                && flags.contains(InterfaceFlags::IFF_UP)
                && !flags.contains(InterfaceFlags::IFF_LOOPBACK)
        })
        // An address may have a label such as `eth0:1`. Names of interfaces cannot contain a colon.
        .filter_map(|(label, ..)| label.split(':').next().map(str::to_owned))
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_that_is_up_with_an_ipv4_address_and_not_loopback() {
        let up = InterfaceFlags::IFF_UP;
        let list = [
            ("lo", up | InterfaceFlags::IFF_LOOPBACK, true),
            ("eth0", InterfaceFlags::empty(), true),
            ("eth1", up, false),
            ("eth2:vip", up, true),
            ("eth3", up, true),
        ];
        let named = || {
            list.into_iter()
                .map(|(name, flags, inet)| (name.to_owned(), flags, inet))
        };
        assert_eq!(first_usable(named()).as_deref(), Some("eth2"));
        assert_eq!(first_usable(named().take(3)), None);
    }
}
