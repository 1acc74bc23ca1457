//! The digest: HMAC-SHA1 over vhid, addresses and counter.
//!
//! `HMAC-SHA1(key, 0x02 ‖ 0x01 ‖ [custom MAC] ‖ vhid ‖ IPv4 addresses ‖ IPv6 addresses ‖ counter)`. It does not
//! cover advbase, advskew, demotion and the IP header; [`super::evidence`] deals with the consequences.
//!
//! Source: OpenBSD `ip_carp.c` r1.370, `carp_hmac_prepare_ctx` and `carp_hmac_verify`; FreeBSD 14 `ip_carp.c`,
//! `carp_hmac_prepare`.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use zeroize::Zeroizing;

use super::{AddressSet, Key};
use crate::digest::PreparedDigest;
use crate::units::{Profile, Vhid};
use crate::wire::advertisement::DIGEST_LEN;

/// The version. In the digest, version and type are separate bytes, unlike in the header.
const VERSION: u8 = 2;
const TYPE_ADVERTISEMENT: u8 = 1;

/// Makes and checks the digests of one group.
///
/// Everything except the counter is hashed once, when it is created. A packet costs a clone of the keyed state and no
/// allocation.
#[derive(Clone)]
pub struct Authenticator {
    /// The state after every address.
    full: Hmac<Sha1>,
    /// The state without IPv6 link-local addresses, if there are any. OpenBSD sends this form.
    without_link_local: Option<Hmac<Sha1>>,
    /// Whether we send the digest with link-local addresses.
    sends_link_local: bool,
    /// The accepted digests, prepared for a kernel program. Our own is first. They are wiped when dropped.
    digests: Zeroizing<Vec<PreparedDigest>>,
}

impl Authenticator {
    /// Creates the authenticator of a group.
    ///
    /// `custom_mac` is for OpenBSD: the virtual MAC of a carp interface whose lladdr was changed by hand. It is `None`
    /// everywhere else.
    #[must_use]
    pub fn new(
        key: &Key,
        vhid: Vhid,
        addresses: &AddressSet,
        profile: Profile,
        custom_mac: Option<[u8; 6]>,
    ) -> Self {
        debug_assert!(!key.is_wiped(), "peers would reject every digest");
        let mut base: Vec<u8> = [VERSION, TYPE_ADVERTISEMENT].into();
        base.extend(custom_mac.iter().flatten());
        base.push(vhid.get());
        base.extend(addresses.inet().iter().flat_map(Ipv4Addr::octets));
        let mut full = base.clone();
        let mut without_link_local = base;
        let mut has_link_local = false;
        for address in addresses.inet6() {
            full.extend(address.octets());
            if address.is_unicast_link_local() {
                has_link_local = true;
            } else {
                without_link_local.extend(address.octets());
            }
        }
        let without_link_local = has_link_local.then_some(without_link_local);
        let sends_link_local = profile != Profile::OpenBsd;
        Self {
            full: keyed(key, &full),
            without_link_local: without_link_local
                .as_deref()
                .map(|prefix| keyed(key, prefix)),
            sends_link_local,
            digests: prepared(key, &full, without_link_local.as_deref(), sends_link_local),
        }
    }

    /// Returns every accepted form of the digest, ours first. Each is prepared up to the counter.
    #[must_use]
    pub fn digests(&self) -> &[PreparedDigest] {
        &self.digests
    }

    /// Returns the digest that we send with this counter, in the form of the profile.
    #[must_use]
    pub fn sign(&self, counter: u64) -> [u8; DIGEST_LEN] {
        let state = match &self.without_link_local {
            Some(state) if !self.sends_link_local => state,
            Some(_) | None => &self.full,
        };
        over(state, counter).finalize().into_bytes().into()
    }

    /// Returns whether an accepted form of the digest matches. It takes constant time: every form is computed and compared as a
    /// whole, whether or not another one matches.
    #[must_use]
    pub fn verify(&self, counter: u64, digest: &[u8; DIGEST_LEN]) -> bool {
        let full = over(&self.full, counter).verify_slice(digest).is_ok();
        let without_link_local = match &self.without_link_local {
            Some(state) => over(state, counter).verify_slice(digest).is_ok(),
            None => false,
        };
        full | without_link_local
    }
}

impl core::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Authenticator(***)")
    }
}

/// Returns the state of an HMAC-SHA1 over everything before the counter.
fn keyed(key: &Key, prefix: &[u8]) -> Hmac<Sha1> {
    let state: Hmac<Sha1> =
        Hmac::new_from_slice(key.as_bytes()).expect("HMAC takes a key of any length");
    state.chain_update(prefix)
}

fn prepared(
    key: &Key,
    full: &[u8],
    without_link_local: Option<&[u8]>,
    sends_link_local: bool,
) -> Zeroizing<Vec<PreparedDigest>> {
    let mut forms = [Some(full), without_link_local];
    if !sends_link_local {
        forms.reverse();
    }
    // The vector has its final capacity from the start, because memory that it outgrows would not be wiped.
    let mut digests = Zeroizing::new(Vec::with_capacity(forms.len()));
    let forms = forms.into_iter().flatten();
    digests.extend(forms.map(|prefix| PreparedDigest::new(key.as_bytes(), prefix)));
    digests
}

fn over(state: &Hmac<Sha1>, counter: u64) -> Hmac<Sha1> {
    let mut state = state.clone();
    state.update(&counter.to_be_bytes());
    state
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    fn authenticator(addresses: &[&str], profile: Profile) -> Authenticator {
        let addresses = AddressSet::new(addresses.iter().map(|text| text.parse().unwrap()));
        let key = Key::new(b"love").unwrap();
        Authenticator::new(&key, Vhid::new(42).unwrap(), &addresses, profile, None)
    }

    /// Two advertisements of a ucarp 1.5.2: vhid 42, password `love`, address 10.9.0.100.
    const UCARP: [(u64, &str); 2] = [
        (
            0xc9b8_892d_b50b_4c1b,
            "74e68d9051e5357320e40ce3d92e473f7dd6dbd5",
        ),
        (
            0x0293_4373_f6fa_df6b,
            "877fc17860ffc258a047bfc08879f3defc31ba46",
        ),
    ];

    fn digest(hex: &str) -> [u8; DIGEST_LEN] {
        core::array::from_fn(|index| {
            u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).unwrap()
        })
    }

    #[test]
    fn signs_and_accepts_what_ucarp_sent() {
        let ours = authenticator(&["10.9.0.100"], Profile::Ucarp);
        for (counter, hex) in UCARP {
            assert_eq!(ours.sign(counter), digest(hex));
            assert!(ours.verify(counter, &digest(hex)));
        }
    }

    #[test]
    fn refuses_another_counter_and_every_single_bit_flip() {
        let ours = authenticator(&["10.9.0.100"], Profile::Ucarp);
        let (counter, hex) = UCARP[0];
        assert!(!ours.verify(counter + 1, &digest(hex)));
        for bit in 0..DIGEST_LEN * 8 {
            let mut flipped = digest(hex);
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!ours.verify(counter, &flipped), "bit {bit}");
        }
    }

    #[test]
    fn link_local_addresses_are_sent_by_profile_and_accepted_in_both_forms() {
        let addresses = ["192.0.2.1", "fe80::1", "2001:db8::1"];
        let freebsd = authenticator(&addresses, Profile::FreeBsd);
        let openbsd = authenticator(&addresses, Profile::OpenBsd);
        let stripped = authenticator(&["192.0.2.1", "2001:db8::1"], Profile::Ucarp);
        assert_ne!(freebsd.sign(7), openbsd.sign(7));
        assert_eq!(openbsd.sign(7), stripped.sign(7));
        for receiver in [&freebsd, &openbsd] {
            assert!(receiver.verify(7, &freebsd.sign(7)));
            assert!(receiver.verify(7, &openbsd.sign(7)));
        }
        assert!(
            !stripped.verify(7, &freebsd.sign(7)),
            "an address that we do not have"
        );
    }

    #[test]
    fn prepared_digests_are_those_that_we_accept_and_our_own_form_comes_first() {
        let counter = 0x0102_0304_0506_0708_u64;
        let ours = |addresses, profile| authenticator(addresses, profile);
        for (addresses, forms) in [
            (&["192.0.2.1"][..], 1),
            (&["192.0.2.1", "fe80::1", "2001:db8::1"], 2),
        ] {
            for profile in [Profile::Ucarp, Profile::FreeBsd, Profile::OpenBsd] {
                let receiver = ours(addresses, profile);
                assert_eq!(receiver.digests().len(), forms);
                let accepts = |form: usize, sender: Profile| {
                    let digest = ours(addresses, sender).sign(counter);
                    assert!(receiver.verify(counter, &digest));
                    receiver.digests()[form].verify(counter.to_be_bytes(), &digest)
                };
                assert!(accepts(0, profile));
                for sender in [Profile::FreeBsd, Profile::OpenBsd] {
                    assert!((0..forms).any(|form| accepts(form, sender)));
                }
            }
        }
    }

    #[test]
    fn prints_no_key_material() {
        assert_eq!(
            format!("{:?}", authenticator(&["192.0.2.1"], Profile::Ucarp)),
            "Authenticator(***)"
        );
    }
}
