//! Bytes to values and back: only the fields that carpd inspects or sends.

pub mod advertisement;
pub mod arp;
pub mod checksum;
pub mod ether;
pub mod ip;
