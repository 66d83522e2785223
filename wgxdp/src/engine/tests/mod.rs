//! The engine's laws, on a virtual clock.
//!
//! | module | what it shows |
//! |---|---|
//! | [`table`] | where each event leads from each state |
//! | [`sim`] | no test: the kernel's half, the network and the driver, small enough to be believed |
//! | [`failover`] | what happens to traffic when paths die and come back |
//! | [`brownout`] | what objectives move, and what they do not |
//! | [`full_size`] | what becomes of paths that swallow large packets |
//! | [`stall`] | what the tunnel's own packets convict, and what they do not |
//! | [`metered`] | how seldom metered paths are asked, and that it harms nobody |
//! | [`starvation`] | what happens when the engine sleeps, or does not hear |
//! | [`contract`] | what single inputs lead to, and in which order |
//! | [`crowd`] | that of thousands of peers nobody costs another anything |
//! | [`property`] | what holds whatever the inputs are |

mod brownout;
mod contract;
mod crowd;
mod failover;
mod full_size;
mod metered;
mod property;
mod sim;
mod stall;
mod starvation;
mod table;
