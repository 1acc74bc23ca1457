//! ether
