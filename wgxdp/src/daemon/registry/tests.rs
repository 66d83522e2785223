use wgxdp_common::id::UplinkId;
use wireguard_control::Key;

use super::speech::{GIVEN_UP_AFTER, TRIES};
use super::*;
use crate::host::wireguard::{Backend, Peer, Tunnel};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
const PORT: u16 = 51820;

/// Clients are known by a byte.
fn key(who: u8) -> Key {
    Key([who; 32])
}

fn name(who: u8) -> KeyName {
    KeyName::new(id_of(&[who; 32]), PORT.into())
}

fn at(socket: &str) -> SocketAddr {
    socket.parse().expect("an address and a port")
}

/// WireGuard knows these, each at its endpoint.
fn tunnel<const N: usize>(peers: [(u8, Option<&str>); N]) -> [Tunnel; 1] {
    let peer = |(who, endpoint): (u8, Option<&str>)| Peer {
        public_key: key(who),
        endpoint: endpoint.map(at),
        last_handshake: None,
        rx_bytes: 0,
        tx_bytes: 0,
        persistent_keepalive: None,
        carries_v6: false,
    };
    [Tunnel {
        name: "wg0".into(),
        listen_port: Some(PORT),
        fwmark: 0,
        public_key: Some(key(0)),
        backend: Backend::Kernel,
        peers: peers.map(peer).into(),
    }]
}

/// A registry, and the maps as a driver keeps them: who has which number and what leads to whom.
struct Driver {
    registry: Registry,
    owners: HashMap<SocketAddr, PeerId>,
    next: u32,
    notes: Notes,
    /// Whose programs answer over which slots, if they are asked.
    answering: HashSet<(u8, u32)>,
    /// Of the last look.
    turns: Vec<(u8, Turn)>,
    waiting: usize,
    now_ns: u64,
}

/// What the programs noted, and WireGuard said.
#[derive(Default)]
struct Notes {
    heard: HashMap<PathId, Heard>,
    requests: HashMap<KeyName, Heard>,
    sessions: HashMap<[u8; 32], SystemTime>,
}

impl Witness for Notes {
    fn heard(&self, path: PathId) -> Heard {
        self.heard.get(&path).copied().unwrap_or_default()
    }

    fn requests(&self, of: &KeyName) -> impl Iterator<Item = Heard> {
        self.requests.get(of).copied().into_iter()
    }

    fn session(&self, _tunnel: usize, key: &PublicKey) -> Option<SystemTime> {
        self.sessions.get(key.as_bytes()).copied()
    }
}

impl Driver {
    fn new<const N: usize>(peers: [(u8, Option<&str>); N]) -> Self {
        let mut driver = Self {
            registry: Registry::default(),
            owners: HashMap::new(),
            next: 100,
            notes: Notes::default(),
            answering: HashSet::new(),
            turns: Vec::new(),
            waiting: 0,
            now_ns: 1_000 * SECOND,
        };
        assert_eq!(driver.registry.know(&tunnel(peers), |_, _| false), []);
        driver
    }

    /// A probe of `who`'s comes over an uplink, from a place that the client calls by this slot; the number of whoever lost all by that.
    fn register(&mut self, who: u8, slot: u32, uplink: u32, source: &str) -> Option<PeerId> {
        let registration = Registration {
            at_ns: self.now_ns,
            name: name(who),
            source: at(source).into(),
            uplink: UplinkId(uplink),
            local: LocalId(1),
            theirs: PathId::new(PeerId(3), slot),
            active: 0,
            reserved: 0,
        };
        let owners = self.owners.clone();
        let gone = self
            .registry
            .register(&registration, |endpoint| owners.get(&endpoint).copied());
        self.settle();
        gone
    }

    /// What changed goes into the maps.
    fn settle(&mut self) {
        for name in self.registry.changed() {
            let id = PeerId(self.next);
            self.next += 1;
            let before = self.registry.place(&name, id);
            self.owners.retain(|_, owner| Some(*owner) != before);
            let client = self.registry.by_id(id).expect("it was placed");
            for entry in client.endpoint_entries(id) {
                let key = entry.key;
                self.owners
                    .insert(SocketAddr::new(key.endpoint.to_ip(), key.port.number()), id);
            }
        }
    }

    fn client(&self, who: u8) -> Option<&Client> {
        self.registry.clients.get(&name(who))
    }

    fn canonical(&self, who: u8) -> SocketAddr {
        self.client(who).expect("a client").canonical
    }

    /// Its endpoints, in the order of their slots.
    fn endpoints(&self, who: u8) -> Vec<SocketAddr> {
        let client = self.client(who).into_iter();
        client
            .flat_map(|client| client.paths.values().map(|(path, _)| path.endpoint))
            .collect()
    }

    /// Probes come over these slots of a client's until so many seconds have passed, with a look each second; what the last look found.
    fn pass(&mut self, seconds: u64, heard: &[(u8, u32)]) -> (Vec<(u32, bool)>, Vec<PeerId>) {
        let mut last = Default::default();
        for _ in 0..seconds {
            self.now_ns += SECOND;
            for (who, slot) in heard {
                let Some(id) = self.client(*who).and_then(|client| client.id) else {
                    continue;
                };
                let heard = Heard::new(0x8000_0001, self.now_ns - 10 * MS);
                self.notes.heard.insert(PathId::new(id, *slot), heard);
                self.notes.requests.insert(name(*who), heard);
            }
            let look = self.registry.look(self.now_ns, &self.notes);
            let found = look.found.iter().map(|found| (found.path.slot(), found.is_silent));
            let found = found.collect();
            self.turns = look.turns.iter().map(|(id, turn)| (self.who(*id), *turn)).collect();
            self.waiting = look.waiting;
            self.answer();
            self.settle();
            last = (found, look.gone);
        }
        last
    }

    fn who(&self, id: PeerId) -> u8 {
        self.registry.by_id(id).expect("a client").key.as_bytes()[0]
    }

    /// Whoever was tried at the last look, or is asked, answers if it can, a little later.
    fn answer(&mut self) {
        for (who, slot) in &self.answering {
            let client = self.client(*who).expect("a client");
            let id = client.id.expect("a number");
            if client.is_asked() || self.turns.contains(&(*who, Turn::Try)) {
                let heard = Heard::new(0x8000_0002, self.now_ns + 20 * MS);
                self.notes.heard.insert(PathId::new(id, *slot), heard);
            }
        }
    }

    /// WireGuard shakes hands with it, that many seconds after some day.
    fn shake_hands(&mut self, who: u8, at: u64) {
        let session = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
        self.notes.sessions.insert([who; 32], session);
    }

    /// Looks each second, of which nothing is heard but answers, until there is something to do; after how many seconds, and what.
    fn await_turn(&mut self, within: u64) -> Option<(u64, Vec<(u8, Turn)>)> {
        (1..=within).find_map(|second| {
            self.pass(1, &[]);
            (!self.turns.is_empty()).then(|| (second, self.turns.clone()))
        })
    }
}

#[test]
fn a_clients_paths_are_where_its_probes_come_from_and_wireguards_endpoint_stays_canonical() {
    let mut driver = Driver::new([(1, Some("10.0.0.1:1"))]);
    assert_eq!(driver.register(1, 0, 0, "10.0.0.1:1"), None);
    assert_eq!(driver.register(1, 1, 1, "10.9.9.9:9"), None);
    assert_eq!(driver.endpoints(1), [at("10.0.0.1:1"), at("10.9.9.9:9")]);
    // Its NAT forgot it, twice.
    driver.register(1, 0, 0, "10.0.0.1:2");
    driver.register(1, 1, 1, "10.9.9.9:10");
    assert_eq!(driver.endpoints(1), [at("10.0.0.1:2"), at("10.9.9.9:10")]);
    assert_eq!(driver.canonical(1), at("10.0.0.1:1"));
    assert!(driver.owners.contains_key(&at("10.0.0.1:1")), "WireGuard sends there");
    assert!(!driver.owners.contains_key(&at("10.9.9.9:9")), "nobody is there");
}

#[test]
fn the_first_place_of_a_client_that_wireguard_has_not_heard_of_is_canonical() {
    let mut driver = Driver::new([(1, None)]);
    driver.register(1, 2, 0, "10.0.0.1:1");
    assert_eq!(driver.canonical(1), at("10.0.0.1:1"));
}

#[test]
fn who_is_no_peer_of_the_tunnels_or_a_listed_one_registers_nothing() {
    let mut driver = Driver::new([(1, None), (2, None)]);
    let listed = PublicKey::from([2; 32]);
    driver
        .registry
        .know(&tunnel([(1, None), (2, None)]), |_, key| *key == listed);
    for stranger in [2, 3] {
        assert_eq!(driver.register(stranger, 0, 0, "10.0.0.1:1"), None);
        assert!(driver.client(stranger).is_none());
    }
}

#[test]
fn the_endpoint_of_a_listed_peer_is_not_taken_from_it() {
    let mut driver = Driver::new([(1, None)]);
    driver.owners.insert(at("10.0.0.1:1"), PeerId(7));
    assert_eq!(driver.register(1, 0, 0, "10.0.0.1:1"), None);
    assert!(driver.client(1).is_none());
}

#[test]
fn a_client_that_numbers_its_paths_anew_has_each_of_them_once() {
    let mut driver = Driver::new([(1, None)]);
    driver.register(1, 0, 0, "10.0.0.1:1");
    driver.register(1, 1, 1, "10.9.9.9:9");
    driver.register(1, 0, 1, "10.9.9.9:9");
    assert_eq!(driver.endpoints(1), [at("10.9.9.9:9")]);
    driver.register(1, 1, 0, "10.0.0.1:1");
    assert_eq!(driver.endpoints(1), [at("10.9.9.9:9"), at("10.0.0.1:1")]);
}

#[test]
fn a_place_is_whose_probes_came_from_there_last_and_who_has_none_left_is_forgotten() {
    let mut driver = Driver::new([(1, None), (2, None)]);
    driver.register(1, 0, 0, "10.0.0.1:1");
    driver.register(1, 1, 1, "10.9.9.9:9");
    assert_eq!(driver.register(2, 0, 0, "10.0.0.1:1"), None);
    assert_eq!(driver.endpoints(1), [at("10.9.9.9:9")]);
    assert_eq!(driver.canonical(1), at("10.9.9.9:9"), "the other one is another's");
    assert_eq!(driver.canonical(2), at("10.0.0.1:1"));
    let lost = driver.client(1).expect("a client").id;
    assert_eq!(driver.register(2, 1, 1, "10.9.9.9:9"), lost);
    assert!(driver.client(1).is_none());
}

#[test]
fn a_canonical_endpoint_at_which_wireguard_sees_somebody_else_is_given_up_unless_the_client_is_still_there() {
    let mut driver = Driver::new([(1, Some("10.0.0.1:1")), (2, None)]);
    driver.register(1, 0, 0, "10.0.0.1:1");
    let seen = tunnel([(1, Some("10.0.0.1:1")), (2, Some("10.0.0.1:1"))]);
    driver.registry.know(&seen, |_, _| false);
    driver.settle();
    assert_eq!(driver.canonical(1), at("10.0.0.1:1"), "it proved to be there");
    driver.register(1, 0, 0, "10.0.0.1:2");
    driver.registry.know(&seen, |_, _| false);
    driver.settle();
    assert_eq!(driver.canonical(1), at("10.0.0.1:2"));
}

#[test]
fn a_path_is_silent_if_others_of_its_client_are_heard_and_it_is_not_for_three_seconds() {
    let mut driver = Driver::new([(1, None)]);
    driver.register(1, 0, 0, "10.0.0.1:1");
    driver.register(1, 1, 1, "10.9.9.9:9");
    assert_eq!(driver.pass(30, &[(1, 0), (1, 1)]), (vec![], vec![]));
    assert_eq!(driver.pass(3, &[(1, 1)]), (vec![], vec![]));
    assert_eq!(driver.pass(1, &[(1, 1)]), (vec![(0, true)], vec![]));
    assert_eq!(driver.pass(1, &[(1, 1)]), (vec![], vec![]), "told once");
    assert_eq!(driver.pass(1, &[(1, 0), (1, 1)]), (vec![(0, false)], vec![]));
}

#[test]
fn a_client_that_is_silent_by_all_its_paths_says_nothing_of_any_of_them_and_is_forgotten_in_the_end() {
    let mut driver = Driver::new([(1, None)]);
    driver.register(1, 0, 0, "10.0.0.1:1");
    driver.register(1, 1, 1, "10.9.9.9:9");
    driver.pass(5, &[(1, 0), (1, 1)]);
    for _ in 1..FORGOTTEN_AFTER.as_secs() {
        assert_eq!(driver.pass(1, &[]), (vec![], vec![]));
    }
    let id = driver.client(1).expect("a client").id;
    assert_eq!(driver.pass(1, &[]), (vec![], id.into_iter().collect()));
    assert!(driver.client(1).is_none());
}

#[test]
fn a_path_unseen_for_long_is_no_more_while_the_others_stay() {
    let mut driver = Driver::new([(1, None)]);
    driver.register(1, 0, 0, "10.0.0.1:1");
    driver.register(1, 1, 1, "10.9.9.9:9");
    driver.pass(FORGOTTEN_AFTER.as_secs() + 1, &[(1, 1)]);
    assert_eq!(driver.endpoints(1), [at("10.9.9.9:9")]);
    assert_eq!(driver.canonical(1), at("10.0.0.1:1"), "where WireGuard sees it");
}

#[test]
fn a_path_whose_probes_are_rare_is_given_three_of_their_intervals() {
    let mut driver = Driver::new([(1, None)]);
    driver.register(1, 0, 0, "10.0.0.1:1");
    driver.register(1, 1, 1, "10.9.9.9:9");
    // A metered one, asked every ten seconds.
    for _ in 0..4 {
        driver.pass(9, &[(1, 0)]);
        driver.pass(1, &[(1, 0), (1, 1)]);
    }
    assert_eq!(driver.pass(30, &[(1, 0)]), (vec![], vec![]));
    assert_eq!(driver.pass(1, &[(1, 0)]).0, [(1, true)]);
}

#[test]
fn who_is_no_peer_any_more_is_forgotten() {
    let mut driver = Driver::new([(1, None), (2, None)]);
    driver.register(1, 0, 0, "10.0.0.1:1");
    driver.register(2, 0, 0, "10.0.0.2:1");
    let gone = driver.client(1).expect("a client").id;
    let told = driver.registry.know(&tunnel([(2, None)]), |_, _| false);
    assert_eq!(told, gone.into_iter().collect::<Vec<_>>());
    assert!(driver.client(1).is_none() && driver.client(2).is_some());
}

/// A client in session that has two paths and asks by both.
fn two_paths() -> Driver {
    let mut driver = Driver::new([(1, None)]);
    driver.register(1, 0, 0, "10.0.0.1:1");
    driver.register(1, 1, 1, "10.9.9.9:9");
    driver.shake_hands(1, 1);
    driver.pass(5, &[(1, 0), (1, 1)]);
    assert_eq!(driver.turns, []);
    driver
}

#[test]
fn a_client_whose_requests_stop_over_all_its_paths_is_asked_while_it_answers_until_it_speaks_for_itself() {
    let mut driver = two_paths();
    // One that is silent is no reason: the client asks.
    driver.pass(10, &[(1, 0)]);
    assert_eq!(driver.turns, []);
    driver.answering.insert((1, 1));
    assert_eq!(driver.await_turn(9), Some((3, vec![(1, Turn::Try)])));
    assert_eq!(
        driver.pass(1, &[]),
        (vec![(1, false)], vec![]),
        "its answers decide now"
    );
    assert_eq!(driver.turns, [(1, Turn::Ask)]);
    assert_eq!(driver.await_turn(100), None, "as long as it answers");
    assert!(driver.client(1).expect("a client").is_asked());
    driver.pass(1, &[(1, 0)]);
    assert_eq!(driver.turns, [(1, Turn::Speaks { was_asked: true })]);
    assert_eq!(driver.pass(2, &[(1, 0)]), (vec![], vec![]));
    assert_eq!(
        driver.pass(1, &[(1, 0)]),
        (vec![(1, true)], vec![]),
        "its own word counts again"
    );
    assert_eq!(driver.turns, []);
}

#[test]
fn a_path_that_answers_is_not_forgotten_and_a_client_that_gets_another_number_is_asked_on() {
    let mut driver = two_paths();
    driver.answering.insert((1, 1));
    driver.pass(FORGOTTEN_AFTER.as_secs() + 10, &[]);
    assert_eq!(driver.endpoints(1), [at("10.9.9.9:9")]);
    assert!(driver.client(1).expect("a client").is_asked());
}

#[test]
fn who_does_not_answer_is_tried_a_few_times_for_each_session_and_without_one_never() {
    let mut driver = two_paths();
    for wanted in [
        Some((3, vec![(1, Turn::Try)])),
        Some((1, vec![(1, Turn::Try)])),
        Some((1, vec![(1, Turn::Try)])),
        None,
    ] {
        assert_eq!(driver.await_turn(10), wanted);
    }
    driver.shake_hands(1, 2);
    assert_eq!(driver.await_turn(10), Some((1, vec![(1, Turn::Try)])));
    driver.pass(1, &[(1, 0), (1, 1)]);
    assert_eq!(driver.turns, [(1, Turn::Speaks { was_asked: false })]);
    driver.notes.sessions.clear();
    assert_eq!(driver.await_turn(100), None);

    let mut driver = Driver::new([(1, None)]);
    driver.register(1, 0, 0, "10.0.0.1:1");
    driver.shake_hands(1, 1);
    assert_eq!(driver.await_turn(100), None, "there is but one way to it");
}

#[test]
fn who_answers_no_more_is_asked_no_longer() {
    let mut driver = two_paths();
    driver.answering.insert((1, 0));
    assert_eq!(driver.await_turn(10), Some((3, vec![(1, Turn::Try)])));
    assert_eq!(driver.await_turn(10), Some((1, vec![(1, Turn::Ask)])));
    driver.answering.clear();
    let given_up = GIVEN_UP_AFTER.as_secs() + 1;
    assert_eq!(driver.await_turn(60), Some((given_up, vec![(1, Turn::GiveUp)])));
    assert_eq!(driver.await_turn(60), None);
}

#[test]
fn of_a_crowd_a_few_are_asked_at_once_and_the_others_when_there_is_room() {
    const CROWD: u8 = 200;
    let mut driver = Driver::new(std::array::from_fn::<_, { CROWD as usize }, _>(|who| (who as u8, None)));
    for who in 0..CROWD {
        driver.register(who, 0, 0, &format!("10.0.0.{who}:1"));
        driver.register(who, 1, 1, &format!("10.9.9.{who}:9"));
        driver.shake_hands(who, 1);
    }
    let beyond = usize::from(CROWD) - AT_ONCE;
    let tried = driver.await_turn(10).map(|(_, turns)| turns.len());
    assert_eq!((tried, driver.waiting), (Some(AT_ONCE), beyond));
    // Nobody answers.
    driver.pass(TRIES.into(), &[]);
    assert_eq!((driver.turns.len(), driver.waiting), (beyond, 0));
}

#[test]
fn what_was_heard_once_is_no_news_whenever_it_is_looked_at() {
    let heard = Heard::new(0x8000_0001, 7 * SECOND + 999_999);
    for later in [0, 1, 700_000, MS, 3 * SECOND + 123_456] {
        assert_eq!(moment(heard, 7 * SECOND + 999_999 + later), Some(7 * SECOND));
    }
    assert_eq!(moment(heard, 80 * SECOND), None, "too long ago to be told");
    assert_eq!(moment(Heard::default(), SECOND), None);
}
