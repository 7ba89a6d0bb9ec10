//! The way to a gateway: name, address, TLS, upgrade. Nothing is said yet.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use chrono::Utc;
use errand_common::domain::{
    FailureClass,
    address::{self, Refused},
};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config,
    tungstenite::{
        self,
        client::IntoClientRequest,
        handshake::client::Request,
        http::{
            HeaderValue,
            header::{ORIGIN, USER_AGENT},
        },
        protocol::WebSocketConfig,
    },
};

use super::{
    Access, GatewayFailure, Settings, Target,
    failure::{code, cut, not_upgraded, silent},
    tls,
};
use crate::{
    outbound::{NoAddress, permitted},
    retry_after::retry_after,
};

/// A WebSocket.
pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What a connection reads at once; the library's own choice is for far busier ones.
const READ_BUFFER: usize = 16 * 1024;
/// What is written beside a frame: its head, pings.
const BESIDE_A_FRAME: usize = 64 * 1024;

/// Opens a WebSocket, within the setting's time. The connection goes to exactly the address that was judged.
pub(super) async fn open(target: &Target, settings: &Settings) -> Result<Socket, GatewayFailure> {
    match tokio::time::timeout(settings.connect_timeout, open_unbounded(target, settings)).await {
        Ok(opened) => opened,
        Err(_) => {
            let failure = silent("take a connection", settings.connect_timeout);
            Err(GatewayFailure { code: code::UNREACHABLE, ..failure })
        }
    }
}

async fn open_unbounded(target: &Target, settings: &Settings) -> Result<Socket, GatewayFailure> {
    let request = request(target)?;
    let stream = reach(target, settings).await?;
    // Requests are small and each is waited for.
    stream.set_nodelay(true).map_err(|error| unreachable(target, &error))?;
    let connector = if target.is_encrypted() {
        let tls = tls::config(target.insecure_tls());
        Connector::Rustls(tls.map_err(|reason| GatewayFailure::new(FailureClass::Invalid, code::TLS, reason))?)
    } else {
        Connector::Plain
    };
    let limits = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(settings.frame_limit + BESIDE_A_FRAME)
        .max_message_size(Some(settings.frame_limit))
        .max_frame_size(Some(settings.frame_limit));
    let (socket, _) = client_async_tls_with_config(request, stream, Some(limits), Some(connector))
        .await
        .map_err(|error| not_opened(target, error))?;
    Ok(socket)
}

fn request(target: &Target) -> Result<Request, GatewayFailure> {
    let invalid =
        |_| GatewayFailure::new(FailureClass::Invalid, code::PROTOCOL, "the gateway's URL can't be called as it is");
    let mut request = target.url().as_str().into_client_request().map_err(invalid)?;
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("errand/", env!("CARGO_PKG_VERSION"))));
    if target.access() == Access::ControlUi {
        let origin = HeaderValue::from_str(&target.origin()).map_err(|error| invalid(error.into()))?;
        headers.insert(ORIGIN, origin);
    }
    Ok(request)
}

async fn reach(target: &Target, settings: &Settings) -> Result<TcpStream, GatewayFailure> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses(target, settings).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(unreachable(target, &last))
}

/// The addresses that may be called.
async fn addresses(target: &Target, settings: &Settings) -> Result<Vec<SocketAddr>, GatewayFailure> {
    let port = target.port();
    if let Err(refused) = address::check_port(port) {
        return Err(GatewayFailure::new(FailureClass::Invalid, code::ADDRESS_NOT_ALLOWED, not_allowed(refused)));
    }
    let found: Vec<IpAddr> = match target.url().host() {
        Some(url::Host::Ipv4(address)) => vec![address.into()],
        Some(url::Host::Ipv6(address)) => vec![address.into()],
        Some(url::Host::Domain(name)) => {
            let found = tokio::net::lookup_host((name, port)).await.map_err(|error| unreachable(target, &error))?;
            found.map(|address| address.ip()).collect()
        }
        None => Vec::new(),
    };
    match permitted(found, target.is_encrypted(), &settings.allow) {
        Ok(permitted) => Ok(permitted.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()),
        Err(NoAddress::NoneFound) => Ok(Vec::new()),
        Err(NoAddress::Refused(refused)) => {
            Err(GatewayFailure::new(FailureClass::Invalid, code::ADDRESS_NOT_ALLOWED, not_allowed(refused)))
        }
    }
}

fn not_allowed(refused: Refused) -> String {
    match refused {
        Refused::NotPublic(..) | Refused::Port(_) => refused.to_string(),
        Refused::NotEncrypted(address) => format!(
            "the public address {address} is reached over wss only; an operator can allow ws to its network in [outbound] allow"
        ),
    }
}

fn unreachable(target: &Target, error: &io::Error) -> GatewayFailure {
    let message = format!("the gateway {} can't be reached: {error}", target.destination());
    GatewayFailure::new(FailureClass::Transient, code::UNREACHABLE, message)
}

fn not_opened(target: &Target, error: tungstenite::Error) -> GatewayFailure {
    match error {
        tungstenite::Error::Http(response) => {
            not_upgraded(response.status().as_u16(), retry_after(response.headers(), Utc::now()))
        }
        tungstenite::Error::Io(error) if is_distrust(&error) => {
            let message = format!("the certificate of {} is not trusted: {error}", target.destination());
            GatewayFailure::new(FailureClass::Invalid, code::TLS, message)
        }
        tungstenite::Error::Io(error) => unreachable(target, &error),
        other => {
            let message =
                format!("{} did not receive a valid HTTP response: {}", target.destination(), cut(&other.to_string()));
            GatewayFailure::new(FailureClass::Transient, code::UNREACHABLE, message)
        }
    }
}

fn is_distrust(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}
