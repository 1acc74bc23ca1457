//! Recordings in the hands of somebody on the link who has no password: resent, altered where the digest does not reach,
//! from other sources, and first. Nobody changes state for them, and the client notices nothing.
//!
//! The same attacks with the default timers and beside ucarp: `cargo xtask bench replays`.
//!
//! | Module | What is attacked |
//! |---|---|
//! | [`living`] | a MASTER and a BACKUP that live |
//! | [`dead`] | a BACKUP whose MASTER has died |
//! | [`older`] | with recordings of a ucarp under the same password |
//! | [`scene`] | what these tests share |

mod dead;
mod living;
mod older;
mod scene;
