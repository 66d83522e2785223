//! A hub with two uplinks and clients that it learns: what it sends to a client leaves by the uplink, and from the address, at which the client last spoke;
//! by another one only while that uplink is down; and nobody but the client decides.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use wgxdp_tests::concentrator::{BEHIND_NAT, CLIENTS, Concentrator, Local, Marks};
use wgxdp_tests::daemon::Daemon;
use wgxdp_tests::poll::{self, observe_for};
use wgxdp_tests::topology::Uplink;
use wgxdp_tests::wireguard::LISTEN_PORT;

use crate::command::status;
use crate::{BOUND, alone};

/// WireGuard repeats a handshake after 5 s: whatever is answered sooner needed no repetition.
const NO_REPETITION: Duration = Duration::from_secs(4);
/// The daemon asks WireGuard for its peers every two seconds: what it finds must change nothing.
const DAEMON_HAS_LOOKED: Duration = Duration::from_millis(2500);
/// Bytes of WireGuard's handshake initiation, response and cookie reply.
const LENGTHS: [usize; 3] = [148, 92, 64];

/// A concentrator, and clients that have not spoken yet.
struct Scene {
    daemon: Option<Daemon>,
    lab: Concentrator,
}

impl Scene {
    /// With a daemon that is ready.
    fn raise() -> Result<Self> {
        let lab = Concentrator::raise()?;
        let daemon = Some(Daemon::start_in(&lab.hub, &lab.toml())?);
        Ok(Self { daemon, lab })
    }

    /// With what a careful operator does without wgxdp: a rule and a table for each uplink.
    fn with_tables() -> Result<Self> {
        let lab = Concentrator::raise()?;
        for (table, uplink, gateway) in [(101, Uplink::A, "192.0.2.1"), (102, Uplink::B, "198.51.100.1")] {
            lab.hub.ip([format!(
                "route add default via {gateway} dev {} table {table}",
                uplink.name()
            )])?;
            for local in [Local::Primary(uplink), Local::Secondary(uplink)] {
                lab.hub
                    .ip([format!("rule add from {} lookup {table}", local.endpoint().ip())])?;
            }
        }
        Ok(Self { daemon: None, lab })
    }

    /// The client speaks to `local`, and from the very first packet on that is where all answers come from.
    fn starts_at(&self, client: usize, local: Local) -> Result<()> {
        let mark = self.lab.mark()?;
        self.lab.point(client, local)?;
        self.logged(self.lab.client(client).ask_hub(BOUND))?;
        self.answered_by(client, local, mark)
    }

    /// The client speaks to `local` from now on; once the hub has heard it, that is where all answers come from.
    fn moves_to(&self, client: usize, local: Local) -> Result<()> {
        self.lab.point(client, local)?;
        self.logged(self.lab.client(client).ask_hub(BOUND))?;
        self.stays_at(client, local)
    }

    /// What the client and the hub have to say to each other now goes where the client speaks.
    fn stays_at(&self, client: usize, local: Local) -> Result<()> {
        let mark = self.lab.mark()?;
        self.logged(self.lab.client(client).ask_hub(BOUND))?;
        self.logged(self.lab.ask_client(client, BOUND))?;
        self.answered_by(client, local, mark)
    }

    /// All that the hub has sent to the client since `mark` left by the uplink of `local` and from its address.
    fn answered_by(&self, client: usize, local: Local, mark: Marks) -> Result<()> {
        let replies = self.lab.replies(client, mark)?;
        self.logged((|| {
            ensure!(!replies.is_empty(), "no router saw anything for client {client}");
            let stray = replies
                .iter()
                .find(|(uplink, seen)| *uplink != local.uplink() || seen.source != local.endpoint());
            ensure!(
                stray.is_none(),
                "client {client} speaks to {local:?}, and the hub answered by {stray:?}"
            );
            Ok(())
        })())
    }

    /// An uplink returns, and the daemon knows. Before it does, a client that speaks there is still answered by the other one, and follows that.
    fn comes_back(&self, uplink: Uplink) -> Result<()> {
        self.lab.restore(uplink)?;
        let what = format!("status to show {} up", uplink.name());
        poll::wait_until(&what, BOUND, || {
            let shown = status(&self.lab.hub)?;
            let uplinks = shown.get("uplinks").and_then(Value::as_array);
            let it = uplinks
                .into_iter()
                .flatten()
                .find(|it| it.get("name") == Some(&uplink.name().into()));
            Ok(it.and_then(|it| it.get("state")) == Some(&"up".into()))
        })
    }

    fn logged<T>(&self, outcome: Result<T>) -> Result<T> {
        match &self.daemon {
            Some(daemon) => outcome.with_context(|| daemon.log().text()),
            None => outcome,
        }
    }
}

/// Answers leave by the uplink and from the address to which the client spoke, from its first packet on, and after the daemon has learned of it.
fn answers_leave_where_the_client_speaks(locals: [Local; CLIENTS]) -> Result<()> {
    let scene = Scene::raise()?;
    for (client, local) in locals.into_iter().enumerate() {
        scene.starts_at(client, local)?;
    }
    observe_for(DAEMON_HAS_LOOKED)?;
    for (client, local) in locals.into_iter().enumerate() {
        scene.stays_at(client, local)?;
    }
    Ok(())
}

#[test]
fn answers_leave_by_the_uplink_at_which_the_client_speaks() -> Result<()> {
    let Some(_alone) = alone("symmetric return") else {
        return Ok(());
    };
    answers_leave_where_the_client_speaks([
        Local::Primary(Uplink::A),
        Local::Primary(Uplink::B),
        Local::Primary(Uplink::B),
    ])
}

#[test]
fn answers_leave_from_an_uplinks_second_address() -> Result<()> {
    let Some(_alone) = alone("symmetric return from second addresses") else {
        return Ok(());
    };
    answers_leave_where_the_client_speaks([
        Local::Secondary(Uplink::A),
        Local::Secondary(Uplink::B),
        Local::Primary(Uplink::A),
    ])
}

#[test]
fn answers_leave_from_an_address_of_no_uplink_by_the_uplink_at_which_the_client_speaks() -> Result<()> {
    let Some(_alone) = alone("symmetric return from an address of no uplink") else {
        return Ok(());
    };
    let scene = Scene::raise()?;
    scene.starts_at(0, Local::Service(Uplink::B))?;
    observe_for(DAEMON_HAS_LOOKED)?;
    scene.stays_at(0, Local::Service(Uplink::B))?;
    scene.moves_to(0, Local::Service(Uplink::A))
}

/// The handshake of a client behind a NAT is answered where it came in, on the uplink that is not preferred.
#[test]
fn a_client_behind_a_nat_shakes_hands_on_the_standby_uplink() -> Result<()> {
    let Some(_alone) = alone("a handshake on the standby uplink") else {
        return Ok(());
    };
    let scene = Scene::raise()?;
    let (mark, local) = (scene.lab.mark()?, Local::Primary(Uplink::B));
    scene.lab.point(BEHIND_NAT, local)?;
    scene.logged(scene.lab.client(BEHIND_NAT).ask_hub(NO_REPETITION))?;
    scene.answered_by(BEHIND_NAT, local, mark)
}

/// When the uplink at which a client speaks goes down, the hub's packets leave by the other one and the client follows them.
fn another_uplink_carries(down: impl Fn(&Concentrator, Uplink) -> Result<()>) -> Result<()> {
    let scene = Scene::raise()?;
    for (client, local) in [(0, Local::Primary(Uplink::A)), (1, Local::Primary(Uplink::B))] {
        scene.starts_at(client, local)?;
    }
    down(&scene.lab, Uplink::B)?;
    scene.logged(scene.lab.ask_client(1, BOUND))?;
    scene.stays_at(1, Local::Primary(Uplink::A))?;
    scene.stays_at(0, Local::Primary(Uplink::A))?;
    scene.comes_back(Uplink::B)?;
    scene.moves_to(1, Local::Primary(Uplink::B))
}

/// An address of no uplink stays the client's when its providers lead to it another way.
#[test]
fn an_address_of_no_uplink_outlives_an_uplink() -> Result<()> {
    let Some(_alone) = alone("an address of no uplink and a pulled cable") else {
        return Ok(());
    };
    let scene = Scene::raise()?;
    scene.starts_at(0, Local::Service(Uplink::A))?;
    scene.lab.pull(Uplink::A)?;
    scene.moves_to(0, Local::Service(Uplink::B))?;
    scene.comes_back(Uplink::A)?;
    scene.moves_to(0, Local::Service(Uplink::A))
}

#[test]
fn another_uplink_carries_a_clients_packets_while_its_own_has_no_carrier() -> Result<()> {
    let Some(_alone) = alone("a pulled cable at the hub") else {
        return Ok(());
    };
    another_uplink_carries(Concentrator::pull)
}

#[test]
fn another_uplink_carries_a_clients_packets_while_its_own_is_set_down() -> Result<()> {
    let Some(_alone) = alone("an uplink set down at the hub") else {
        return Ok(());
    };
    another_uplink_carries(Concentrator::set_down)
}

#[test]
fn a_client_that_speaks_to_another_address_is_followed() -> Result<()> {
    let Some(_alone) = alone("a client that turns to the other uplink") else {
        return Ok(());
    };
    let scene = Scene::raise()?;
    scene.starts_at(0, Local::Primary(Uplink::A))?;
    scene.moves_to(0, Local::Primary(Uplink::B))?;
    scene.moves_to(0, Local::Secondary(Uplink::A))?;
    scene.moves_to(0, Local::Primary(Uplink::A))
}

#[test]
fn a_killed_daemons_clients_are_where_they_were_for_the_next_one() -> Result<()> {
    let Some(_alone) = alone("a concentrator killed") else {
        return Ok(());
    };
    let mut scene = Scene::raise()?;
    scene.starts_at(1, Local::Primary(Uplink::B))?;
    scene.starts_at(0, Local::Secondary(Uplink::B))?;
    drop(scene.daemon.take());
    scene.daemon = Some(Daemon::start_in(&scene.lab.hub, &scene.lab.toml())?);
    scene.stays_at(1, Local::Primary(Uplink::B))?;
    scene.stays_at(0, Local::Secondary(Uplink::B))
}

/// Clients whose packets come from another port are answered there.
fn ports_are_followed(scene: &Scene, local: Local) -> Result<()> {
    const PORT: u16 = 50_000;
    for client in [0, BEHIND_NAT] {
        scene.moves_to(client, local)?;
        scene.lab.client(client).move_to_port(PORT)?;
        scene.logged(scene.lab.client(client).ask_hub(BOUND))?;
        let mark = scene.lab.mark()?;
        scene.stays_at(client, local)?;
        let replies = scene.lab.replies(client, mark)?;
        let stray = replies.iter().find(|(_, seen)| seen.destination.port() != PORT);
        ensure!(
            stray.is_none(),
            "client {client} has moved to port {PORT}, and the hub answered by {stray:?}"
        );
    }
    Ok(())
}

#[test]
fn a_client_whose_port_changes_is_followed() -> Result<()> {
    let Some(_alone) = alone("clients whose ports change") else {
        return Ok(());
    };
    ports_are_followed(&Scene::raise()?, Local::Primary(Uplink::B))
}

/// The laboratory is what the laws take it for: with a table for each uplink, plain WireGuard keeps to those that ask for no more than that.
#[test]
fn a_table_for_each_uplink_is_enough_as_long_as_both_are_up() -> Result<()> {
    let Some(_alone) = alone("a table for each uplink") else {
        return Ok(());
    };
    let scene = Scene::with_tables()?;
    scene.starts_at(0, Local::Primary(Uplink::B))?;
    scene.starts_at(1, Local::Service(Uplink::A))?;
    scene.moves_to(1, Local::Secondary(Uplink::B))?;
    scene.starts_at(BEHIND_NAT, Local::Primary(Uplink::A))?;
    scene.moves_to(BEHIND_NAT, Local::Secondary(Uplink::A))?;
    ports_are_followed(&scene, Local::Primary(Uplink::B))?;
    forged_packets_are_in_vain(&scene)
}

/// A payload of this length that begins as a message of this type; the rest, indices included, follows from `seed`.
fn forged(kind: u8, length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut random = || {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let rest = (4..length).map(|_| random());
    [kind, 0, 0, 0].into_iter().chain(rest).take(length).collect()
}

/// What somebody sends in a client's name to the other uplink moves nothing, whatever it looks like.
fn forged_packets_are_in_vain(scene: &Scene) -> Result<()> {
    const EACH: usize = 20;
    let (client, local, elsewhere) = (1, Local::Primary(Uplink::B), Local::Primary(Uplink::A).endpoint());
    scene.moves_to(client, local)?;
    let name = SocketAddr::new(scene.lab.client(client).address().into(), LISTEN_PORT);
    let [initiation, response, cookie] = LENGTHS;
    let messages = [(1, initiation), (2, response), (3, cookie), (4, 32), (4, 1424)];
    let junk = [(0, 40), (5, 148), (1, 147), (4, 33), (7, 1)];
    for (kind, length) in messages.into_iter().chain(junk) {
        let mark = scene.lab.mark()?;
        for seed in 1..=EACH as u64 {
            scene.lab.spoof(name, elsewhere, &forged(kind, length, seed))?;
        }
        let what = format!("{length} bytes that begin with {kind}, forged");
        poll::wait_until(&what, BOUND, || Ok(scene.lab.delivered(name, elsewhere, mark)? >= EACH))?;
        // The hub speaks first: the client's own words would put right what a forged packet moved.
        scene.logged(scene.lab.ask_client(client, BOUND))?;
        let answered = scene.answered_by(client, local, mark);
        answered.with_context(|| format!("after {what}"))?;
    }
    Ok(())
}

#[test]
fn forged_packets_move_nothing() -> Result<()> {
    let Some(_alone) = alone("forged packets") else {
        return Ok(());
    };
    forged_packets_are_in_vain(&Scene::raise()?)
}
