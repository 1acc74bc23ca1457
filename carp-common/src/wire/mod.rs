//! Converts bytes to values and back: only the fields that carpd inspects or sends.
//!
//! | Module | What it contains |
//! |---|---|
//! | [`advertisement`] | the 36-byte CARP header |
//! | [`checksum`] | the internet checksum |
//! | [`ether`] | Ethernet, VLAN tags, multicast and virtual MAC addresses |
//! | [`ip`] | IPv4 and IPv6 headers |
//! | [`arp`] | ARP, including gratuitous ARP |
//! | [`discovery`] | IPv6 neighbour discovery, including unsolicited neighbour advertisements |
//! | [`frame`] | a whole advertisement frame, ready to send |

pub mod advertisement;
pub mod arp;
pub mod checksum;
pub mod discovery;
pub mod ether;
pub mod frame;
pub mod ip;
