//! The password, padded and wiped.

use core::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Length of the HMAC key. Unit: bytes.
pub const KEY_LEN: usize = 20;
/// Longest password: every implementation keeps room for a final NUL. Unit: bytes.
pub const PASSWORD_MAX: usize = KEY_LEN - 1;

/// The HMAC key: a password's bytes, zero-padded to 20.
///
/// Prints as `***` and is wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Key([u8; KEY_LEN]);

impl Key {
    /// A whole key. The BSD kernels take all 20 bytes; it is their `ifconfig` that cuts a password at 19.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// ucarp's rule: at most [`PASSWORD_MAX`] bytes.
    ///
    /// # Errors
    ///
    /// A longer password, because a peer would refuse it too.
    pub fn new(password: &[u8]) -> Result<Self, PasswordTooLong> {
        if password.len() > PASSWORD_MAX {
            return Err(PasswordTooLong {
                length: password.len(),
            });
        }
        Ok(Self::padded(password))
    }

    /// The BSDs' rule: the first [`PASSWORD_MAX`] bytes count. The second value says whether any were cut off, which
    /// the BSDs keep silent about and we should not.
    #[must_use]
    pub fn truncated(password: &[u8]) -> (Self, bool) {
        let kept = &password[..password.len().min(PASSWORD_MAX)];
        (Self::padded(kept), kept.len() < password.len())
    }

    /// At most [`KEY_LEN`] bytes.
    fn padded(bytes: &[u8]) -> Self {
        let mut key = Self([0; KEY_LEN]);
        key.0[..bytes.len()].copy_from_slice(bytes);
        key
    }

    /// The padded bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A password longer than [`PASSWORD_MAX`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordTooLong {
    /// How long it was. Unit: bytes.
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
    fn wiping_leaves_zeros() {
        let mut key = Key::new(b"secret").unwrap();
        key.zeroize();
        assert_eq!(key.as_bytes(), &[0; KEY_LEN]);
    }
}
