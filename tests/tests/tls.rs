//! TLS, on every adapter, against a RabbitMQ that wants to see certificates: made here, for here.

mod adapters;
mod captured;

use std::error::Error;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use adapters::{ADAPTERS, Outcome};
use amqp_client_blocking::Wait as _;
use amqp_client_core::{
    ConnectionEvent, ConsumeOptions, Endpoint, Message, PublisherOptions, QueueOptions, Target,
};
use amqp_testkit::net::free_ports;
use amqp_testkit::{Proxy, RabbitMq};
use captured::captured;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};

/// A node with a TLS port, and where its certificates are.
struct Node {
    node: RabbitMq,
    port: u16,
    folder: PathBuf,
}

fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| Node::start().expect("RabbitMQ starts with TLS"))
}

impl Node {
    fn start() -> Result<Self, Box<dyn Error>> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tls");
        fs::create_dir_all(&folder)?;
        certificates(&folder)?;
        let [port] = free_ports()?;
        let file = |name: &str| folder.join(name).display().to_string();
        let node = RabbitMq::builder()
            .config_line(format!("listeners.ssl.1 = 127.0.0.1:{port}"))
            .config_line(format!("ssl_options.cacertfile = {}", file("ca.pem")))
            .config_line(format!("ssl_options.certfile = {}", file("server.pem")))
            .config_line(format!("ssl_options.keyfile = {}", file("server.key")))
            .config_line("ssl_options.verify = verify_peer")
            .config_line("ssl_options.fail_if_no_peer_cert = true")
            .plugin("rabbitmq_auth_mechanism_ssl")
            .config_line("auth_mechanisms.1 = EXTERNAL")
            .config_line("auth_mechanisms.2 = PLAIN")
            .config_line("ssl_cert_login_from = common_name")
            .start()?;
        // The user that the client's certificate names.
        node.ctl(&["add_user", "client", "never used"])?;
        node.ctl(&["set_permissions", "client", "", ".*", ".*"])?;
        Ok(Self { node, port, folder })
    }

    /// A URI of the TLS port, with these parameters: `@` stands for the folder of the certificates.
    fn uri(&self, parameters: &str) -> String {
        let parameters = parameters.replace('@', &self.folder.display().to_string());
        format!("amqps://guest:guest@localhost:{}/%2f?{parameters}", self.port)
    }
}

/// An authority, and certificates of it for a server called localhost and for a client.
fn certificates(folder: &Path) -> Result<(), Box<dyn Error>> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "authority");
    fs::write(folder.join("ca.pem"), authority.self_signed(&authority_key)?.pem())?;
    let issuer = Issuer::new(authority, authority_key);
    for (name, usage) in [
        ("server", ExtendedKeyUsagePurpose::ServerAuth),
        ("client", ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages.push(usage);
        fs::write(folder.join(format!("{name}.pem")), params.signed_by(&key, &issuer)?.pem())?;
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
    }
    Ok(())
}

const GOOD: &str = "cacertfile=@/ca.pem&certfile=@/client.pem&keyfile=@/client.key";

/// Returns the text of the error of opening a URI, on each adapter.
fn failures(uri: &str) -> impl Iterator<Item = (&'static str, String)> {
    adapters::failures(uri).into_iter().map(|(name, error)| (name, format!("{error:?}")))
}

#[track_caller]
fn fails(uri: &str, text: &str) {
    for (name, error) in failures(uri) {
        assert!(error.contains(text), "{name}: {error}");
    }
}

#[test]
fn messages_of_all_sizes_pass() -> Outcome {
    for (name, open, run) in ADAPTERS {
        let uri = node().uri(GOOD);
        run(Box::pin(async move {
            let connection = open(captured(uri.parse()?)).await?;
            let channel = connection.open_channel().await?;
            let queue = channel.queue_declare("", QueueOptions::new().exclusive(true)).await?;
            let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
            let to = queue.name().to_string();
            let sizes = [0, 1, 20_000, 3_000_000, 5];
            let mut confirmations = Vec::new();
            for size in sizes {
                let body: Vec<u8> = (0..size).map(|byte: usize| byte as u8).collect();
                confirmations.push(publisher.publish_message(&to, &Message::new(body)).await?);
            }
            for confirmation in confirmations {
                confirmation.await?;
            }
            let mut consumer = queue.consume(ConsumeOptions::new()).await?;
            for size in sizes {
                let delivery = consumer.next().await.ok_or("cancelled")??;
                let expected = (0..size).map(|byte: usize| byte as u8);
                assert!(delivery.body().iter().copied().eq(expected), "{name}: {size} bytes");
                delivery.ack()?;
            }
            Ok(connection.close().await?)
        }))
        .map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

/// As one needs behind a proxy.
#[test]
fn a_session_can_run_over_a_custom_stream() -> Outcome {
    let target = captured(node().uri(GOOD).parse()?);
    let (tls, config) = (target.get_tls().ok_or("amqps means TLS")?, target.get_config());
    let at = (Ipv4Addr::LOCALHOST, node().port);
    tokio::runtime::Runtime::new()?.block_on(async {
        let stream = tokio::net::TcpStream::connect(at).await?;
        let (connection, driver) =
            amqp_client_tokio::connect_tls_over(stream, tls, "localhost", config.clone())?;
        tokio::spawn(driver);
        connection.ready().await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(connection.close().await?)
    })?;
    smol::block_on(async {
        let stream = smol::net::TcpStream::connect(at).await?;
        let (connection, driver) =
            amqp_client_smol::connect_tls_over(stream, tls, "localhost", config.clone())?;
        smol::spawn(driver).detach();
        connection.ready().await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(connection.close().await?)
    })?;
    let stream = std::net::TcpStream::connect(at)?;
    stream.set_nonblocking(true)?;
    let stream = mio::net::TcpStream::from_std(stream);
    let connection =
        amqp_client_blocking::connect_tls_over(stream, tls, "localhost", config.clone())?;
    connection.ready().wait()?;
    Ok(connection.close().wait()?)
}

/// The certificate identifies the client; no password is sent.
#[test]
fn a_certificate_logs_in() -> Outcome {
    for (name, open, run) in ADAPTERS {
        let uri = node().uri(&format!("{GOOD}&auth_mechanism=EXTERNAL"));
        run(Box::pin(async move {
            let connection = open(captured(uri.parse()?)).await?;
            // This user may publish, and must not declare.
            let channel = connection.open_channel().await?;
            let declared = channel.queue_declare("forbidden", QueueOptions::new()).await;
            let error = declared.expect_err("the user must not").to_string();
            assert!(error.contains("'client'"), "{error}");
            Ok(connection.close().await?)
        }))
        .map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

#[test]
fn a_cut_connection_recovers_with_tls() -> Outcome {
    for (name, open, run) in ADAPTERS {
        let uri = node().uri(GOOD);
        run(Box::pin(async move {
            let proxy = Proxy::start((Ipv4Addr::LOCALHOST, node().port).into())?;
            let target: Target = captured(uri.parse()?);
            let endpoint = target.get_endpoints().first().ok_or("no host")?;
            let endpoint = Endpoint::new(&endpoint.host, proxy.addr().port());
            let connection = open(target.endpoints([endpoint])).await?;
            assert_eq!(connection.peer_addr(), Some(proxy.addr()));
            let channel = connection.open_channel().await?;
            let queue = channel.queue_declare("", QueueOptions::new().exclusive(true)).await?;
            let mut events = connection.events();
            proxy.cut();
            while !matches!(events.next().await, Some(ConnectionEvent::Recovered(_)) | None) {}
            assert_eq!(queue.purge().await?, 0);
            Ok(connection.close().await?)
        }))
        .map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

#[test]
fn a_server_without_a_trusted_certificate_is_refused() {
    fails(
        &node().uri("certfile=@/client.pem&keyfile=@/client.key"),
        "an authority that is not trusted here",
    );
}

#[test]
fn a_server_of_another_name_is_refused_unless_that_name_is_set() {
    let other = format!("{GOOD}&server_name_indication=rabbitmq.example");
    fails(&node().uri(&other), "rabbitmq.example");
    // By address, the certificate does not fit; by its name, it does.
    let by_address = node().uri(GOOD).replace("localhost", &Ipv4Addr::LOCALHOST.to_string());
    fails(&by_address, "is not valid for 127.0.0.1, only for localhost");
    for (name, open, run) in ADAPTERS {
        let uri = format!("{by_address}&server_name_indication=localhost");
        let opened =
            run(Box::pin(async move { Ok(open(captured(uri.parse()?)).await?.close().await?) }));
        assert!(opened.is_ok(), "{name}: {opened:?}");
    }
}

#[test]
fn verification_can_be_turned_off() {
    for (name, open, run) in ADAPTERS {
        let uri = node().uri("verify=verify_none&certfile=@/client.pem&keyfile=@/client.key");
        let opened =
            run(Box::pin(async move { Ok(open(captured(uri.parse()?)).await?.close().await?) }));
        assert!(opened.is_ok(), "{name}: {opened:?}");
    }
}

#[test]
fn a_client_without_a_certificate_gets_the_reason() {
    for (name, error) in failures(&node().uri("cacertfile=@/ca.pem")) {
        // The reason comes in an alert, which may come too late to be read.
        let told =
            ["TLS: the broker requires a client certificate", "transport", "reset", "disconnected"];
        assert!(told.iter().any(|text| error.contains(text)), "{name}: {error}");
    }
}

#[test]
fn mistaken_ports_are_named() {
    let plain = node().node.addr().port();
    let uri = node().uri(GOOD).replace(&format!(":{}", node().port), &format!(":{plain}"));
    fails(&uri, "speaks AMQP without TLS");
    fails(&format!("amqp://localhost:{}", node().port), "speaks TLS");
}

#[test]
fn files_that_are_no_good_are_named() {
    fails(&node().uri("cacertfile=@/missing.pem"), "missing.pem");
    fails(&node().uri("cacertfile=@/server.key"), "contains no certificate");
    fails(&node().uri("certfile=@/client.pem"), "certfile is set without keyfile");
    let swapped = "cacertfile=@/ca.pem&certfile=@/client.pem&keyfile=@/client.pem";
    fails(&node().uri(swapped), "contains no private key");
    let foreign = "cacertfile=@/ca.pem&certfile=@/client.pem&keyfile=@/server.key";
    fails(&node().uri(foreign), "client.pem");
    fails(&node().uri(&format!("{GOOD}&password=secret")), "encrypted private keys");
}
