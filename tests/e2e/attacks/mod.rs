//! Recordings of an attacker on the link without the password: resent, altered outside of the digest,
//! from other sources, and delivered first. No host changes state because of them, and the client notices nothing.
//!
//! `cargo xtask bench replays` runs the same attacks with the default timers and on ucarp.
//!
//! | Module | Target |
//! |---|---|
//! | [`living`] | a living MASTER and BACKUP |
//! | [`dead`] | a BACKUP whose MASTER has died |
//! | [`older`] | a pair, with recordings of a ucarp under the same password |
//! | [`scene`] | shared parts of these tests |

mod dead;
mod living;
mod older;
mod scene;
