//! An OpenClaw gateway on loopback, as far as clients see one: greeting, devices, scopes, sessions, chats, agents, files,
//! configuration. It counts what it is told, and misbehaves as scripted.
//!
//! It keeps to what was seen of real gateways; `gateway_compat` holds both against the same client.

mod chat;
mod fault;
mod greet;
mod method;
mod serve;
mod world;

use std::{
    net::SocketAddr,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::broadcast, task::JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

pub use chat::Turn;
pub use fault::Fault;
use serve::Order;
use world::World;

/// How a gateway is set up.
#[derive(Clone)]
pub struct Options {
    /// The token that all clients share; none lets devices in only.
    pub token: Option<String>,
    /// A device must be approved before it may come in; else it is paired at once.
    pub approves: bool,
    /// Signatures of the second form only, as older gateways.
    pub old_signatures: bool,
    /// The versions of the protocol that it speaks.
    pub protocol: RangeInclusive<u32>,
    /// The scopes that are granted at most.
    pub scopes: Vec<&'static str>,
    /// Messages that come twice under one key are said once.
    pub deduplicates: bool,
    /// A message to a session in whose turn another goes on waits for the end of that, instead of being merged into it.
    pub queues: bool,
    /// How long a turn of an agent takes.
    pub turn: Duration,
    /// Between two ticks.
    pub tick: Duration,
    /// Nothing is sent by itself, and no ping is answered.
    pub mute: bool,
    /// Writes to agents and configuration a minute.
    pub writes_per_minute: usize,
    /// Agents have no files for tools and heartbeats, as in newer versions.
    pub few_files: bool,
    /// Its configuration has the names that it had in older versions.
    pub old_config: bool,
    /// A change of the configuration restarts it.
    pub config_restarts: bool,
    /// Speaks TLS.
    pub tls: Option<TlsAcceptor>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            token: Some("fake-gateway-token".to_owned()),
            approves: false,
            old_signatures: false,
            protocol: 4..=4,
            scopes: vec!["operator.read", "operator.write", "operator.admin"],
            deduplicates: true,
            queues: false,
            turn: Duration::from_millis(20),
            tick: Duration::from_secs(30),
            mute: false,
            writes_per_minute: 1_000,
            few_files: false,
            old_config: false,
            config_restarts: false,
            tls: None,
        }
    }
}

/// What all connections share.
struct Shared {
    options: Options,
    world: Mutex<World>,
    /// To every connection: of what happens, and to end.
    orders: broadcast::Sender<Order>,
    /// What goes on whatever becomes of a connection. Ends with the gateway.
    tasks: Mutex<JoinSet<()>>,
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// A clean restart: turns are ended first, memory is lost, what was written stays.
    fn restart(&self) {
        let finished = self.world().finish_all();
        for event in finished {
            self.orders.send(event).ok();
        }
        self.world().forget();
        self.orders.send(Order::Close(1012, "service restart")).ok();
    }
}

/// The gateway. Dropping it stops it.
pub struct FakeGateway {
    address: SocketAddr,
    shared: Arc<Shared>,
    _listener: AbortOnDropHandle<()>,
}

impl Drop for FakeGateway {
    fn drop(&mut self) {
        // They hold what holds them.
        self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

impl FakeGateway {
    /// One that behaves.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// One that is set up in another way.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn with(options: Options) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (orders, _) = broadcast::channel(4_096);
        let world = Mutex::new(World::new(options.old_config, options.few_files));
        let shared = Arc::new(Shared { options, world, orders, tasks: Mutex::new(JoinSet::new()) });
        let listening = tokio::spawn(serve::listen(listener, shared.clone()));
        Self { address, shared, _listener: AbortOnDropHandle::new(listening) }
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.shared.options.tls.is_some() { "wss" } else { "ws" };
        format!("{scheme}://{}", self.address)
    }

    /// Where it is, for a proxy before it.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next requests of this method go wrong in these ways, one after the other.
    pub fn fail(&self, method: &str, faults: impl IntoIterator<Item = Fault>) {
        self.shared.world().faults.entry(method.to_owned()).or_default().extend(faults);
    }

    /// All messages to this session go wrong in this way, or well again.
    pub fn fail_session(&self, session_key: &str, fault: Option<Fault>) {
        let (mut world, key) = (self.shared.world(), World::canonical(session_key));
        match fault {
            Some(fault) => world.session_faults.insert(key, fault),
            None => world.session_faults.remove(&key),
        };
    }

    /// The methods of all requests since the greeting, in the order in which they came.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.shared.world().calls.clone()
    }

    /// The next turns that begin end in these ways; those after them with a good answer.
    pub fn turns(&self, turns: impl IntoIterator<Item = Turn>) {
        self.shared.world().turns.extend(turns);
    }

    /// Somebody else says something in a session.
    ///
    /// # Panics
    /// If the gateway does not take it.
    pub fn overhear(&self, session_key: &str, message: &str) {
        let params = json!({"sessionKey": session_key, "message": message, "idempotencyKey": "of-somebody-else"});
        let params = params.as_object().cloned().unwrap_or_default();
        chat::take(&self.shared, &params).expect("it is taken");
    }

    /// What was said in a session by its users, in order, with the keys.
    #[must_use]
    pub fn said(&self, session_key: &str) -> Vec<(String, String)> {
        self.shared.world().said(session_key)
    }

    /// How many users' messages all sessions hold.
    #[must_use]
    pub fn said_in_all(&self) -> usize {
        self.shared.world().said_in_all()
    }

    /// How often a turn began: a message that is known already begins none.
    #[must_use]
    pub fn turns_begun(&self) -> usize {
        self.shared.world().turns_begun
    }

    /// The parameters of all requests of this method, in the order in which they came.
    #[must_use]
    pub fn requests(&self, method: &str) -> Vec<Value> {
        self.shared.world().requests.get(method).cloned().unwrap_or_default()
    }

    /// The methods of all requests since the greeting, each with the `traceparent` that it named; empty where it named none.
    #[must_use]
    pub fn traces(&self) -> Vec<(String, String)> {
        self.shared.world().traces.clone()
    }

    /// How many TCP connections were made to it.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.world().connections
    }

    /// How many greeted connections there are now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.orders.receiver_count()
    }

    /// Which run of the gateway this is.
    #[must_use]
    pub fn boot_id(&self) -> String {
        self.shared.world().boot_id.clone()
    }

    /// Restarts it as an operator does: turns end, connections are closed with 1012, memory is lost.
    pub fn restart(&self) {
        self.shared.restart();
    }

    /// Kills it and starts it again: connections break, turns are lost, and memory too.
    pub fn crash(&self) {
        self.shared.world().drop_all();
        self.shared.world().forget();
        self.shared.orders.send(Order::Cut).ok();
    }

    /// Breaks all connections.
    pub fn cut(&self) {
        self.shared.orders.send(Order::Cut).ok();
    }

    /// Takes no connections, or takes them again.
    pub fn set_away(&self, away: bool) {
        self.shared.world().away = away;
    }

    /// Tells clients of everything but this: the next `count` events are left out, and their numbers with them.
    pub fn lose_events(&self, count: usize) {
        self.shared.orders.send(Order::Lose(count)).ok();
    }

    /// Devices that wait for an approval.
    #[must_use]
    pub fn waiting_devices(&self) -> Vec<String> {
        self.shared.world().waiting_devices()
    }

    /// Lets them all in.
    pub fn approve_devices(&self) {
        self.shared.world().approve_devices();
    }

    /// Takes the tokens of all devices back.
    pub fn revoke_device_tokens(&self) {
        self.shared.world().revoke_device_tokens();
    }

    /// Changes the token that all clients share.
    pub fn set_token(&self, token: &str) {
        self.shared.world().token = Some(token.to_owned());
    }
}
