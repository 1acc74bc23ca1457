//! One rule for each kind of value. A rule returns the value, or the reason for the refusal with the accepted values.
//! The error text puts the word and the name of its option or key in front.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use carp_common::units::{DeadRatio, Vhid};

use crate::config::{Lease, Named, Subnet, VirtualAddress};

/// Longest alternative name of an interface: ALTIFNAMSIZ with its final NUL is 128 (include/uapi/linux/if.h).
const INTERFACE_NAME_MAX: usize = 127;

/// Parses a whole number, decimal or hexadecimal after `0x`. ucarp reads a number after `0` as octal. Such a number
/// is refused if the two readings differ.
fn number<T: TryFrom<u32>>(text: &str, least: u32, most: u32) -> Result<T, String> {
    let (digits, radix) =
        if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            (digits, 16)
        } else {
            (text, 10)
        };
    let accepted =
        || format!("{least} to {most} are accepted, in decimal or in hexadecimal after 0x");
    // `from_str_radix` would accept a sign.
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(format!("not a whole number: {}", accepted()));
    }
    let plain = digits.trim_start_matches('0');
    if radix == 10 && plain.len() < digits.len() && plain.len() > 1 {
        let octal = u64::from_str_radix(plain, 8);
        let octal = octal.map_or_else(|_| "nothing".to_owned(), |value| value.to_string());
        return Err(format!(
            "ambiguous: write {plain} for the decimal number; ucarp reads the octal one, {octal}"
        ));
    }
    // All characters are digits, so only the size can be wrong.
    u32::from_str_radix(digits, radix)
        .ok()
        .filter(|value| (least..=most).contains(value))
        .and_then(|value| T::try_from(value).ok())
        .ok_or_else(|| format!("out of range: {}", accepted()))
}

/// Parses 0 to 255.
pub fn byte(text: &str) -> Result<u8, String> {
    byte_from(text, 0)
}

/// Parses 1 to 255.
pub fn vhid(text: &str) -> Result<Vhid, String> {
    Ok(Vhid::new(byte_from(text, 1)?).expect("1 to 255 was checked"))
}

/// Parses 1 to 255.
pub fn dead_ratio(text: &str) -> Result<DeadRatio, String> {
    Ok(DeadRatio::new(byte_from(text, 1)?).expect("1 to 255 was checked"))
}

fn byte_from(text: &str, least: u32) -> Result<u8, String> {
    number(text, least, u8::MAX.into())
}

/// Parses 1 s to a day.
pub fn script_timeout(text: &str) -> Result<Duration, String> {
    number(text, 1, 86_400).map(|seconds: u32| Duration::from_secs(seconds.into()))
}

/// Parses `--lease`: off, or 2 s to a day.
///
/// The kernel counts the lifetime of an address in whole seconds. carpd renews it after half of that, and 2 s is the
/// least that leaves a busy daemon enough time.
pub fn lease(text: &str) -> Result<Lease, String> {
    match number::<u32>(text, 0, 86_400)? {
        0 => Ok(Lease::Off),
        1 => Err(
            "too short to be renewed in time on a busy host: 2 to 86400 are accepted, and 0 for no lease".into(),
        ),
        seconds => Ok(Lease::Fixed(Duration::from_secs(u64::from(seconds)))),
    }
}

/// Parses `--announce-refresh`: off, or 1 s to a day.
pub fn announce_refresh(text: &str) -> Result<Option<Duration>, String> {
    let seconds: u32 = number(text, 0, 86_400)?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds.into())))
}

/// Parses a name that an interface could have. Source: `dev_valid_name`, net/core/dev.c.
pub fn interface(text: &str) -> Result<String, String> {
    let possible = !text.is_empty()
        && text.len() <= INTERFACE_NAME_MAX
        && text != "."
        && text != ".."
        && !text.contains(['/', ':'])
        && !text.contains(char::is_whitespace);
    if possible {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "not an interface name: 1 to {INTERFACE_NAME_MAX} bytes without '/', ':' and blanks are accepted"
        ))
    }
}

/// Parses `--srcip`.
pub fn source(text: &str) -> Result<Ipv4Addr, String> {
    match text.parse() {
        Ok(IpAddr::V4(address)) => host(address),
        Ok(IpAddr::V6(_)) => {
            Err("IPv6 source addresses are not used yet: an IPv4 address is accepted".into())
        }
        Err(_) => Err("Invalid address: an IPv4 address is accepted, such as 10.1.1.1".into()),
    }
}

/// Parses `--mcast`.
pub fn group(text: &str) -> Result<Ipv4Addr, String> {
    text.parse()
        .ok()
        .filter(Ipv4Addr::is_multicast)
        .ok_or_else(|| "not a multicast group: 224.0.0.0 to 239.255.255.255 are accepted".into())
}

/// Parses `--addr`.
pub fn virtual_address(text: &str) -> Result<VirtualAddress, String> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address =
        match address.parse() {
            Ok(IpAddr::V4(address)) => host(address)?,
            Ok(IpAddr::V6(_)) => {
                return Err(
                    "IPv6 virtual addresses are not served yet: an IPv4 address is accepted".into(),
                );
            }
            Err(_) => return Err(
                "Invalid address: an IPv4 address is accepted, such as 10.1.1.252 or 10.1.1.252/24"
                    .into(),
            ),
        };
    let prefix = match prefix {
        Some(prefix) => {
            decimal_prefix(prefix).ok_or("Invalid prefix length: 1 to 32 are accepted")?
        }
        None => 32,
    };
    let subnet = Subnet { address, prefix };
    if let Some(what) = subnet.reserved(address) {
        return Err(format!(
            "{address} is {what}: an address of a host in it is accepted, or another prefix length"
        ));
    }
    Ok(VirtualAddress {
        address: IpAddr::V4(address),
        prefix,
    })
}

fn decimal_prefix(text: &str) -> Option<u8> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None; // parse() would take a sign
    }
    text.parse().ok().filter(|prefix| (1..=32).contains(prefix))
}

fn host(address: Ipv4Addr) -> Result<Ipv4Addr, String> {
    if address.is_loopback() {
        Err(
            "a loopback address, which no other host can reach: a unicast IPv4 address is accepted"
                .into(),
        )
    } else if address.octets()[0] == 0 || address.octets()[0] >= 224 {
        Err("not a host's address: a unicast IPv4 address is accepted".into())
    } else {
        Ok(address)
    }
}

/// Parses a name out of a fixed set.
pub fn named<T: Named>(text: &str) -> Result<T, String> {
    T::named(text).ok_or_else(|| {
        let names: Vec<_> = T::ALL.iter().map(|value| value.name()).collect();
        format!("unknown: {} are accepted", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        for (text, value) in [
            ("0", 0),
            ("255", 255),
            ("0x2a", 42),
            ("0XfF", 255),
            ("00", 0),
            ("007", 7),
            ("1", 1),
        ] {
            assert_eq!(byte(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn numbers_that_strtoul_would_bend_are_refused() {
        for text in [
            "", " 1", "1 ", "+1", "-1", "1s", "0x", "0x-1", "0b1", "1.5", "٣",
        ] {
            let refused = byte(text).unwrap_err();
            assert!(
                refused.starts_with("not a whole number: 0 to 255 are accepted"),
                "{text}: {refused}"
            );
        }
        for text in ["256", "0x100", "4294967297", "99999999999999999999"] {
            let refused = byte(text).unwrap_err();
            assert!(
                refused.starts_with("out of range: 0 to 255 are accepted"),
                "{text}: {refused}"
            );
        }
    }

    #[test]
    fn a_number_that_ucarp_reads_as_octal_is_refused_with_both_readings() {
        for (text, decimal, octal) in [
            ("010", "write 10", "octal one, 8"),
            ("052", "write 52", "octal one, 42"),
            ("0400", "write 400", "octal one, 256"),
            ("089", "write 89", "octal one, nothing"),
        ] {
            let refused = byte(text).unwrap_err();
            assert!(
                refused.contains(decimal) && refused.contains(octal),
                "{text}: {refused}"
            );
        }
    }

    #[test]
    fn lease_is_off_or_long_enough_to_be_renewed() {
        let seconds = |seconds| Ok(Lease::Fixed(Duration::from_secs(seconds)));
        assert_eq!(lease("0"), Ok(Lease::Off));
        assert_eq!(lease("2"), seconds(2));
        assert_eq!(lease("86400"), seconds(86_400));
        let refused = lease("1").unwrap_err();
        assert!(refused.contains("2 to 86400 are accepted"), "{refused}");
        for text in ["86401", "-1", "30s", ""] {
            let refused = lease(text).unwrap_err();
            assert!(
                refused.contains("0 to 86400 are accepted"),
                "{text}: {refused}"
            );
        }
    }

    #[test]
    fn addresses_come_with_or_without_a_prefix() {
        for (text, prefix) in [
            ("10.0.0.1", 32),
            ("10.0.0.1/24", 24),
            ("10.0.0.1/1", 1),
            ("10.0.0.1/31", 31),
            ("10.0.0.1/032", 32),
        ] {
            let parsed = virtual_address(text).unwrap();
            let expected = VirtualAddress {
                address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
                prefix,
            };
            assert_eq!(parsed, expected);
        }
    }

    #[test]
    fn bad_addresses_are_refused_with_what_would_do() {
        let table = [
            ("10.0.0.256", "Invalid address"),
            ("10.0.0", "Invalid address"),
            ("", "Invalid address"),
            ("10.0.0.1/33", "1 to 32"),
            ("10.0.0.1/0", "1 to 32"),
            ("10.0.0.1/", "1 to 32"),
            ("10.0.0.1/+8", "1 to 32"),
            ("10.0.0.1/255.255.255.0", "1 to 32"),
            ("10.77.0.255/24", "the broadcast address of 10.77.0.0/24"),
            ("10.77.0.0/24", "the network address of 10.77.0.0/24"),
            ("127.0.0.1", "loopback"),
            ("0.1.2.3", "unicast"),
            ("240.0.0.1", "unicast"),
            ("224.0.0.18", "unicast"),
            ("0.0.0.0", "unicast"),
            ("255.255.255.255", "unicast"),
            ("2001:db8::1", "IPv6 virtual addresses are not served yet"),
            (
                "2001:db8::1/64",
                "IPv6 virtual addresses are not served yet",
            ),
        ];
        for (text, expected) in table {
            let refused = virtual_address(text).unwrap_err();
            assert!(refused.contains(expected), "{text}: {refused}");
        }
    }
}
