//! A frame to a verdict.
