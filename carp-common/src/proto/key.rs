//! The padded password, which is wiped after use, and its fingerprint.

use core::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Length of the HMAC key. Unit: bytes.
pub const KEY_LEN: usize = 20;
/// Length of the longest password. Every implementation keeps room for a final NUL. Unit: bytes.
pub const PASSWORD_MAX: usize = KEY_LEN - 1;

/// The text whose HMAC is the fingerprint. No digest of an advertisement covers it, because the input of those begins with a 2.
const FINGERPRINT_TEXT: &[u8] = b"carpd key fingerprint";

/// The HMAC key: a password's bytes, zero-padded to 20.
///
/// Prints as `***`. Its bytes are wiped when it is dropped, and by [`Zeroize`] as soon as everything was derived from
/// them. Its fingerprint stays, so that a running daemon can compare its key with the one of a new configuration without
/// keeping the password: the fingerprint is an HMAC of a constant text under this key and so tells no more about the
/// password than any advertisement that was sent with it.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Key {
    bytes: [u8; KEY_LEN],
    #[zeroize(skip)]
    fingerprint: [u8; KEY_LEN],
}

impl Key {
    /// Creates a key from all its bytes. The BSD kernels accept 20 bytes, but their `ifconfig` cuts a password at 19.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self {
            fingerprint: fingerprint(&bytes),
            bytes,
        }
    }

    /// Creates a key by ucarp's rule: the password has at most [`PASSWORD_MAX`] bytes.
    ///
    /// # Errors
    ///
    /// Returns an error for a longer password, because a peer would refuse it too.
    pub fn new(password: &[u8]) -> Result<Self, PasswordTooLong> {
        if password.len() > PASSWORD_MAX {
            return Err(PasswordTooLong {
                length: password.len(),
            });
        }
        Ok(Self::padded(password))
    }

    /// Creates a key by the BSDs' rule: only the first [`PASSWORD_MAX`] bytes count. The second value is `true` if bytes were
    /// cut off. The BSDs do not report that, but we should.
    #[must_use]
    pub fn truncated(password: &[u8]) -> (Self, bool) {
        let kept = &password[..password.len().min(PASSWORD_MAX)];
        (Self::padded(kept), kept.len() < password.len())
    }

    /// Creates a key from at most [`KEY_LEN`] bytes.
    fn padded(bytes: &[u8]) -> Self {
        let mut padded = Zeroizing::new([0; KEY_LEN]);
        padded[..bytes.len()].copy_from_slice(bytes);
        Self::from_bytes(*padded)
    }

    /// Returns the padded bytes, or zeros once they were wiped.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.bytes
    }

    /// Returns the fingerprint. It is the same for equal keys, wiped or not.
    #[must_use]
    pub const fn fingerprint(&self) -> &[u8; KEY_LEN] {
        &self.fingerprint
    }

    /// Returns whether the bytes were wiped.
    #[must_use]
    pub fn is_wiped(&self) -> bool {
        fingerprint(&self.bytes) != self.fingerprint
    }
}

/// Compares keys by their fingerprints, so that a key equals itself after it was wiped.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Key {}

fn fingerprint(bytes: &[u8; KEY_LEN]) -> [u8; KEY_LEN] {
    let mut state: Hmac<Sha1> =
        Hmac::new_from_slice(bytes).expect("HMAC takes a key of any length");
    state.update(FINGERPRINT_TEXT);
    state.finalize().into_bytes().into()
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A password longer than [`PASSWORD_MAX`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordTooLong {
    /// Its length. Unit: bytes.
    pub length: usize,
}

impl fmt::Display for PasswordTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "password is {} bytes long, at most {PASSWORD_MAX} are possible",
            self.length
        )
    }
}

impl core::error::Error for PasswordTooLong {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn nineteen_bytes_fit_and_twenty_do_not() {
        let key = Key::new(b"1234567890123456789").unwrap();
        assert_eq!(key.as_bytes(), b"1234567890123456789\0");
        assert_eq!(
            Key::new(b"12345678901234567890"),
            Err(PasswordTooLong { length: 20 })
        );
    }

    #[test]
    fn the_bsd_rule_cuts_and_says_so() {
        let whole = Key::new(b"1234567890123456789").unwrap();
        assert_eq!(
            Key::truncated(b"1234567890123456789"),
            (whole.clone(), false)
        );
        assert_eq!(
            Key::truncated(b"1234567890123456789and more"),
            (whole, true)
        );
    }

    #[test]
    fn a_short_password_is_padded_with_zeros() {
        assert_eq!(
            Key::new(b"love").unwrap().as_bytes(),
            b"love\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
        );
    }

    #[test]
    fn a_key_and_its_error_never_show_the_password() {
        assert_eq!(format!("{:?}", Key::new(b"secret").unwrap()), "***");
        let error = Key::new(b"a very secret password").unwrap_err();
        assert_eq!(
            format!("{error}"),
            "password is 22 bytes long, at most 19 are possible"
        );
    }

    #[test]
    fn wiping_leaves_zeros_and_what_to_compare_by() {
        let key = Key::new(b"secret").unwrap();
        let mut wiped = key.clone();
        wiped.zeroize();
        assert_eq!(wiped.as_bytes(), &[0; KEY_LEN]);
        assert!(wiped.is_wiped() && !key.is_wiped());
        assert_eq!(wiped, key);
        assert_ne!(wiped, Key::new(b"Secret").unwrap());
        assert_ne!(wiped, Key::new(b"").unwrap());
    }

    #[test]
    fn a_fingerprint_shows_nothing_of_the_password() {
        let key = Key::new(b"a password of 19 by").unwrap();
        let shown = key.fingerprint().windows(2);
        assert_eq!(
            shown
                .filter(|pair| key.as_bytes().windows(2).any(|of_key| of_key == *pair))
                .count(),
            0
        );
    }
}
