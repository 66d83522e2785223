//! Laws of tunnels.
