//! CARP's HMAC-SHA1, in a form that a kernel program can finish.
//!
//! Everything that depends on password and addresses is computed once: a [`PreparedDigest`] for every digest that a
//! virtual host accepts. The core makes them and the kernel program finishes them, so this module belongs to neither.
//! For each packet only its 8-byte counter is missing. It takes two compressions, or three if the prefix ends late in
//! a block.
//!
//! SHA-1 is implemented by hand here, and only here. A kernel program has 512 bytes of stack and must not panic, and
//! the verifier follows every path before it may run. The compression function of the crate `sha1` chooses processor
//! instructions at run time and loops over slices of blocks. The rest of carpd uses `hmac` and `sha1`: the daemon
//! verifies every advertisement again with them, and the tests below compare this module with them.
//!
//! Three details are only for the eBPF compiler and cost the host next to nothing:
//!
//! - Each round ends with a compiler fence. The 80 rounds are one basic block, and LLVM's scheduler would otherwise
//!   begin the message schedule of later rounds early and spill more than the whole stack.
//! - `compress` returns a word. A sub-program without a result may leave a stack address in `r0`, which the verifier
//!   refuses.
//! - `outer_block` hides a zero. A row of stored zeros would become a call to a bytewise `memset`.

use core::fmt;
use core::hint::black_box;
use core::sync::atomic::{Ordering, compiler_fence};

/// Size of a message block. Unit: bytes.
const BLOCK_LEN: usize = 64;
/// Size of the replay counter that ends the inner message. Unit: bytes.
const COUNTER_LEN: usize = 8;
/// Size of a digest. Unit: bytes.
const DIGEST_LEN: usize = 20;
/// Size of the message length that ends the last block. Unit: bytes.
const LENGTH_LEN: usize = 8;
/// The single bit after the end of a message.
const END_OF_MESSAGE: u8 = 0x80;

/// A message block as words. [`compress`] keeps its message schedule in it, and so overwrites it.
type Block = [u32; 16];

/// The state of SHA-1 between two blocks. After the last one it is the digest.
///
/// A state that includes a key is worth as much as the key, so it prints as `***`.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "proto", derive(zeroize::Zeroize))]
pub struct Midstate([u32; 5]);

impl Midstate {
    /// The state before the first block (FIPS 180-4, section 5.3.1).
    pub const INITIAL: Self = Self([
        0x6745_2301,
        0xefcd_ab89,
        0x98ba_dcfe,
        0x1032_5476,
        0xc3d2_e1f0,
    ]);

    /// Creates the state with these big-endian words, which is how a digest is sent.
    #[inline(always)]
    #[must_use]
    pub fn from_bytes(bytes: &[u8; DIGEST_LEN]) -> Self {
        Self(words(bytes))
    }

    /// Returns the state after one more block.
    #[must_use]
    pub fn after(self, block: &[u8; BLOCK_LEN]) -> Self {
        let mut state = self;
        state.absorb(&mut words(block));
        state
    }

    #[inline(always)]
    fn absorb(&mut self, block: &mut Block) {
        self.0[4] = compress(&mut self.0, block);
    }
}

impl fmt::Debug for Midstate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// One accepted digest of a virtual host, as far as it can be computed before a packet arrives.
///
/// Layout: 304 bytes, aligned to 4, no padding, native byte order; it is stored in a map. All zeros accept nothing.
/// It is worth as much as the key, so it prints as `***`, and its owner must wipe it in the end, in the map too.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "proto", derive(zeroize::Zeroize))]
pub struct PreparedDigest {
    /// The state after the key's inner pad and every whole block of the prefix.
    inner: Midstate,
    /// The state after the key's outer pad.
    outer: Midstate,
    /// The blocks that follow: the rest of the prefix and the padding, with zeros in place of the counter.
    tail: [Block; 2],
    /// Ones in place of the counter in `tail`, zeros elsewhere.
    counter_mask: [Block; 2],
    /// The number of blocks of `tail` in use: 1 or 2, and 0 in a slot that is not configured.
    blocks: u32,
    /// How far to rotate the counter to the right, so that repeating it puts every byte in its place. Unit: bits.
    /// Range: multiples of 8 below 64.
    rotation: u32,
}

const _: () = assert!(size_of::<PreparedDigest>() == 304);

impl PreparedDigest {
    /// Accepts nothing.
    pub const UNUSED: Self = Self {
        inner: Midstate([0; 5]),
        outer: Midstate([0; 5]),
        tail: [[0; 16]; 2],
        counter_mask: [[0; 16]; 2],
        blocks: 0,
        rotation: 0,
    };

    /// Prepares HMAC-SHA1 over `prefix` and a counter. The prefix is everything that CARP authenticates before the
    /// counter: version, type, vhid and addresses. It may have any length.
    #[must_use]
    pub fn new(key: &[u8; DIGEST_LEN], prefix: &[u8]) -> Self {
        let (whole_blocks, rest) = prefix.as_chunks::<BLOCK_LEN>();
        let mut inner = Midstate::INITIAL.after(&padded(key, 0x36));
        for block in whole_blocks {
            inner = inner.after(block);
        }
        let end = rest.len() + COUNTER_LEN;
        let blocks = (end + 1 + LENGTH_LEN).div_ceil(BLOCK_LEN);
        let bits = 8 * (BLOCK_LEN + prefix.len() + COUNTER_LEN) as u64;
        let (mut tail, mut mask) = ([0; 2 * BLOCK_LEN], [0; 2 * BLOCK_LEN]);
        tail[..rest.len()].copy_from_slice(rest);
        tail[end] = END_OF_MESSAGE;
        tail[blocks * BLOCK_LEN - LENGTH_LEN..][..LENGTH_LEN].copy_from_slice(&bits.to_be_bytes());
        mask[rest.len()..end].fill(0xff);
        #[expect(clippy::cast_possible_truncation, reason = "1 or 2, and at most 56")]
        let (blocks, rotation) = (blocks as u32, 8 * (rest.len() % COUNTER_LEN) as u32);
        Self {
            inner,
            outer: Midstate::INITIAL.after(&padded(key, 0x5c)),
            tail: two_blocks(&tail),
            counter_mask: two_blocks(&mask),
            blocks,
            rotation,
        }
    }

    /// Returns whether `digest` authenticates `counter`, both as they are sent. Returns false for a slot that is not
    /// configured.
    ///
    /// In the eBPF program this is a sub-program that calls another one. Together they use 160 bytes of stack, so the
    /// caller may use 352 bytes itself. The verifier processes less than 10 000 instructions for each key that the
    /// caller tries.
    #[inline(always)]
    #[must_use]
    pub fn verify(&self, counter: [u8; COUNTER_LEN], digest: &[u8; DIGEST_LEN]) -> bool {
        self.blocks != 0
            && self.digest_is(u64::from_be_bytes(counter), &Midstate::from_bytes(digest))
    }

    /// Finishes both hashes and compares the digest. The comparison does not stop at the first difference.
    #[inline(never)]
    fn digest_is(&self, counter: u64, expected: &Midstate) -> bool {
        let counter = halves(counter.rotate_right(self.rotation));
        let mut state = self.inner;
        let mut block = [0; 16];
        self.tail_block(0, counter, &mut block);
        state.absorb(&mut block);
        if self.blocks > 1 {
            self.tail_block(1, counter, &mut block);
            state.absorb(&mut block);
        }
        outer_block(&state, &mut block);
        state = self.outer;
        state.absorb(&mut block);

        let mut difference = 0;
        for (ours, theirs) in state.0.iter().zip(&expected.0) {
            difference |= ours ^ theirs;
        }
        difference == 0
    }

    /// Writes a block of `tail` with its part of the rotated counter. No address depends on the position of the
    /// counter, because kernels before 5.12 refuse to store at a computed position on the stack.
    #[inline(always)]
    fn tail_block(&self, index: usize, counter: [u32; 2], block: &mut Block) {
        let (tail, mask) = (&self.tail[index], &self.counter_mask[index]);
        for (i, word) in block.iter_mut().enumerate() {
            *word = tail[i] | (counter[i % 2] & mask[i]);
        }
    }
}

impl fmt::Debug for PreparedDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Returns the key, padded with zeros to a block, under HMAC's pad byte (RFC 2104, section 2).
fn padded(key: &[u8; DIGEST_LEN], pad: u8) -> [u8; BLOCK_LEN] {
    let mut block = [pad; BLOCK_LEN];
    for (byte, key) in block.iter_mut().zip(key) {
        *byte ^= key;
    }
    block
}

/// Writes the only message block of the outer hash: the inner digest and the padding.
#[inline(always)]
fn outer_block(inner: &Midstate, block: &mut Block) {
    /// The message consists of the key's block and the digest.
    const MESSAGE_BITS: u32 = 8 * (64 + 20);
    let [a, b, c, d, e] = inner.0;
    let end = u32::from_be_bytes([END_OF_MESSAGE, 0, 0, 0]);
    let z = black_box(0);
    *block = [a, b, c, d, e, end, z, z, z, z, z, z, z, z, z, MESSAGE_BITS];
}

/// Converts bytes to big-endian words.
#[inline(always)]
fn words<const BYTES: usize, const WORDS: usize>(bytes: &[u8; BYTES]) -> [u32; WORDS] {
    const { assert!(BYTES == 4 * WORDS) };
    core::array::from_fn(|i| {
        u32::from_be_bytes([
            bytes[4 * i],
            bytes[4 * i + 1],
            bytes[4 * i + 2],
            bytes[4 * i + 3],
        ])
    })
}

/// Converts both blocks to words.
fn two_blocks(bytes: &[u8; 2 * BLOCK_LEN]) -> [Block; 2] {
    let words: [u32; 32] = words(bytes);
    let (blocks, _) = words.as_chunks();
    [blocks[0], blocks[1]]
}

/// Returns the upper and the lower 32 bits.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower half is asked for"
)]
const fn halves(value: u64) -> [u32; 2] {
    [(value >> 32) as u32, value as u32]
}

/// The working variables a to e.
type Working = [u32; 5];

/// The compression function (FIPS 180-4, section 6.1.2). Replaces the first four words of `state` and returns the new
/// fifth one. Overwrites the block.
#[inline(never)]
#[must_use]
fn compress(state: &mut Working, block: &mut Block) -> u32 {
    let mut v = *state;
    macro_rules! rounds {
        ($mix:ident, $constant:literal: $($t:literal)*) => {$(
            v = round(v, $mix(v).wrapping_add($constant).wrapping_add(schedule::<$t>(block)));
            compiler_fence(Ordering::SeqCst);
        )*};
    }
    rounds!(choose, 0x5a82_7999: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19);
    rounds!(parity, 0x6ed9_eba1: 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39);
    rounds!(majority, 0x8f1b_bcdc: 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59);
    rounds!(parity, 0xca62_c1d6: 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79);
    for (word, v) in state[..4].iter_mut().zip(v) {
        *word = word.wrapping_add(v);
    }
    state[4].wrapping_add(v[4])
}

/// Returns word `T` of the message schedule, which is stored in place of word `T - 16`.
#[inline(always)]
const fn schedule<const T: usize>(block: &mut Block) -> u32 {
    if T >= 16 {
        let mixed =
            block[(T + 13) % 16] ^ block[(T + 8) % 16] ^ block[(T + 2) % 16] ^ block[T % 16];
        block[T % 16] = mixed.rotate_left(1);
    }
    block[T % 16]
}

#[inline(always)]
const fn round([a, b, c, d, e]: Working, addend: u32) -> Working {
    [
        a.rotate_left(5).wrapping_add(addend).wrapping_add(e),
        a,
        b.rotate_left(30),
        c,
        d,
    ]
}

#[inline(always)]
const fn choose([_, b, c, d, _]: Working) -> u32 {
    d ^ (b & (c ^ d))
}

#[inline(always)]
const fn parity([_, b, c, d, _]: Working) -> u32 {
    b ^ c ^ d
}

#[inline(always)]
const fn majority([_, b, c, d, _]: Working) -> u32 {
    (b & c) | (d & (b | c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hmac::{Hmac, KeyInit, Mac};
    use sha1::{Digest, Sha1};
    use std::format;
    use std::vec::Vec;

    /// SplitMix64, which gives the same numbers in every run.
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        fn array<const N: usize>(&mut self) -> [u8; N] {
            core::array::from_fn(|_| self.next().to_le_bytes()[0])
        }

        fn bytes(&mut self, length: usize) -> Vec<u8> {
            (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
        }
    }

    /// Computes the whole hash with this module's compression function.
    fn sha1(message: &[u8]) -> Midstate {
        let mut padded = message.to_vec();
        padded.push(END_OF_MESSAGE);
        padded.resize(
            (padded.len() + LENGTH_LEN).next_multiple_of(BLOCK_LEN) - LENGTH_LEN,
            0,
        );
        padded.extend((8 * message.len() as u64).to_be_bytes());
        let (blocks, rest) = padded.as_chunks::<BLOCK_LEN>();
        assert!(rest.is_empty());
        blocks
            .iter()
            .fold(Midstate::INITIAL, |state, block| state.after(block))
    }

    fn hex(text: &str) -> [u8; DIGEST_LEN] {
        core::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }

    fn hmac_sha1(
        key: &[u8; DIGEST_LEN],
        prefix: &[u8],
        counter: [u8; COUNTER_LEN],
    ) -> [u8; DIGEST_LEN] {
        let mac = Hmac::<Sha1>::new_from_slice(key).unwrap();
        mac.chain_update(prefix)
            .chain_update(counter)
            .finalize()
            .into_bytes()
            .into()
    }

    #[test]
    fn hashes_the_messages_of_fips_180() {
        let million = [b'a'; 1_000_000];
        for (message, digest) in [
            (&b"abc"[..], "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (b"", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
            (
                b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "84983e441c3bd26ebaae4aa1f95129e5e54670f1",
            ),
            (&million, "34aa973cd4c4daa4f61eeb2bdbad27316534016f"),
        ] {
            assert_eq!(sha1(message).0, Midstate::from_bytes(&hex(digest)).0);
        }
    }

    #[test]
    fn hashes_like_the_crate() {
        let mut numbers = Numbers(1);
        for length in 0..=300 {
            let message = numbers.bytes(length);
            let theirs: [u8; DIGEST_LEN] = Sha1::digest(&message).into();
            assert_eq!(
                sha1(&message).0,
                Midstate::from_bytes(&theirs).0,
                "{length} bytes"
            );
        }
    }

    #[test]
    fn accepts_the_digests_of_rfc_2202() {
        let first = PreparedDigest::new(&[0x0b; 20], b"");
        assert!(first.verify(
            *b"Hi There",
            &hex("b617318655057264e28bc0b6fb378c8ef146be00")
        ));
        let third = PreparedDigest::new(&[0xaa; 20], &[0xdd; 42]);
        assert!(third.verify([0xdd; 8], &hex("125d7342b9ac11cd91a39af48aa17b4f63f175d3")));
    }

    #[test]
    fn accepts_what_the_crates_compute_for_every_length_of_prefix() {
        let mut numbers = Numbers(2);
        for length in (0..=300).flat_map(|length| [length; 4]) {
            let (key, prefix) = (numbers.array(), numbers.bytes(length));
            let kernel_key = PreparedDigest::new(&key, &prefix);
            for counter in [numbers.array(), [0; 8], [0xff; 8]] {
                let digest = hmac_sha1(&key, &prefix, counter);
                assert!(
                    kernel_key.verify(counter, &digest),
                    "prefix of {length} bytes"
                );
            }
        }
    }

    #[test]
    fn rejects_every_flipped_bit() {
        let mut numbers = Numbers(3);
        for length in [0, 7, 23, 47, 48, 55, 56, 57, 63, 64, 300] {
            let (key, prefix) = (numbers.array(), numbers.bytes(length));
            let (kernel_key, counter) = (PreparedDigest::new(&key, &prefix), numbers.array());
            let digest = hmac_sha1(&key, &prefix, counter);
            for bit in 0..8 * DIGEST_LEN {
                let mut digest = digest;
                digest[bit / 8] ^= 1 << (bit % 8);
                assert!(!kernel_key.verify(counter, &digest), "digest bit {bit}");
            }
            for bit in 0..8 * COUNTER_LEN {
                let mut counter = counter;
                counter[bit / 8] ^= 1 << (bit % 8);
                assert!(!kernel_key.verify(counter, &digest), "counter bit {bit}");
            }
            for bit in 0..8 * DIGEST_LEN {
                let mut key = key;
                key[bit / 8] ^= 1 << (bit % 8);
                assert!(
                    !PreparedDigest::new(&key, &prefix).verify(counter, &digest),
                    "key bit {bit}"
                );
            }
            for bit in 0..8 * length {
                let mut prefix = prefix.clone();
                prefix[bit / 8] ^= 1 << (bit % 8);
                assert!(
                    !PreparedDigest::new(&key, &prefix).verify(counter, &digest),
                    "prefix bit {bit}"
                );
            }
        }
    }

    #[test]
    fn an_unused_slot_accepts_nothing() {
        let counter = [0; 8];
        // This is the digest that the unused slot would accept if its hashes were finished.
        let mut state = PreparedDigest::UNUSED.inner;
        state.absorb(&mut [0; 16]);
        let mut block = [0; 16];
        outer_block(&state, &mut block);
        let mut state = PreparedDigest::UNUSED.outer;
        state.absorb(&mut block);
        assert!(PreparedDigest::UNUSED.digest_is(0, &state));

        let mut digest = [0; DIGEST_LEN];
        assert!(!PreparedDigest::UNUSED.verify(counter, &digest));
        for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(state.0) {
            *bytes = word.to_be_bytes();
        }
        assert!(!PreparedDigest::UNUSED.verify(counter, &digest));
    }

    #[test]
    fn no_content_of_a_slot_panics() {
        let mut numbers = Numbers(4);
        for number in (0..300).chain([u32::MAX]) {
            let garbage = PreparedDigest {
                blocks: number % 7,
                rotation: number,
                ..PreparedDigest::new(&numbers.array(), &numbers.bytes(60))
            };
            assert!(!garbage.verify(numbers.array(), &numbers.array()));
        }
    }

    #[test]
    fn shows_no_key() {
        let key = PreparedDigest::new(b"secret\0\0\0\0\0\0\0\0\0\0\0\0\0\0", b"prefix");
        assert_eq!(format!("{key:?} {:?}", key.inner), "*** ***");
    }

    #[cfg(feature = "proto")]
    #[test]
    fn wiping_leaves_an_unused_slot() {
        use zeroize::Zeroize;
        let mut key = PreparedDigest::new(&[1; 20], &[2; 60]);
        key.zeroize();
        assert!(key == PreparedDigest::UNUSED);
    }
}
