//! The digests that a virtual host accepts, in the form that the kernel program checks.

use crate::digest::PreparedDigest;
use crate::wire::advertisement::HEADER_LEN;

/// The number of digests that one virtual host accepts. A digest belongs to a password, an address list and a profile.
pub const KEYS_PER_VHOST: usize = 4;

/// `KEYS` value: the accepted digests of one virtual host, the likeliest first. Unused ones are zeros.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "proto", derive(zeroize::Zeroize))]
pub struct KernelKeys(pub [PreparedDigest; KEYS_PER_VHOST]);

const _: () = assert!(size_of::<KernelKeys>() == KEYS_PER_VHOST * 304);

impl KernelKeys {
    /// Keys that accept nothing.
    pub const NONE: Self = Self([PreparedDigest::UNUSED; KEYS_PER_VHOST]);

    /// Returns keys that accept the first [`KEYS_PER_VHOST`] of these digests.
    #[must_use]
    pub fn new(digests: &[PreparedDigest]) -> Self {
        let mut keys = Self::NONE;
        for (key, digest) in keys.0.iter_mut().zip(digests) {
            *key = *digest;
        }
        keys
    }
}

/// Returns whether an accepted digest matches, which is an HMAC-SHA1 over the prefix of the key and the payload's counter.
#[inline(always)]
#[must_use]
pub fn is_authentic(keys: &KernelKeys, payload: &[u8; HEADER_LEN]) -> bool {
    let [_, _, _, _, _, _, _, _, rest @ ..] = payload;
    let Some((counter, digest)) = rest.split_first_chunk() else {
        return false;
    };
    let Some(digest) = digest.first_chunk() else {
        return false;
    };
    keys.0.iter().any(|key| key.verify(*counter, digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_order_and_leaves_the_rest_unused() {
        let digests: [_; KEYS_PER_VHOST + 1] = core::array::from_fn(|number| {
            PreparedDigest::new(&[u8::try_from(number).unwrap(); 20], b"")
        });
        assert_eq!(KernelKeys::new(&[]), KernelKeys::NONE);
        let keys = KernelKeys::new(&digests[..2]);
        assert_eq!(keys.0[..2], digests[..2]);
        assert_eq!(keys.0[2..], KernelKeys::NONE.0[2..]);
        assert_eq!(KernelKeys::new(&digests).0, digests[..KEYS_PER_VHOST]);
    }

    #[cfg(feature = "proto")]
    #[test]
    fn accepts_what_the_core_signs_in_every_dialect() {
        use crate::proto::{AddressSet, Authenticator, Key};
        use crate::units::{Profile, Vhid};

        let profiles = [Profile::Ucarp, Profile::FreeBsd, Profile::OpenBsd];
        for addresses in [&["192.0.2.1"][..], &["192.0.2.1", "fe80::1", "2001:db8::1"]] {
            let addresses = AddressSet::new(addresses.iter().map(|text| text.parse().unwrap()));
            let authenticator = |profile| {
                let key = Key::new(b"love").unwrap();
                Authenticator::new(&key, Vhid::new(42).unwrap(), &addresses, profile, None)
            };
            let counter = 0x0102_0304_0506_0708_u64;
            for (receiver, sender) in profiles
                .map(|it| profiles.map(|other| (it, other)))
                .concat()
            {
                let keys = KernelKeys::new(authenticator(receiver).digests());
                let mut payload = [0; HEADER_LEN];
                payload[8..16].copy_from_slice(&counter.to_be_bytes());
                payload[16..].copy_from_slice(&authenticator(sender).sign(counter));
                assert!(is_authentic(&keys, &payload));
                payload[35] ^= 1;
                assert!(!is_authentic(&keys, &payload));
            }
        }
    }
}
