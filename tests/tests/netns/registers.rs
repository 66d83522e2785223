//! A concentrator that is told of no peer learns by which of its clients' paths they can be reached, from their own probes, and follows where they go: here the
//! branch, behind the address translation of both of its providers.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::cut::Cut;
use wgxdp_tests::daemon::{Daemon, Settings};
use wgxdp_tests::far_end;
use wgxdp_tests::masquerade::PORTS_AFTER;
use wgxdp_tests::poll;
use wgxdp_tests::topology::{Family, Lab, Uplink};
use wgxdp_tests::traffic::Traffic;

use crate::command::status;
use crate::scene::{goes_on, nothing_lost};
use crate::status::{await_active, path};
use crate::{BOUND, alone, pace};

/// A branch under traffic behind two translations, and a hub that knows it by its key alone.
struct Masqueraded {
    traffic: Traffic,
    branch: Daemon,
    hub: Daemon,
    lab: Lab,
    /// Where the hub's WireGuard sees the branch.
    canonical: SocketAddr,
}

impl Masqueraded {
    fn raise() -> Result<Self> {
        let lab = Lab::raise(Family::V4)?;
        lab.masquerade()?;
        let settings = Settings {
            probe: "kind = \"stamp\"",
            ..Settings::default()
        };
        let branch = Daemon::start(&lab, &settings)?;
        let traffic = Traffic::start(&lab, pace())?;
        let canonical = lab.masqueraded(Uplink::A);
        poll::wait_until("the hub to see the branch behind isp-a", BOUND, || {
            Ok(lab.hub_wg.endpoint()? == Some(canonical))
        })?;
        let hub = far_end::start_as_concentrator(&lab)?;
        let scene = Self {
            traffic,
            branch,
            hub,
            lab,
            canonical,
        };
        for uplink in Uplink::ALL {
            scene.await_path(uplink, |endpoint| endpoint == scene.lab.masqueraded(uplink))?;
        }
        scene.await_reply_over(Uplink::A)?;
        Ok(scene)
    }

    fn logs<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.with_context(|| {
            format!(
                "the branch's {}\nthe hub's {}",
                self.branch.log().text(),
                self.hub.log().text()
            )
        })
    }

    /// Waits until the hub knows the branch's path over this uplink to end at such an endpoint.
    fn await_path(&self, uplink: Uplink, ends_at: impl Fn(SocketAddr) -> bool) -> Result<()> {
        let what = format!("the hub to know the branch's path over {}", uplink.name());
        let known = poll::wait_until(&what, BOUND, || {
            let shown = status(&self.lab.hub)?;
            let endpoint = path(&shown, uplink).ok().and_then(|path| path.get("endpoint"));
            let endpoint = endpoint.and_then(Value::as_str).map(str::parse).transpose()?;
            Ok(endpoint.is_some_and(&ends_at))
        });
        self.logs(known)
    }

    fn await_reply_over(&self, uplink: Uplink) -> Result<()> {
        self.logs(await_active(&self.lab.hub, uplink).map(drop))
    }

    /// Waits until the hub has said so.
    fn await_line(&mut self, text: &str) -> Result<()> {
        let told = self.hub.await_line(text, 0, BOUND);
        self.logs(told.map(drop))
    }

    fn wireguard_sees_one_endpoint(&self) -> Result<()> {
        let seen = self.lab.hub_wg.endpoint()?;
        ensure!(
            seen == Some(self.canonical),
            "the hub's WireGuard sees the branch at {seen:?} and not at {}",
            self.canonical
        );
        Ok(())
    }
}

#[test]
fn a_concentrator_learns_a_clients_paths_behind_nat_from_its_probes_and_replies_where_the_client_goes() -> Result<()> {
    let Some(_alone) = alone("cutting a client's uplink") else {
        return Ok(());
    };
    let mut scene = Masqueraded::raise()?;

    let severed = scene.lab.cut(Cut::Blackhole, Uplink::A)?;
    let cut_ns = severed.at_ns;
    scene.logs(scene.traffic.await_udp(now_ns(), BOUND))?;
    scene.await_reply_over(Uplink::B)?;
    scene.logs(goes_on(scene.traffic.observe_since(cut_ns)?.both()))?;
    scene.wireguard_sees_one_endpoint()?;

    let healed_ns = scene.lab.heal(severed)?;
    scene.await_reply_over(Uplink::A)?;
    scene.logs(nothing_lost(scene.traffic.observe_since(healed_ns)?.both()))?;
    scene.wireguard_sees_one_endpoint()
}

#[test]
fn a_concentrator_follows_a_client_whose_nat_forgot_it_and_wireguard_sees_it_where_it_was() -> Result<()> {
    let Some(_alone) = alone("a provider's router that forgets") else {
        return Ok(());
    };
    let scene = Masqueraded::raise()?;
    for (uplink, ports) in Uplink::ALL.into_iter().zip(PORTS_AFTER) {
        let from_ns = now_ns();
        scene.lab.rebind(uplink)?;
        scene.await_path(uplink, |endpoint| ports.contains(&endpoint.port()))?;
        scene.logs(scene.traffic.await_udp(now_ns(), BOUND))?;
        scene.logs(goes_on(scene.traffic.observe_since(from_ns)?.both()))?;
        scene.wireguard_sees_one_endpoint()?;
    }
    Ok(())
}

#[test]
fn with_its_daemon_stopped_a_client_is_asked_by_the_concentrator_and_both_leave_a_blackhole_until_it_speaks_again()
-> Result<()> {
    let Some(_alone) = alone("stopping a client's daemon") else {
        return Ok(());
    };
    let mut scene = Masqueraded::raise()?;
    let calm_ns = now_ns();
    scene.branch.signal(Signal::SIGSTOP)?;
    scene.await_line("asks no more, but answers")?;
    scene.logs(nothing_lost(scene.traffic.observe_since(calm_ns)?.both()))?;

    let severed = scene.lab.cut(Cut::Blackhole, Uplink::A)?;
    scene.logs(scene.traffic.await_udp(now_ns(), BOUND))?;
    scene.await_reply_over(Uplink::B)?;
    scene.logs(goes_on(scene.traffic.observe_since(severed.at_ns)?.both()))?;

    scene.branch.signal(Signal::SIGCONT)?;
    let healed_ns = scene.lab.heal(severed)?;
    scene.await_line("speaks for itself again")?;
    scene.await_reply_over(Uplink::A)?;
    scene.logs(nothing_lost(scene.traffic.observe_since(healed_ns)?.both()))?;
    scene.wireguard_sees_one_endpoint()
}
